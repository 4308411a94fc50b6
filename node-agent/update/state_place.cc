#include "node-agent/update/state_place.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

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
  for (const char* suffix : {"-wal", "-shm", ""}) {
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
