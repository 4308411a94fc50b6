// Which names a FAT file system can hold side by side (Microsoft's FAT specification, long names).
//
// Thread-safe functions over plain values.
#pragma once

#include <string>
#include <vector>

#include "shared/base/status.h"

namespace sealift::build {

// `paths`: of files, with forward slashes, relative. A folder that occurs in two spellings counts as a clash
// too. Errors: INVALID_ARGUMENT/FILE_NAME_CLASH: two names that differ in case only (ASCII), a name above 255
// characters, one with a control character or any of "*:<>?\|, one that ends in a dot or a space, one that is
// not UTF-8, a path above 1024 bytes; the message names the file. `what` says where the names come from.
Status CheckFatNames(const std::vector<std::string>& paths, std::string_view what);

}  // namespace sealift::build
