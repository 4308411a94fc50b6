// `sealift-agent join`.
#pragma once

#include "node-agent/app/settings.h"

namespace sealift::agent {

// Takes a join token from standard input (without echo at a terminal) and leaves it for the daemon on the
// state partition. Errors: FAILED_PRECONDITION/STATE_MISSING; INVALID_ARGUMENT/JOIN_TOKEN_UNUSABLE.
Status RunJoin(const Settings& settings);

}  // namespace sealift::agent
