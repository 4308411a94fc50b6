#include "shared/base/untrusted_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace sealift {
namespace {

namespace fs = std::filesystem;

Status ReadError(const fs::path& path, std::string_view call, int error) {
  const Code code = error == ENOENT   ? Code::kNotFound
                    : error == EACCES ? Code::kPermissionDenied
                    : error == ELOOP  ? Code::kFailedPrecondition
                                      : Code::kUnavailable;
  return ErrnoError(code, Reason::kFileUnreadable, fmt::format("read '{}'", path.string()), call, error);
}

}  // namespace

Result<UniqueFd> OpenRegularFile(const fs::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) return ReadError(path, "open", errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ReadError(path, "fstat", errno);
  if (S_ISREG(info.st_mode)) return fd;
  return MakeError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                   fmt::format("read '{}': it is not a regular file", path.string()));
}

Result<Bytes> ReadRegularFile(const fs::path& path, std::uint64_t max_bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenRegularFile(path));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ReadError(path, "fstat", errno);
  // One byte more than it says: an end that is met, or a file that grows.
  const std::uint64_t said = static_cast<std::uint64_t>(info.st_size);
  Bytes bytes(static_cast<std::size_t>(std::min(said, max_bytes)) + 1);
  std::size_t size = 0;
  while (true) {
    const ssize_t got = ::read(fd.get(), bytes.data() + size, bytes.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ReadError(path, "read", errno);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size > max_bytes) {
      return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                       fmt::format("read '{}': larger than {} bytes", path.string(), max_bytes));
    }
    if (size == bytes.size()) bytes.resize(bytes.size() * 2);
  }
  bytes.resize(size);
  return bytes;
}

Result<std::string> ReadRegularTextFile(const fs::path& path, std::uint64_t max_bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadRegularFile(path, max_bytes));
  return ToText(bytes);
}

Status RemoveAnything(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (!error) return OkStatus();
  return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("remove '{}'", path.string()),
                    "remove", error.value());
}

Status RemoveUnlessRegular(const fs::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode)) return OkStatus();
  return RemoveAnything(path);
}

}  // namespace sealift
