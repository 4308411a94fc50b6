// The index of kernel modules in a tree, which modprobe needs: checked, or made by depmod.
//
// Thread-safe function.
#pragma once

#include <string>
#include <vector>

#include "controller/source/tree.h"

namespace sealift::build {

// modules.dep of `release` names every module that is there and none else: fine. Otherwise depmod (of this
// machine; it runs nothing of the tree) computes the index from a scratch copy, and a remark says so.
// Errors: FAILED_PRECONDITION/ROOTFS_UNUSABLE when the tree has modules, but none of this release;
// NOT_FOUND/TOOL_MISSING without depmod; TOOL_FAILED; FILE_UNWRITABLE, DISK_FULL of the copy.
Status EnsureModuleIndex(Tree& tree, const std::string& release, std::vector<std::string>& remarks);

}  // namespace sealift::build
