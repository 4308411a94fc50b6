// What every `sealift inspect` command shares: its answer, its errors and how it is added.
//
// Not thread-safe; used by the verbs of this folder alone.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "controller/cli/verbs.h"
#include "shared/base/status.h"

namespace sealift::cli {

// The answer is printed in every case but that of an error.
struct Answer {
  nlohmann::json object;
  // What a person reads.
  std::string text;
  // False: malformed or not verified, exit code 1.
  bool good = true;
};

// Wrong usage: exit code 2, never a verdict.
Status InspectUsage(std::string_view what);

// Adds a command below `inspect` whose --help tells of the exit codes that are its contract.
CLI::App* AddInspection(CLI::App& group, Session& session, const std::string& name,
                        const std::string& description, const std::string& example,
                        std::function<Result<Answer>()> action);

// pe
void AddInspectPeVerb(CLI::App& group, Session& session);
// event-log, quote
void AddInspectEvidenceVerbs(CLI::App& group, Session& session);
// ek-cert, ca-cert
void AddInspectCertificateVerbs(CLI::App& group, Session& session);
// pcr-policy, pcrsig
void AddInspectPolicyVerbs(CLI::App& group, Session& session);

}  // namespace sealift::cli
