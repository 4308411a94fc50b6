// A release as a folder that travels to where no line leads, and back into a controller there.
//
//   sealift-release.json   {"channel":"...","format":1,"metadata":{"1.root.json":HEX,...},"version":"..."},
//   the
//                          SHA-256 of each metadata file; nlohmann's dump(2) and a newline, byte for byte
//   metadata/<name>        every root, timestamp, snapshot and targets, as the controller served them
//   objects/<64 hex>       the release's files, its content list and what that names, and the manifest of
//                          every release that the targets list
//
// Nothing else lies in it. The signatures are those of the controller it came from: decision 0104.
// Thread-safe functions.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "controller/publish/release_publisher.h"
#include "controller/publish/tuf_repository.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"
#include "shared/release/release_targets.h"

namespace sealift::controller {

struct ExportRequest {
  std::string channel;
  std::string version;
  // Made by this; must not be there. What a failed export leaves has the name with ".partial" behind it.
  std::filesystem::path folder;
  // Bytes so far, and all of them.
  std::function<void(std::uint64_t, std::uint64_t)> progress = {};
};

struct ExportedRelease {
  ListedRelease release;
  std::uint32_t targets_version = 0;
  std::size_t objects = 0;
  std::uint64_t bytes = 0;
};

// Takes the metadata through the TUF client workflow from `trusted_root` on, and every object is checked.
// Errors: TUF_ reasons; NOT_FOUND/TUF_TARGET_UNKNOWN; FAILED_PRECONDITION/RELEASE_WITHDRAWN;
// ALREADY_EXISTS/FILE_UNWRITABLE; those of Download and of the uploader.
Result<ExportedRelease> ExportRelease(const ExportRequest& request, std::string_view trusted_root,
                                      Uploader& from, const Clock& clock);

// An exported release that proved itself whole. Only OpenReleaseFolder makes one.
class ReleaseFolder {
 public:
  const ListedRelease& release() const { return release_; }
  const ReleaseImport& metadata() const { return metadata_; }
  // In the folder.
  const std::vector<UploadObject>& objects() const { return objects_; }
  std::uint64_t bytes() const;
  std::uint32_t targets_version() const { return targets_version_; }

 private:
  friend class FolderCheck;
  ReleaseFolder() = default;
  ListedRelease release_;
  ReleaseImport metadata_;
  std::vector<UploadObject> objects_;
  std::uint32_t targets_version_ = 0;
};

// Proves all of it: the metadata by the TUF client workflow from the importing side's own `trusted_root` on,
// at the time the timestamp was signed (it is old when it arrives; that the targets still hold is for the
// controller to say); every object by digest and size; that nothing is missing and nothing is there beside.
// Errors: TUF_ reasons; INVALID_ARGUMENT/RELEASE_ARCHIVE_INVALID; FAILED_PRECONDITION/RELEASE_WITHDRAWN.
Result<ReleaseFolder> OpenReleaseFolder(const std::filesystem::path& folder, std::string_view trusted_root);

struct ImportedRelease {
  UploadResult upload;
  PublishedVersions versions;
};

// Errors: those of the uploader. After a failure it may be repeated.
Result<ImportedRelease> ImportReleaseFolder(
    const ReleaseFolder& folder, Uploader& to,
    const std::function<void(std::uint64_t, std::uint64_t)>& progress);

}  // namespace sealift::controller
