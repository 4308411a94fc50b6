// The node agent in a tree: unpacked from its package, enabled, and missed when it is not there.
//
// Thread-safe functions.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "controller/source/tree.h"

namespace sealift::build {

inline constexpr std::string_view kAgentPath = "usr/lib/sealift/sealift-agent";

// Lays the package's files into the tree, runs none of its scripts, and enables each of its units where the
// unit's [Install] section says (WantedBy, RequiredBy). Errors: those of UnpackDebianPackage; SOURCE_UNUSABLE
// when it brought no agent.
Status AddAgent(Tree& tree, const std::filesystem::path& deb);

// What an operator should know: no agent, or one that nothing starts.
void CheckAgent(const Tree& tree, std::vector<std::string>& remarks);

}  // namespace sealift::build
