// The state folder on the mounted state partition: /usr/local/.state/sealift on a node.
//
// Holds state.db, and for others "tuf" (trusted metadata), "content" and "manifests" (downloads). Not
// thread-safe.
#pragma once

#include <filesystem>

#include "node-agent/update/seams.h"

namespace sealift::agent {

class MountedStatePlace final : public StatePlace {
 public:
  // `mount_point` must be a mounted file system that outlives a boot, `directory` lies below it.
  MountedStatePlace(std::filesystem::path mount_point, std::filesystem::path directory)
      : mount_point_(std::move(mount_point)), directory_(std::move(directory)) {}

  // FAILED_PRECONDITION/STATE_MISSING when nothing is mounted there, or a file system in memory, or when one
  // of the folders from there on is a link or anything else than a folder.
  Status CheckMounted() override;
  // Makes the folder (mode 0700). What is put aside becomes state.db.aside and replaces what lay there.
  Result<Opened> Open() override;

  std::filesystem::path database_file() const { return directory_ / "state.db"; }
  std::filesystem::path metadata_directory() const { return directory_ / "tuf"; }
  std::filesystem::path content_directory() const { return directory_ / "content"; }
  std::filesystem::path parts_directory() const { return directory_ / "parts"; }
  std::filesystem::path manifests_directory() const { return directory_ / "manifests"; }

 private:
  Status CheckFolders() const;
  Status PutAside();

  std::filesystem::path mount_point_;
  std::filesystem::path directory_;
};

}  // namespace sealift::agent
