// Compares a release's files with its manifest: digests, and of EFI images what PCR 4 and 11 will measure.
//
// Offline and without keys: it finds what changed since the build, not who built it. Bounded memory.
// Thread-safe.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "shared/release/manifest.h"

namespace sealift::media {

struct CheckedFile {
  ReleaseFile file;
  // Empty: as the manifest says. Else "missing", "size", "digest", "authenticode", "sections", "pcr11",
  // "entry".
  std::string problem;
};

struct CheckedRelease {
  Manifest manifest;
  ReleaseId id;
  std::vector<CheckedFile> files;
  // Files that are there although no manifest names them.
  std::vector<std::string> unlisted;
  bool good() const;
};

// Where the file of that path can be read now; NOT_FOUND when there is none. The file is used before the next
// call.
using FileAt = std::function<Result<std::filesystem::path>(const std::string& path)>;

// `skip`: roles that this place need not have. Of an image every section that its stub measures must be
// listed with its digest, and PCR 11 must follow from them; the SHA-384 bank and addons are not looked at.
// Errors: RELEASE_MANIFEST_INVALID; those of `file_at` but NOT_FOUND; FILE_UNREADABLE;
// DEADLINE_EXCEEDED/TIMEOUT when there was more to read than `deadline` allows.
Result<CheckedRelease> CheckReleaseFiles(std::string_view manifest_json, const FileAt& file_at,
                                         const std::vector<FileRole>& skip,
                                         std::chrono::steady_clock::time_point deadline);

}  // namespace sealift::media
