// What changed between two releases, each as the folder that build-uki wrote.
//
// A pure function of the two folders.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "shared/base/status.h"

namespace sealift::cli {

// Empty `before`: added; empty `after`: removed.
struct Change {
  std::string name;
  std::string before;
  std::string after;
};

struct ReleaseDiff {
  std::string version_a;
  std::string version_b;
  // Settings of the manifest: security_epoch, hardware_class, certificates, PCR keys, ...
  std::vector<Change> settings;
  // From the SBOMs, "type name" with its versions.
  std::vector<Change> packages;
  // Files of the release by path, with the beginning of their digest.
  std::vector<Change> files;
  // Files of the system's tree, from the frame indexes: likewise.
  std::vector<Change> system_files;
  // Sections of the main image that hold text: .cmdline, .uname, .osrel; of the others, the kernel among
  // them, the beginning of the digest.
  std::vector<Change> sections;
  // PCR 11 of the main image by phase.
  std::vector<Change> measurements;
};

// Errors: those of reading a release.json: FILE_UNREADABLE, RELEASE_MANIFEST_INVALID; of its files:
// RELEASE_FILE_MISSING, RELEASE_CHANGED, MALFORMED.
Result<ReleaseDiff> DiffReleases(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace sealift::cli
