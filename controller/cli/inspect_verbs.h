// sealift inspect iso, release (inspect_media_verbs.h), esl|auth|wincert|esl-create|pe|pcr-policy|pcrsig|
// event-log|quote|ek-cert|ca-cert
//
// Exit codes: 0 well formed and, where something is to be verified, verified; 1 malformed or not verified;
// 2 wrong usage or a file that cannot be read, which is never a verdict.
#pragma once

#include "controller/cli/verbs.h"

namespace sealift::cli {

void AddInspectVerbs(CLI::App& app, Session& session);

}  // namespace sealift::cli
