// Collections of one content folder: what stays is read from the metadata that nodes are served.
//
// Thread-safe, one collection at a time; safe beside other processes on the folders (content_lock.h), so that
// a command may collect while the daemon runs.
#pragma once

#include <chrono>
#include <filesystem>
#include <mutex>

#include "controller/publish/content_collector.h"
#include "controller/publish/content_store.h"
#include "shared/base/status.h"
#include "shared/tuf/metadata.h"

namespace sealift::controller {

// The targets that the timestamp in `directory` leads to, each file being the one that the file before lists;
// so a damaged one makes nothing look unused. Signatures are not asked for: whoever can change the folder
// needs no collection to remove content.
// Errors: NOT_FOUND/REPOSITORY_EMPTY before the first publication; DATA_LOSS/REPOSITORY_DAMAGED.
Result<tuf::Targets> ServedTargets(const std::filesystem::path& directory);

class ContentKeeper {
 public:
  // `content_directory` is that of `store`, which is borrowed; `metadata_directory` that of the repository.
  ContentKeeper(std::filesystem::path content_directory, std::filesystem::path metadata_directory,
                ContentStore& store, std::chrono::milliseconds grace)
      : content_directory_(std::move(content_directory)),
        metadata_directory_(std::move(metadata_directory)),
        store_(store),
        grace_(std::chrono::duration_cast<std::chrono::seconds>(grace)) {}

  // `dry_run`: counts only. Errors: those of ServedTargets, ReachableContent and CollectContent.
  Result<Collected> Collect(bool dry_run);

 private:
  const std::filesystem::path content_directory_;
  const std::filesystem::path metadata_directory_;
  ContentStore& store_;
  const std::chrono::seconds grace_;
  std::mutex collecting_;
};

}  // namespace sealift::controller
