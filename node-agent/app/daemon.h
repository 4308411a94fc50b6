// The agent's composition root: the one place that knows every implementation.
#pragma once

#include "node-agent/app/settings.h"
#include "shared/base/status.h"

namespace sealift::agent {

// Runs until SIGTERM or SIGINT. Errors: what makes going on pointless: another agent, an unreadable OS
// version. A missing TPM, ESP, state partition or controller is waited for.
Status RunDaemon(const Settings& settings);

}  // namespace sealift::agent
