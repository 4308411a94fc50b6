// sealift inspect iso|release
#pragma once

#include "controller/cli/verbs.h"

namespace sealift::cli {

void AddInspectMediaVerbs(CLI::App& group, Session& session);

}  // namespace sealift::cli
