// Whether a trusted release may run on this machine. Pure; thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "shared/base/status.h"
#include "shared/release/manifest.h"

namespace sealift::agent {

struct RunningNode {
  std::string channel;
  std::string hardware_class;
  std::string agent_version;
  std::string running_version;
  // A signed order allowed this version although it is older; empty: none.
  std::string permitted_rollback;
};

// Errors, all FAILED_PRECONDITION: RELEASE_NOT_FOR_NODE, AGENT_TOO_OLD, ROLLBACK.
Status CheckPolicy(const Manifest& manifest, const RunningNode& machine);

// The image is at fault: trying again brings the same answer. Only to be asked about what this machine found
// out itself; the reason of a status that came over the wire is its sender's to choose.
bool IsFinalForImage(const Status& status);
// A refusal that another running version may lift.
bool DependsOnRunningVersion(const Status& status);
// For lack of space, or because the firmware does not tell its databases: no try would go better, and none
// says anything about the version. Waits for a person, who is told.
bool WaitsForThisMachine(const Status& status);
// For lack of a connection or an answer: trying again is free of charge.
bool IsPassing(const Status& status);

}  // namespace sealift::agent
