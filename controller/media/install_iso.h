// The install medium: an ISO 9660 file system that firmware boots as a CD (El Torito) and, written to a stick
// or disk, as one (GPT with an EFI system partition). Made with xorriso.
//
// The EFI system partition is the file efiboot.img inside the file system, so both ways boot the same bytes.
// Not thread-safe per output.
#pragma once

#include <filesystem>
#include <vector>

#include "controller/media/media_file.h"

namespace sealift::media {

// The volume's label, by which an installer finds its medium.
inline constexpr char kIsoLabel[] = "UKI_ISO_INSTALL";
inline constexpr char kEspImageFile[] = "efiboot.img";

struct IsoContents {
  // Of the EFI system partition.
  std::vector<MediaFile> esp;
  // Beside it, in the root of the ISO. No path may be kEspImageFile.
  std::vector<MediaFile> root;
};

// `work`: an empty folder with room for the partition and for the links to `root`'s files, on the file system
// of `out`. Same contents and stamp give the same bytes. Errors: FILE_NAME_CLASH is for the caller to check;
// TOOL_MISSING, TOOL_FAILED, DISK_FULL, FILE_UNWRITABLE.
Status WriteInstallIso(const std::filesystem::path& out, const std::filesystem::path& work,
                       const IsoContents& contents, const Stamp& stamp);

}  // namespace sealift::media
