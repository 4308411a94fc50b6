#include "node-agent/update/state_place.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>

#include "node-agent/update/state_store_sqlite.h"
#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;

Status Missing(const fs::path& mount_point, std::string_view why) {
  return MakeError(Code::kFailedPrecondition, Reason::kStateMissing,
                   fmt::format("use the state partition at '{}': {}", mount_point.string(), why));
}

bool IsUnusable(const Status& status) {
  return ReasonOf(status) == Reason::kStateCorrupt || ReasonOf(status) == Reason::kStateTooNew;
}

// A folder below another; invalid when there is none yet.
Result<UniqueFd> Enter(const UniqueFd& above, const fs::path& name, const fs::path& whole) {
  UniqueFd fd(::openat(above.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (fd.valid() || errno == ENOENT) return fd;
  return MakeError(
      Code::kFailedPrecondition, Reason::kStateMissing,
      fmt::format("use the state folder '{}': '{}' in it is no folder", whole.string(), name.string()));
}

// Opens the database and reads all of it, so that nothing malformed is found later.
Result<std::unique_ptr<StateStore>> OpenWhole(const fs::path& file) {
  SEALIFT_ASSIGN_OR_RETURN(std::unique_ptr<StateStore> store, SqliteStateStore::Open(file));
  SEALIFT_RETURN_IF_ERROR(store->Load().status());
  return store;
}

}  // namespace

Status MountedStatePlace::CheckMounted() {
  struct stat here {};
  struct stat above {};
  if (lstat(mount_point_.c_str(), &here) != 0 || stat((mount_point_ / "..").c_str(), &above) != 0) {
    return Missing(mount_point_, "there is no such directory");
  }
  if (!S_ISDIR(here.st_mode) || here.st_dev == above.st_dev)
    return Missing(mount_point_, "nothing is mounted there");
  struct statfs kind {};
  if (statfs(mount_point_.c_str(), &kind) != 0) return Missing(mount_point_, "it cannot be examined");
  if (kind.f_type == TMPFS_MAGIC || kind.f_type == RAMFS_MAGIC) {
    return Missing(mount_point_, "what is mounted there does not outlive a boot");
  }
  return CheckFolders();
}

// The partition is not trusted: a link in place of a folder would have files removed elsewhere.
Status MountedStatePlace::CheckFolders() const {
  const fs::path below = directory_.lexically_relative(mount_point_);
  const bool inside = !below.empty() && *below.begin() != "..";
  const fs::path start = inside ? mount_point_ : directory_.parent_path();
  UniqueFd at(::open(start.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!at.valid()) return OkStatus();
  for (const fs::path& name : inside ? below : directory_.filename()) {
    if (name.empty() || name == ".") continue;
    SEALIFT_ASSIGN_OR_RETURN(at, Enter(at, name, directory_));
    if (!at.valid()) return OkStatus();
  }
  for (const fs::path& folder :
       {metadata_directory(), content_directory(), parts_directory(), manifests_directory()}) {
    SEALIFT_RETURN_IF_ERROR(Enter(at, folder.filename(), directory_).status());
  }
  return OkStatus();
}

Result<StatePlace::Opened> MountedStatePlace::Open() {
  if (const Status made = MakeDirectories(directory_, 0700); !made.ok()) {
    return MakeError(Code::kUnavailable, Reason::kStateIo, MessageOf(made));
  }
  Opened opened;
  auto store = OpenWhole(database_file());
  if (!store.ok() && IsUnusable(store.status())) {
    opened.put_aside = store.status();
    log::Warning("update state put aside",
                 {{"path", database_file().string()}, {"error", Describe(store.status())}});
    SEALIFT_RETURN_IF_ERROR(PutAside());
    store = OpenWhole(database_file());
  }
  SEALIFT_RETURN_IF_ERROR(store.status());
  opened.store = *std::move(store);
  return opened;
}

Status MountedStatePlace::PutAside() {
  std::error_code error;
  // The log goes first: without it the database beside it is only older, never mixed with a foreign log.
  for (const char* suffix : {"-wal", "-shm", "-journal", ""}) {
    const fs::path from = database_file().string() + suffix;
    const fs::path to = database_file().string() + ".aside" + suffix;
    if (fs::symlink_status(from, error).type() == fs::file_type::not_found) continue;
    fs::remove_all(to, error);
    fs::rename(from, to, error);
    if (error) {
      return MakeError(Code::kUnavailable, Reason::kStateIo,
                       fmt::format("put update state '{}' aside: {}", from.string(), error.message()));
    }
  }
  return SyncDirectory(directory_);
}

}  // namespace sealift::agent
