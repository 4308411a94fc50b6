// An exported release (controller/publish/release_folder.h) as one tar file.
//
// Thread-safe functions.
#pragma once

#include <filesystem>

#include "shared/base/status.h"

namespace sealift::cli {

// Nothing in it depends on the machine or the time: the same folder is the same file. `file` appears whole or
// not at all; replaced where it is there. Errors: those of media::WriteTar.
Status PackRelease(const std::filesystem::path& folder, const std::filesystem::path& file);

// Fills the empty folder `into`. A file is exactly what PackRelease writes of the folder, or refused, so that
// no byte of it goes unchecked. Errors: INVALID_ARGUMENT/RELEASE_ARCHIVE_INVALID; those of files.
Status UnpackRelease(const std::filesystem::path& file, const std::filesystem::path& into);

}  // namespace sealift::cli
