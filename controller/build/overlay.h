// Files of the operator laid over the OS before it is packed, so that they are signed and measured with it.
#pragma once

#include <filesystem>

#include "controller/source/tree.h"

namespace sealift::build {

// Puts what lies in `folder` into the tree: a file or link replaces what was at its path, a folder that is
// there keeps its owner and permissions. A path goes where the OS's own links lead ("lib/x" to "usr/lib/x"),
// never out of the tree. Errors: INVALID_ARGUMENT/ROOTFS_UNUSABLE for a file where the OS has a folder, or
// the other way round; those of Tree::ReadFolder.
Status ApplyOverlay(const std::filesystem::path& folder, Tree& tree);

}  // namespace sealift::build
