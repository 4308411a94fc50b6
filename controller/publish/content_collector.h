// Removes from a content store what nothing refers to any more.
//
// Reachable are all targets, and of each content list among them what it and its indexes name. An object that
// was written or asked for within the grace period stays, so that a publication under way loses nothing:
// ContentStore::Has, which an upload asks first, renews it. Thread-safe, and safe beside other processes on
// the folder (content_lock.h). A killed collection leaves nothing to mend.
#pragma once

#include <chrono>
#include <filesystem>
#include <set>
#include <vector>

#include "controller/publish/content_store.h"
#include "shared/base/status.h"
#include "shared/tuf/metadata.h"

namespace sealift::controller {

// Errors: those of ContentStore::ReadAll and of the parsers, for a list or index that is in the store and
// cannot be read; then nothing may be collected. One that is not there is what a killed publication left.
Result<std::set<Sha256Digest>> ReachableContent(const std::vector<tuf::Targets>& targets,
                                                ContentStore& store);

struct Collected {
  std::uint64_t objects = 0;
  std::uint64_t bytes = 0;
  // Unreachable, but within the grace period.
  std::uint64_t kept = 0;
};

// `directory`: that of the store. `dry_run`: counts what would go. Errors: FILE_UNREADABLE, FILE_UNWRITABLE.
Result<Collected> CollectContent(const std::filesystem::path& directory,
                                 const std::set<Sha256Digest>& reachable, std::chrono::seconds grace,
                                 bool dry_run = false);

}  // namespace sealift::controller
