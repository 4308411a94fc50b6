// Backups of a controller: database, content, published metadata and signing journal; no key.
//
//   OUT/backup.json            what belongs to it, with digests; written last
//   OUT/state/...              as in state_dir: controller.db, evidence/, tuf/, content/
//   OUT/journal/...            the signing journal
//
// A backup is taken while the controller runs, from another process. The database is copied first and content
// last, so that everything that is named is there. Plain functions; used by one thread.
#pragma once

#include <cstdint>
#include <filesystem>

#include "controller/app/config.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::controller {

struct BackupSummary {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
  // Of the metadata in it; 0 when nothing was published.
  std::uint32_t timestamp_version = 0;
  std::uint32_t snapshot_version = 0;
  std::uint32_t targets_version = 0;
};

// `out` must not exist; it is there when all of it is durable, or not at all.
// Errors: ALREADY_EXISTS/FILE_UNWRITABLE; STORE_FAILED; FILE_UNREADABLE, FILE_UNWRITABLE, DISK_FULL;
// DATA_LOSS/REPOSITORY_DAMAGED.
Result<BackupSummary> BackUp(const ControllerConfig& config, const std::filesystem::path& out,
                             const Clock& clock);

struct RestoreOptions {
  // Metadata versions that nodes may have seen since the backup; the restored ones go above. Whatever is
  // given, they go a million above those of the backup.
  std::uint32_t seen_version = 0;
};

// Verifies the whole backup, then fills the empty state_dir at once. What was open is void (VoidWhatWasOpen),
// and the controller signs snapshot and timestamp above all versions seen when it starts.
// Errors: INVALID_ARGUMENT/BACKUP_INVALID naming the first file that is wrong;
// FAILED_PRECONDITION/RESTORE_REFUSED when state_dir or journal is there; STORE_FAILED; FILE_UNWRITABLE,
// DISK_FULL. Nothing was changed then.
Result<BackupSummary> Restore(const ControllerConfig& config, const std::filesystem::path& backup,
                              const RestoreOptions& options, const Clock& clock);

}  // namespace sealift::controller
