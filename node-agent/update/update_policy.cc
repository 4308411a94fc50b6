#include "node-agent/update/update_policy.h"

#include <fmt/format.h>

#include "shared/base/ids.h"

namespace sealift::agent {
namespace {

Status Refuse(Reason reason, const Manifest& manifest, std::string_view why) {
  return MakeError(Code::kFailedPrecondition, reason,
                   fmt::format("use release {}: {}", manifest.version, why));
}

}  // namespace

Status CheckPolicy(const Manifest& manifest, const RunningNode& machine) {
  if (manifest.channel != machine.channel) {
    return Refuse(
        Reason::kReleaseNotForNode, manifest,
        fmt::format("it is for channel {}, this node follows {}", manifest.channel, machine.channel));
  }
  if (manifest.hardware_class != machine.hardware_class) {
    return Refuse(Reason::kReleaseNotForNode, manifest,
                  fmt::format("it is for hardware class {}, this node is {}", manifest.hardware_class,
                              machine.hardware_class));
  }
  if (CompareVersions(machine.agent_version, manifest.minimum_agent_version) < 0) {
    return Refuse(
        Reason::kAgentTooOld, manifest,
        fmt::format("it needs agent {}, this is {}", manifest.minimum_agent_version, machine.agent_version));
  }
  if (CompareVersions(manifest.version, machine.running_version) < 0 &&
      manifest.version != machine.permitted_rollback) {
    return Refuse(Reason::kRollback, manifest,
                  fmt::format("{} runs, which is newer", machine.running_version));
  }
  return OkStatus();
}

bool IsFinalForImage(const Status& status) {
  switch (ReasonOf(status)) {
    case Reason::kImageTruncated:
    case Reason::kImageMalformed:
    case Reason::kImageUnsigned:
    case Reason::kImageSignatureInvalid:
    case Reason::kImageSignerUnknown:
    case Reason::kImageRevoked:
    case Reason::kImageVersionMismatch:
    case Reason::kImagePcrKeyUnknown:
    case Reason::kExtensionInvalid:
    case Reason::kVolumeWouldStayLocked:
      return true;
    default:
      return false;
  }
}

bool DependsOnRunningVersion(const Status& status) {
  return ReasonOf(status) == Reason::kAgentTooOld || ReasonOf(status) == Reason::kRollback;
}

bool WaitsForThisMachine(const Status& status) {
  return status.code() == Code::kResourceExhausted || ReasonOf(status) == Reason::kFirmwareVariableUnreadable;
}

bool IsPassing(const Status& status) {
  // By reason: trouble with this machine's own disks is UNAVAILABLE too.
  switch (ReasonOf(status)) {
    case Reason::kPeerUnreachable:
    case Reason::kTimeout:
    case Reason::kCancelled:
    case Reason::kNotEnrolled:
    case Reason::kServerBusy:
    case Reason::kContentIncomplete:
      return true;
    default:
      return false;
  }
}

}  // namespace sealift::agent
