// Messages of FleetService as people and programs read them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "sealift/v1/fleet.pb.h"

namespace sealift::cli {

// Digests as hex, times as RFC 3339, enums as lower-case words: the same words as in the text forms.
nlohmann::json NodeJson(const v1::Node& node);
// Those of a list come without nodes.
nlohmann::json RolloutJson(const v1::Rollout& rollout, bool with_nodes = true);
nlohmann::json AuditJson(const v1::AuditEntry& entry);

std::string NodeTableHead();
std::string NodeTableRow(const v1::Node& node);
// Everything, with the evidence of the last verdict.
std::string NodeText(const v1::Node& node);
std::string RolloutText(const v1::Rollout& rollout);
std::string RolloutTableHead();
std::string RolloutTableRow(const v1::Rollout& rollout);
std::string AuditText(const v1::AuditEntry& entry);

}  // namespace sealift::cli
