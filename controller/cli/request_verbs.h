// sealift node reset|raise-epoch|retry|rollback|upgrade|select-entry|replace-recovery-key|recovery-key,
// sealift request list|show|approve|cancel
#pragma once

#include "controller/cli/verbs.h"

namespace sealift::cli {

// `node`: the group that AddFleetVerbs made.
void AddRequestVerbs(CLI::App& app, CLI::App& node, Session& session);

}  // namespace sealift::cli
