// The start of a process: what was remembered, compared with what runs.
#include <fmt/format.h>

#include <algorithm>

#include "node-agent/update/update_engine.h"
#include "shared/base/foreign_text.h"
#include "shared/base/log.h"

namespace sealift::agent {

Status UpdateEngine::OpenState() {
  if (store_ != nullptr) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(StatePlace::Opened opened, seams_.place.Open());
  SEALIFT_ASSIGN_OR_RETURN(state_, opened.store->Load());
  store_ = std::move(opened.store);
  // Nobody signed what the record says: it is believed as far as signed metadata bears it out.
  seams_.clock.RaiseFloor(std::min(state_.time_floor, seams_.catalog.ProvenTime()));
  if (!opened.put_aside.ok()) ReportMetadata(record().version, opened.put_aside);
  return OkStatus();
}

void UpdateEngine::CloseState() {
  store_.reset();
  state_ = {};
  resumed_ = false;
  DropEvidence();
}

Status UpdateEngine::DecideByWhatRuns() {
  SEALIFT_RETURN_IF_ERROR(LapseFailures());
  effect_done_ = false;
  switch (record().state) {
    case UpdateState::kIdle:
      return ResumeIdle();
    case UpdateState::kFetching:
    case UpdateState::kVerified:
    case UpdateState::kStaged:
      return ResumeBeforeArmed();
    case UpdateState::kArmed:
      return ResumeArmed();
    case UpdateState::kRebooting:
      return ResumeRebooting();
    case UpdateState::kAssessing:
      return ResumeAssessing();
    case UpdateState::kBlessed:
      return ResumeBlessed();
    case UpdateState::kFellBack:
    case UpdateState::kStateMissing:
    case UpdateState::kUnknown:  // never stored
      return OkStatus();
  }
  return OkStatus();
}

// Refusals that were made to another running version hold no longer.
Status UpdateEngine::LapseFailures() {
  const std::vector<VersionFailure> failures = state_.failures;
  for (const VersionFailure& failure : failures) {
    if (failure.while_running.empty() || failure.while_running == inventory_->running_version) continue;
    StateChange change;
    change.forget = failure.version;
    SEALIFT_RETURN_IF_ERROR(Commit(std::move(change)));
  }
  return OkStatus();
}

Status UpdateEngine::ResumeIdle() {
  if (inventory_->running_on_trial && inventory_->running_role == BootRole::kActive) {
    UpdateRecord adopted;
    adopted.channel = settings_.channel;
    adopted.version = inventory_->running_version;
    return EnterAssessing(UpdateEvent::kTrialFound, std::move(adopted));
  }
  if (!state_.fresh) return OkStatus();
  // With the memory the failure is lost; the boot entries still tell it.
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Fallback> fallback, seams_.stager.FellBack());
  if (!fallback || !IsValidVersion(fallback->failed_version)) return OkStatus();
  return EnterFellBack(fallback->failed_version,
                       "found out of tries when the agent's state was started afresh");
}

Status UpdateEngine::ResumeBeforeArmed() {
  // State put back to an earlier day: the machine is further than the record.
  if (!TargetRuns() && !inventory_->running_on_trial) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(TakeRecord(UpdateEvent::kWithdrawn, UpdateRecord()));
  return ResumeIdle();
}

Status UpdateEngine::ResumeArmed() {
  // Cut between the commit and the last entry: flipping is repeated. The boot loader started the target, or
  // gave it up: the flip was complete.
  if (TargetRuns()) return EnterAssessing(UpdateEvent::kTargetRuns, record());
  if (SameBoot()) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Fallback> fallback, FallbackOf(record().version));
  if (!fallback) return OkStatus();
  return EnterFellBack(record().version, "its boot entry is out of tries");
}

Status UpdateEngine::ResumeRebooting() {
  if (SameBoot()) return OkStatus();
  if (TargetRuns()) return EnterAssessing(UpdateEvent::kTargetRuns, record());
  return EnterFellBack(record().version, "the machine was rebooted into it and another image runs");
}

Status UpdateEngine::ResumeAssessing() {
  if (!TargetRuns())
    return EnterFellBack(record().version, "it ran, was not blessed, and another image runs now");
  if (SameBoot()) return OkStatus();
  return EnterAssessing(UpdateEvent::kTargetRuns, record());
}

Status UpdateEngine::ResumeBlessed() {
  if (TargetRuns()) {
    effect_done_ = !inventory_->running_on_trial;
    return OkStatus();
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Fallback> fallback, FallbackOf(record().version));
  if (fallback) return EnterFellBack(record().version, "it was cut off while it was being blessed");
  return TakeRecord(UpdateEvent::kOtherBootChosen, UpdateRecord());
}

Result<std::optional<Fallback>> UpdateEngine::FallbackOf(const std::string& version) {
  SEALIFT_ASSIGN_OR_RETURN(std::optional<Fallback> fallback, seams_.stager.FellBack());
  if (fallback && fallback->failed_version != version) fallback.reset();
  return fallback;
}

Status UpdateEngine::EnterAssessing(UpdateEvent event, UpdateRecord record) {
  record.image_digest = inventory_->running_digest;
  record.boot_id = settings_.boot_id;
  record.since_ms = SteadyMs();
  record.attempts = 0;
  record.report_due = false;
  record.report_accepted = false;
  last_healthy_.reset();
  return TakeRecord(event, std::move(record));
}

Status UpdateEngine::EnterFellBack(const std::string& version, const std::string& message) {
  const bool health = record().reason == ReasonId(Reason::kHealthFailed);
  const std::string word = settings_.why_boot_failed ? settings_.why_boot_failed() : "";
  StateChange change;
  change.record = Entered();
  change.record->version = version;
  change.record->report_due = true;
  change.record->reason = ReasonId(health ? Reason::kHealthFailed : Reason::kFellBack);
  change.record->message = Shorten(
      fmt::format("run {}: {}; {} runs as {}{}{}{}{}", version, message, inventory_->running_version,
                  BootRoleName(inventory_->running_role), health ? "; before: " : "",
                  health ? record().message : "", word.empty() ? "" : "; the boot before said: ", word),
      kMaxMessageBytes);
  change.remember = VersionFailure{.version = version,
                                   .reason = change.record->reason,
                                   .message = change.record->message,
                                   .at = seams_.clock.Now()};
  return Take(UpdateEvent::kFellBack, std::move(change));
}

}  // namespace sealift::agent
