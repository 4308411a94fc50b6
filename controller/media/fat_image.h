// A FAT32 file system in a file, made with mkfs.vfat and mtools: the EFI system partition of a medium.
//
// Needs no root and mounts nothing. Not thread-safe per output.
#pragma once

#include <filesystem>
#include <vector>

#include "controller/media/media_file.h"

namespace sealift::media {

// Writes the image: as large as the files need, at least 64 MiB (FAT32 has a lower limit), a multiple of 1
// MiB. Same files and stamp give the same bytes. Errors: TOOL_MISSING, TOOL_FAILED; DISK_FULL,
// FILE_UNWRITABLE.
Status WriteFatImage(const std::filesystem::path& out, const std::vector<MediaFile>& files,
                     const Stamp& stamp);

}  // namespace sealift::media
