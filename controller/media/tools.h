// The programs that write media, in a surrounding that lets nothing of this machine into the bytes.
#pragma once

#include <string>
#include <vector>

#include "controller/media/media_file.h"
#include "shared/base/subprocess.h"

namespace sealift::media {

// Errors: as RunCommandChecked; DISK_FULL when the program says so.
Status RunMediaTool(std::vector<std::string> argv, const Stamp& stamp);

}  // namespace sealift::media
