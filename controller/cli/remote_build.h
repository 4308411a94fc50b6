// A build by the build service of a controller.
#pragma once

#include <string>

#include "controller/cli/build_options.h"
#include "controller/cli/build_report.h"

namespace sealift::cli {

// Shows progress, then the result as a build here would. Ending this program ends the build. Errors: those of
// LoadProfile, OpenChannel and BuildService; RELEASE_MANIFEST_INVALID for an answer that is none.
Status BuildAtController(Session& session, const BuildArguments& arguments);

}  // namespace sealift::cli
