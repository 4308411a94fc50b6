// What goes onto a medium: files on disk and where they lie there. Plain values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::media {

struct MediaFile {
  // With forward slashes, relative: "EFI/BOOT/BOOTX64.EFI".
  std::string path;
  std::filesystem::path source;
};

// Every file below `folder`, sorted by path, under `prefix` ("" or "keys/"). Errors:
// INVALID_ARGUMENT/INVALID_ARGUMENT for a link, a device or another thing that is neither file nor folder:
// what it leads to is not known where the medium is read; NOT_FOUND/FILE_UNREADABLE.
Result<std::vector<MediaFile>> ListFiles(const std::filesystem::path& folder, const std::string& prefix = {});

// Same files, same bytes: all that a format would take from the clock or a random source.
struct Stamp {
  // Time of every file, whole seconds.
  UnixMillis time;
  // From the content: 16 bytes in hex; parts of it become volume ids and GUIDs.
  std::string id;
};

}  // namespace sealift::media
