#include "shared/base/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "shared/base/read_loop.h"

namespace sealift {
namespace {

namespace fs = std::filesystem;

Status ReadError(const fs::path& path, std::string_view call, int error) {
  const Code code = error == ENOENT   ? Code::kNotFound
                    : error == EACCES ? Code::kPermissionDenied
                                      : Code::kUnavailable;
  return ErrnoError(code, Reason::kFileUnreadable, fmt::format("read '{}'", path.string()), call, error);
}

Status WriteError(const fs::path& path, std::string_view call, int error) {
  return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", path.string()),
                    call, error);
}

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) ::close(fd_);
}

Status UniqueFd::Close() {
  if (fd_ >= 0 && ::close(std::exchange(fd_, -1)) != 0) {
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, "close file", "close", errno);
  }
  return OkStatus();
}

Result<Bytes> ReadFile(const fs::path& path, std::uint64_t max_bytes) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ReadError(path, "open", errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ReadError(path, "fstat", errno);
  if (S_ISDIR(info.st_mode)) return ReadError(path, "read", EISDIR);
  const std::uint64_t said = S_ISREG(info.st_mode) ? static_cast<std::uint64_t>(info.st_size) : 0;
  if (said > max_bytes) return TooLargeToRead(path, max_bytes);
  return ReadToEnd(fd.get(), path, said, max_bytes,
                   [&](int error) { return ReadError(path, "read", error); });
}

Result<std::string> ReadTextFile(const fs::path& path, std::uint64_t max_bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, max_bytes));
  return ToText(bytes);
}

Status SyncDirectory(const fs::path& directory) {
  const UniqueFd fd(::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return WriteError(directory, "open", errno);
  if (::fsync(fd.get()) != 0) return WriteError(directory, "fsync", errno);
  return OkStatus();
}

Status WriteAll(int fd, const fs::path& path, ByteView bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return WriteError(path, "write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return OkStatus();
}

Status WriteFileAtomically(const fs::path& path, ByteView bytes, mode_t mode) {
  std::string temporary = (path.parent_path() / fmt::format(".{}.XXXXXX", path.filename().string())).string();
  UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd.valid()) return WriteError(path, "mkostemp", errno);
  const auto write = [&]() -> Status {
    SEALIFT_RETURN_IF_ERROR(WriteAll(fd.get(), path, bytes));
    if (::fchmod(fd.get(), mode) != 0) return WriteError(path, "fchmod", errno);
    if (::fsync(fd.get()) != 0) return WriteError(path, "fsync", errno);
    SEALIFT_RETURN_IF_ERROR(fd.Close());
    if (::rename(temporary.c_str(), path.c_str()) != 0) return WriteError(path, "rename", errno);
    return SyncDirectory(path.parent_path());
  };
  Status status = write();
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

Status MakeDirectories(const fs::path& path, mode_t mode) {
  if (path.empty()) return OkStatus();
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0)
    return S_ISDIR(info.st_mode) ? OkStatus() : WriteError(path, "mkdir", ENOTDIR);
  if (path.has_parent_path() && path.parent_path() != path)
    SEALIFT_RETURN_IF_ERROR(MakeDirectories(path.parent_path(), mode));
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return WriteError(path, "mkdir", errno);
  return OkStatus();
}

Status CheckSecretFile(const fs::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return ReadError(path, "lstat", errno);
  const auto loose = [&](std::string_view why) {
    return MakeError(Code::kFailedPrecondition, Reason::kPermissionsTooLoose,
                     fmt::format("read secret '{}': {}", path.string(), why));
  };
  if (!S_ISREG(info.st_mode)) return loose("not a regular file");
  if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0) return loose("group or others have access");
  if (info.st_uid != ::geteuid() && info.st_uid != 0) return loose("owned by another user");
  return OkStatus();
}

Result<TempDir> TempDir::Create(std::string_view prefix) {
  std::error_code error;
  const fs::path base = fs::temp_directory_path(error);
  std::string pattern = ((error ? fs::path("/tmp") : base) / fmt::format("{}.XXXXXX", prefix)).string();
  if (::mkdtemp(pattern.data()) == nullptr) return WriteError(pattern, "mkdtemp", errno);
  return TempDir(fs::path(pattern));
}

TempDir& TempDir::operator=(TempDir&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

TempDir::~TempDir() {
  if (path_.empty()) return;
  std::error_code ignored;  // A left-over temporary folder harms nobody.
  fs::remove_all(path_, ignored);
}

}  // namespace sealift
