// `sealift tuf`: the offline side of the TUF repository.
#pragma once

#include "controller/cli/verbs.h"

namespace sealift::cli {

// root draft, root show, root sign. Borrows `session`, which outlives the app.
void AddTufVerbs(CLI::App& app, Session& session);

}  // namespace sealift::cli
