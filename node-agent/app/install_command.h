// `sealift-agent install` and `sealift-agent preflight`: the composition of node-agent/install.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>

#include "shared/base/status.h"

namespace sealift::agent {

// Adds both subcommands. Returns what to call after parsing: the status of the one that was chosen, nothing
// where it was another. The answer lives as long as `app`.
std::function<std::optional<Status>()> AddInstallCommands(CLI::App& app);

}  // namespace sealift::agent
