// `sealift release`: what the build host and an operator do with releases.
#pragma once

#include "controller/cli/verbs.h"

namespace sealift::cli {

// publish, list. Borrows `session`, which outlives the app.
void AddReleaseVerbs(CLI::App& app, Session& session);

}  // namespace sealift::cli
