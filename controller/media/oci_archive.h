// A container image as one tar file that is an OCI image layout and what `docker save` writes at once: one
// layer with the given files. Registries and mirrors carry a release so; nothing ever runs in it.
//
// OCI image specification 1.0: image-layout.md, manifest.md, config.md. Not thread-safe per output.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "controller/media/media_file.h"

namespace sealift::media {

struct OciImage {
  // "kairos:1.2.0": name and tag.
  std::string reference;
  std::string version;
  std::vector<MediaFile> files;
};

// `work`: an empty folder with room for the layer. Same files and stamp give the same bytes. Errors:
// FILE_UNREADABLE, FILE_UNWRITABLE, DISK_FULL.
Status WriteOciArchive(const std::filesystem::path& out, const std::filesystem::path& work,
                       const OciImage& image, const Stamp& stamp);

}  // namespace sealift::media
