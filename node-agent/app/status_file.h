// What `sealift-agent status` shows: one JSON object that the daemon keeps in its runtime directory.
//
// World-readable and free of secrets. Keys are part of the interface: add, never rename.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "node-agent/order/order_seams.h"
#include "node-agent/update/update_engine.h"
#include "shared/base/clock.h"

namespace sealift::agent {

inline constexpr std::string_view kStatusFileName = "status.json";

struct AgentStatus {
  std::string agent_version;
  int pid = 0;
  std::string boot_id;
  // Empty before enrolment.
  std::string node_id;
  // "none", "pending", "refused", "enrolled".
  std::string enrolment = "none";
  UnixMillis certificate_not_after{};
  // Whether the last exchange with the controller succeeded, and when one last did.
  bool controller_reachable = false;
  UnixMillis last_contact{};
  // "unknown", "trusted", "untrusted": the controller's last word on a quote of this boot.
  std::string attestation = "unknown";
  EngineStatus engine;
  // Outcomes of orders that the controller does not know yet.
  std::vector<OrderOutcome> order_outcomes;
  // An order is being carried out.
  bool order_in_hand = false;
  // The lowest security epoch this machine accepts; nothing where it has no counter.
  std::optional<std::uint64_t> epoch;
  // What is wrong now, most recent first; empty when all is well. "REASON: sentence".
  std::string problem;
};

std::string StatusJson(const AgentStatus& status);
// For people: a few lines from the JSON above. Errors: INVALID_ARGUMENT/MALFORMED.
Result<std::string> StatusText(std::string_view json);

}  // namespace sealift::agent
