// `sealift node inventory`, `node token`, `node refusals` and the others that say who may become a node.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "controller/cli/fleet_client.h"
#include "controller/cli/verbs.h"
#include "sealift/v1/admission.grpc.pb.h"
#include "shared/base/bytes.h"

namespace sealift::cli {

// Below `node`. Borrows `session`, which outlives the app.
void AddAdmissionVerbs(CLI::App& node, Session& session);

// A digest in hex, or a file: the EK's certificate or public key, PEM or DER. Errors: those of ReadFile;
// INVALID_ARGUMENT.
Result<Sha256Digest> EkDigest(const std::string& given);

// What the controller refused of a node, newest first.
Result<v1::ListRefusalsResponse> RefusalsOf(FleetClient& client, const std::string& node_id);
nlohmann::json RefusalsJson(const v1::ListRefusalsResponse& refusals);
// Lines of `node show`; empty when there are none.
std::string RefusalsText(const v1::ListRefusalsResponse& refusals);

}  // namespace sealift::cli
