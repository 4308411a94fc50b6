// Files: whole reads with a bound, writes that survive a power cut, and temporary folders.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift {

// Owns a file descriptor. Move-only.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd();

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Where a failed close means lost data.
  Status Close();

 private:
  int fd_ = -1;
};

inline constexpr std::uint64_t kDefaultMaxFileBytes = 64ull << 20;

// The whole file. Errors: NOT_FOUND or PERMISSION_DENIED with FILE_UNREADABLE; FILE_TOO_LARGE above
// `max_bytes`.
Result<Bytes> ReadFile(const std::filesystem::path& path, std::uint64_t max_bytes = kDefaultMaxFileBytes);
Result<std::string> ReadTextFile(const std::filesystem::path& path,
                                 std::uint64_t max_bytes = kDefaultMaxFileBytes);

// Writes all of `bytes` at the descriptor's position; `path` is for the message. Errors: FILE_UNWRITABLE,
// DISK_FULL.
Status WriteAll(int fd, const std::filesystem::path& path, ByteView bytes);

// Replaces `path` so that after a power cut it holds the old or the new bytes, never a mixture:
// temporary file beside it, write, fsync, rename, fsync of the directory.
Status WriteFileAtomically(const std::filesystem::path& path, ByteView bytes, mode_t mode = 0644);
// fsync of a directory, which makes a rename in it durable.
Status SyncDirectory(const std::filesystem::path& directory);
Status MakeDirectories(const std::filesystem::path& path, mode_t mode = 0755);

// Refuses a secret file that group or others may read or write, one not owned by this user or root, and a
// link. Errors: FAILED_PRECONDITION/PERMISSIONS_TOO_LOOSE, FILE_UNREADABLE.
Status CheckSecretFile(const std::filesystem::path& path);

// A folder under $TMPDIR that goes away, with what is in it, when this does.
class TempDir {
 public:
  static Result<TempDir> Create(std::string_view prefix);
  TempDir(TempDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TempDir& operator=(TempDir&& other) noexcept;
  ~TempDir();
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TempDir(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace sealift
