// The files of one Debian package, laid into a tree as dpkg would put them, with no script of it run and no
// database written.
//
// Thread-safe function.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "controller/source/tree.h"

namespace sealift::build {

// Where the tree has a link on the way (/lib -> usr/lib), files go where it leads. Returns the paths of the
// package's regular files in the tree. Errors: FILE_UNREADABLE; SOURCE_UNUSABLE (no Debian package of format
// 2.0), SOURCE_UNSAFE, SOURCE_TOO_LARGE (more than 1 GiB) as for layers.
Result<std::vector<std::string>> UnpackDebianPackage(const std::filesystem::path& deb, Tree& tree);

}  // namespace sealift::build
