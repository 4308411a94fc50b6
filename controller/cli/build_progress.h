// How far a build is: one line that is written over on a terminal, a line a stage elsewhere, nothing with -o
// json unless a person watches.
#pragma once

#include "controller/build/release_builder.h"
#include "controller/cli/verbs.h"

namespace sealift::cli {

// Writes to stderr. Call the result from one thread at a time; an empty stage ends the line.
build::Progress ShowBuildProgress(const Session& session);

}  // namespace sealift::cli
