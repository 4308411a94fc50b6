#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "node-agent/esp/file_system.h"
#include "shared/base/files.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kPieceBytes = 256u << 10;

Status IoError(std::string_view verb, std::string_view path, std::string_view call, int error_number) {
  const std::string message = fmt::format("{} '{}' on the ESP", verb, path);
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return ErrnoError(Code::kNotFound, Reason::kFileUnreadable, message, call, error_number);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return ErrnoError(Code::kResourceExhausted, Reason::kEspFull, message, call, error_number);
    default:
      return ErrnoError(Code::kUnavailable, Reason::kEspIo, message, call, error_number);
  }
}

class PosixFileWriter final : public FileWriter {
 public:
  PosixFileWriter(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  Status Write(ByteView bytes) override {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_.get(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return IoError("write", path_, "write", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return OkStatus();
  }

  Status Sync() override {
    // As for directories: the table before the slot that leads into it.
    if (::syncfs(fd_.get()) != 0) return IoError("sync", path_, "syncfs", errno);
    if (::fsync(fd_.get()) != 0) return IoError("sync", path_, "fsync", errno);
    return OkStatus();
  }

 private:
  UniqueFd fd_;
  std::string path_;
};

struct DirCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

}  // namespace

Result<std::vector<DirectoryEntry>> PosixFileSystem::List(std::string_view directory) {
  SEALIFT_RETURN_IF_ERROR(CheckPath(directory));
  const std::unique_ptr<DIR, DirCloser> open(::opendir((root_ / directory).c_str()));
  if (open == nullptr) return IoError("list", directory, "opendir", errno);
  std::vector<DirectoryEntry> entries;
  while (true) {
    errno = 0;
    const dirent* found = ::readdir(open.get());
    if (found == nullptr) {
      if (errno != 0) return IoError("list", directory, "readdir", errno);
      break;
    }
    const std::string name = found->d_name;
    if (name == "." || name == "..") continue;
    struct stat info {};
    if (::fstatat(::dirfd(open.get()), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      // A folder that a cut left without its cluster: nobody can use or remove it, and the others are whole.
      if (errno == EIO) continue;
      return IoError("look at", name, "fstatat", errno);
    }
    entries.push_back({.name = name,
                       .size = static_cast<std::uint64_t>(info.st_size),
                       .is_directory = S_ISDIR(info.st_mode)});
  }
  std::sort(entries.begin(), entries.end(),
            [](const DirectoryEntry& a, const DirectoryEntry& b) { return a.name < b.name; });
  return entries;
}

Status PosixFileSystem::ReadPieces(std::string_view path, const std::function<Status(ByteView)>& sink) {
  SEALIFT_RETURN_IF_ERROR(CheckPath(path));
  const UniqueFd fd(::open((root_ / path).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return IoError("read", path, "open", errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return IoError("read", path, "fstat", errno);
  if (!S_ISREG(info.st_mode)) return IoError("read", path, "open", EISDIR);
  // Clean cached pages go, so that what is read back comes from the device; pages still dirty stay, as they
  // must.
  if (const int error = ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED); error != 0) {
    return IoError("read", path, "posix_fadvise", error);
  }
  std::vector<std::uint8_t> piece(kPieceBytes);
  while (true) {
    const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError("read", path, "read", errno);
    if (got == 0) return OkStatus();
    SEALIFT_RETURN_IF_ERROR(sink(ByteView(piece).first(static_cast<std::size_t>(got))));
  }
}

Result<std::unique_ptr<FileWriter>> PosixFileSystem::Create(std::string_view path) {
  SEALIFT_RETURN_IF_ERROR(CheckPath(path));
  UniqueFd fd(::open((root_ / path).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) return IoError("create", path, "open", errno);
  return std::make_unique<PosixFileWriter>(std::move(fd), std::string(path));
}

Status PosixFileSystem::Rename(std::string_view from, std::string_view to) {
  SEALIFT_RETURN_IF_ERROR(CheckPath(from));
  SEALIFT_RETURN_IF_ERROR(CheckPath(to));
  if (std::rename((root_ / from).c_str(), (root_ / to).c_str()) != 0) {
    return IoError("rename", from, "rename", errno);
  }
  return OkStatus();
}

Status PosixFileSystem::Remove(std::string_view path) {
  SEALIFT_RETURN_IF_ERROR(CheckPath(path));
  if (::unlink((root_ / path).c_str()) != 0) return IoError("remove", path, "unlink", errno);
  return OkStatus();
}

Status PosixFileSystem::RemoveDirectory(std::string_view path) {
  SEALIFT_RETURN_IF_ERROR(CheckPath(path));
  if (::rmdir((root_ / path).c_str()) != 0) return IoError("remove", path, "rmdir", errno);
  return OkStatus();
}

Status PosixFileSystem::MakeDirectory(std::string_view path) {
  SEALIFT_RETURN_IF_ERROR(CheckPath(path));
  std::error_code error;
  std::filesystem::create_directories(root_ / path, error);
  if (error) return IoError("make directory", path, "mkdir", error.value());
  return OkStatus();
}

Status PosixFileSystem::SyncDirectory(std::string_view path) {
  SEALIFT_RETURN_IF_ERROR(CheckPath(path));
  const UniqueFd fd(::open((root_ / path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return IoError("sync", path, "open", errno);
  // vfat's fsync of a directory leaves out table blocks that renames in it dirtied; syncfs writes all, but
  // only fsync tells the disk to flush its cache, so that it comes last. The partition is small.
  if (::syncfs(fd.get()) != 0) return IoError("sync", path, "syncfs", errno);
  if (::fsync(fd.get()) != 0) return IoError("sync", path, "fsync", errno);
  return OkStatus();
}

Result<std::uint64_t> PosixFileSystem::FreeBytes() {
  struct statvfs info {};
  if (::statvfs(root_.c_str(), &info) != 0) return IoError("measure free space of", ".", "statvfs", errno);
  return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace sealift::agent
