// `sealift node`, `rollout`, `audit`, `certificate`: what operators ask of a controller.
#pragma once

#include "controller/cli/verbs.h"

namespace sealift::cli {

// Borrows `session`, which outlives the app.
void AddFleetVerbs(CLI::App& app, Session& session);
// sealift attest show|explain|verify
void AddAttestVerbs(CLI::App& app, Session& session);
// sealift secret put|list|show|revoke
void AddSecretVerbs(CLI::App& app, Session& session);
// sealift content collect
void AddContentVerbs(CLI::App& app, Session& session);
// Below `attest`: baseline list|show|approve|withdraw
void AddBaselineVerbs(CLI::App& attest, Session& session);

}  // namespace sealift::cli
