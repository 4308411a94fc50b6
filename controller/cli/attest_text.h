// Verdicts as people and programs read them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sealift/v1/attestation.pb.h"

namespace sealift::cli {

nlohmann::json VerdictEntryJson(const v1::VerdictEntry& entry);
// Several lines.
std::string VerdictEntryText(const v1::VerdictEntry& entry);
// One sentence about the whole, one a register, one a note.
std::vector<std::string> ExplainVerdict(const v1::VerdictEntry& entry);

}  // namespace sealift::cli
