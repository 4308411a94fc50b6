#include "shared/base/untrusted_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "shared/base/read_loop.h"

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
  return ReadToEnd(fd.get(), path, static_cast<std::uint64_t>(info.st_size), max_bytes,
                   [&](int error) { return ReadError(path, "read", error); });
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
