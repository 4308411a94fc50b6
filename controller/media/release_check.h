// Compares a release's files with its manifest: digests, and of EFI images what PCR 4 and 11 will measure.
//
// Offline and without keys: it finds what changed since the build, not who built it. Bounded memory.
// Thread-safe.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "shared/release/manifest.h"

namespace sealift::media {

struct CheckedFile {
  ReleaseFile file;
  // Empty: as the manifest says. Else "missing", "size", "digest", "authenticode", "sections", "entry".
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

// `skip`: roles that this place need not have. Errors: RELEASE_MANIFEST_INVALID; those of `file_at` but
// NOT_FOUND; FILE_UNREADABLE.
Result<CheckedRelease> CheckReleaseFiles(std::string_view manifest_json, const FileAt& file_at,
                                         const std::vector<FileRole>& skip = {});

}  // namespace sealift::media
