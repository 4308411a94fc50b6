// Domain values to and from messages. What comes in is bounded here; nothing behind this file sees an
// oversized string.
#pragma once

#include "controller/api/ports.h"
#include "controller/attest/epoch.h"
#include "controller/fleet/node.h"
#include "controller/fleet/rollout.h"
#include "controller/fleet/stores.h"
#include "sealift/v1/fleet.pb.h"
#include "sealift/v1/node.pb.h"

namespace sealift::controller {

v1::Node ToProto(const Node& node);
v1::Verdict ToProto(const Verdict& verdict);
// With nodes and counts.
v1::Rollout ToProto(const Rollout& rollout);
// With counts only.
v1::Rollout ToProto(const RolloutSummary& summary);
v1::Release ToProto(const ReleaseRecord& release);
v1::AuditEntry ToProto(const AuditRecord& record);
v1::Desired ToProto(const Desired& desired);
// As it is at `now`: what nobody carried out in time has expired.
v1::ChangeRequest ToProto(const RequestRecord& record, UnixMillis now);
v1::EscrowedKey ToProto(const EscrowedKey& key);

// Errors: INVALID_ARGUMENT/INVALID_ARGUMENT for a value out of its range, MALFORMED for a digest of wrong
// length.
Result<NodeStatus> StatusFromProto(const v1::CheckInRequest& request);
Result<RunningImage> RunningFromProto(const v1::RunningImage& running);
Result<UpdateState> StateFromProto(v1::UpdateState state);
Result<AttestationEvidence> EvidenceFromProto(const v1::Quote& quote);
// Cut and cleared: a machine with odd names is no reason to turn its quote down.
Hardware HardwareFromProto(const v1::HardwareModel& hardware);
Result<CounterEvidence> EpochEvidenceFromProto(const v1::EpochEvidence& evidence);
Result<OrderOutcome> OutcomeFromProto(const v1::OrderOutcome& outcome);
Result<InstallRecord> InstallFromProto(const v1::InstallRecord& install);
// `what` names the field. Errors: INVALID_ARGUMENT.
Status CheckText(std::string_view what, std::string_view text, std::size_t max_bytes);
// Empty is allowed.
Status CheckVersion(std::string_view what, std::string_view version);

}  // namespace sealift::controller
