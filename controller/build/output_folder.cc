#include "controller/build/output_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace sealift::build {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPartial = ".partial-";
constexpr int kMaxAttempts = 100;

Status Unwritable(const fs::path& place, std::string_view call, int error) {
  return ErrnoError(Code::kFailedPrecondition, error == ENOSPC ? Reason::kDiskFull : Reason::kFileUnwritable,
                    fmt::format("write to '{}'", place.string()), call, error);
}

UniqueFd Locked(const fs::path& folder) {
  UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (fd.valid() && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  return {};
}

// Whether the locked folder is still the one of that name.
bool IsAt(const UniqueFd& folder, const std::string& path) {
  struct stat held {};
  struct stat there {};
  return ::fstat(folder.get(), &held) == 0 && ::lstat(path.c_str(), &there) == 0 &&
         held.st_dev == there.st_dev && held.st_ino == there.st_ino;
}

// What builds left that were killed: nobody holds its lock.
void RemoveAbandoned(const fs::path& folder, const std::string& prefix) {
  std::error_code error;
  for (const auto& item : fs::directory_iterator(folder, error)) {
    if (!item.path().filename().string().starts_with(prefix)) continue;
    const UniqueFd lock = Locked(item.path());
    if (lock.valid()) fs::remove_all(item.path(), error);
  }
}

}  // namespace

Result<OutputFolder> OutputFolder::Create(const fs::path& place) {
  fs::path clean = fs::absolute(place).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(clean.parent_path()));
  const std::string prefix = fmt::format(".{}{}", clean.filename().string(), kPartial);
  RemoveAbandoned(clean.parent_path(), prefix);
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    std::string made = (clean.parent_path() / (prefix + "XXXXXX")).string();
    if (::mkdtemp(made.data()) == nullptr) return Unwritable(clean, "mkdtemp", errno);
    ::chmod(made.c_str(), 0755);
    UniqueFd lock = Locked(made);
    if (lock.valid() && IsAt(lock, made))
      return OutputFolder(std::move(clean), std::move(made), std::move(lock));
    // Another build came between, took it for abandoned and removes it.
    std::error_code ignored;
    fs::remove_all(made, ignored);
  }
  return Unwritable(clean, "flock", EAGAIN);
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

Status OutputFolder::Commit() {
  SEALIFT_RETURN_IF_ERROR(SyncDirectory(path_));
  // An empty folder is replaced by rename itself; one with an earlier result changes places with the new one.
  if (::rename(path_.c_str(), place_.c_str()) == 0) {
    path_.clear();
  } else if (errno != ENOTEMPTY && errno != EEXIST) {
    return Unwritable(place_, "rename", errno);
  } else if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, place_.c_str(), RENAME_EXCHANGE) != 0) {
    return Unwritable(place_, "renameat2", errno);
  }
  return SyncDirectory(place_.parent_path());
}

Status OutputFolder::CommitFile(const std::string& name) {
  const fs::path target = place_.parent_path() / name;
  const UniqueFd file(::open((path_ / name).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file.valid()) return Unwritable(target, "open", errno);
  if (::fsync(file.get()) != 0) return Unwritable(target, "fsync", errno);
  if (::rename((path_ / name).c_str(), target.c_str()) != 0) return Unwritable(target, "rename", errno);
  return SyncDirectory(place_.parent_path());
}

}  // namespace sealift::build
