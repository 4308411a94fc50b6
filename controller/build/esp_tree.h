// The release as files: what lies on an install medium's EFI system partition, and release.json beside it.
//
// Not thread-safe. The tree appears at its place whole or not at all.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "controller/build/output_folder.h"
#include "shared/release/manifest.h"

namespace sealift::build {

inline constexpr char kBootLoaderFile[] = "EFI/BOOT/BOOTX64.EFI";
inline constexpr char kLoaderConfFile[] = "loader/loader.conf";
inline constexpr char kManifestFile[] = "release.json";
// Beside the manifest, not on any ESP.
inline constexpr char kFrameIndexFile[] = "frames.json";
inline constexpr char kSbomFile[] = "sbom.spdx.json";

class EspTree {
 public:
  // Errors: those of CheckOutputFolder and OutputFolder.
  static Result<EspTree> Create(const std::filesystem::path& out);

  // Errors: FILE_UNWRITABLE, DISK_FULL.
  Status Write(const std::string& path, FileRole role, ByteView bytes,
               const Sha256Digest* authenticode = nullptr);
  // For a file that another writes: where it goes now (its folder is made), and that it is there.
  Result<std::filesystem::path> PlaceFor(const std::string& path);
  Status AddWritten(const std::string& path, FileRole role, const Sha256Digest* authenticode = nullptr);
  // Everything written so far, as the manifest lists it.
  const std::vector<ReleaseFile>& files() const { return files_; }
  // Of them, what an EFI system partition holds.
  std::uint64_t total_bytes() const;

  // Writes release.json with `manifest`, whose files are set to those written, and moves the tree to its
  // place, where an earlier release is replaced. Returns the manifest. Errors: FILE_NAME_CLASH;
  // RELEASE_MANIFEST_INVALID for one that its readers would refuse; FILE_UNWRITABLE, DISK_FULL.
  Result<Manifest> Commit(Manifest manifest);

 private:
  explicit EspTree(OutputFolder folder) : folder_(std::move(folder)) {}

  void Add(ReleaseFile file, const Sha256Digest* authenticode);

  OutputFolder folder_;
  std::vector<ReleaseFile> files_;
};

// Whether `out` may be written to. Called before the long work starts. Errors: FAILED_PRECONDITION/
// OUTPUT_NOT_EMPTY for a folder with other things in it, a symbolic link, or what is no folder.
Status CheckOutputFolder(const std::filesystem::path& out);

}  // namespace sealift::build
