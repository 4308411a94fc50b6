// What the daemon tells the machine: wishes, accepted reports, orders.
#include <algorithm>

#include "node-agent/update/update_engine.h"
#include "shared/base/foreign_text.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

Status NotOpen() {
  return MakeError(Code::kFailedPrecondition, Reason::kStateMissing,
                   "take an order: the state partition is not mounted");
}

void LogFailure(const Status& status) {
  if (!status.ok()) log::Warning("update state not stored", {{"error", Describe(status)}});
}

}  // namespace

void UpdateEngine::OnDesired(const DesiredRelease& desired) {
  // A new wish is worth a try at once.
  if (wish_ != desired && record().state <= UpdateState::kStaged) retry_at_.reset();
  wish_ = desired;
  controller_seen_ = seams_.clock.Steady();
  TakeWish();
}

void UpdateEngine::OnNothingDesired() {
  wish_.reset();
  controller_seen_ = seams_.clock.Steady();
  TakeWish();
}

void UpdateEngine::TakeWish() {
  // A trial whose end was decided is ended first.
  if (!resumed_ || EffectOwed()) return;
  Wish wish = Wish::kNothing;
  if (wish_) {
    const bool idle = record().state == UpdateState::kIdle;
    const Sha256Digest none;
    const bool same_id = idle || wish_->release_id == none || record().release_id == none ||
                         wish_->release_id == record().release_id;
    const std::string& at = idle ? inventory_->running_version : record().version;
    wish = wish_->version == at && same_id ? Wish::kSameVersion : Wish::kOtherVersion;
  } else if (!controller_seen_) {
    return;  // no check-in yet: the record says what was wished
  }
  UpdateEvent event = UpdateEvent::kWithdrawn;
  switch (DecideWish(record().state, wish)) {
    case WishOutcome::kGoOn:
    case WishOutcome::kTakeUp:
    case WishOutcome::kDefer:
      return;
    case WishOutcome::kReplace:
      event = UpdateEvent::kSuperseded;
      break;
    case WishOutcome::kDrop:
      break;
  }
  DropEvidence();
  LogFailure(TakeRecord(event, UpdateRecord()));
}

std::optional<UpdateReport> UpdateEngine::DueReport() const {
  if (store_ != nullptr && resumed_) {
    const UpdateRecord& now = record();
    const UpdateReport report{now.state, now.version, now.reason, now.message, health_.healthy};
    const bool blessed = now.state != UpdateState::kBlessed || effect_done_;
    if (now.report_due && blessed) return report;
    if (now.state == UpdateState::kAssessing && health_.healthy && !now.report_accepted) return report;
  }
  if (note_ != note_told_) return note_;
  return std::nullopt;
}

void UpdateEngine::OnReportAccepted(const UpdateReport& report) {
  controller_seen_ = seams_.clock.Steady();
  if (note_ && report == *note_) {
    note_told_ = note_;
    return;
  }
  if (!resumed_ || report.state != record().state || report.version != record().version) return;
  UpdateRecord next = record();
  next.report_due = false;
  switch (record().state) {
    case UpdateState::kIdle:
      if (record().report_due) LogFailure(TakeRecord(UpdateEvent::kReportAccepted, UpdateRecord()));
      return;
    case UpdateState::kBlessed:
      if (effect_done_) LogFailure(TakeRecord(UpdateEvent::kReportAccepted, UpdateRecord()));
      return;
    case UpdateState::kFellBack:
      if (EffectOwed()) {
        StateChange told;
        told.record = std::move(next);
        LogFailure(Commit(std::move(told)));
        return;
      }
      LogFailure(TakeRecord(UpdateEvent::kReportAccepted, UpdateRecord()));
      TakeWish();
      return;
    case UpdateState::kAssessing:
      if (!report.healthy || record().report_accepted) return;
      next.report_accepted = true;
      LogFailure(TakeRecord(UpdateEvent::kReportAccepted, std::move(next)));
      return;
    default:
      if (!record().report_due) return;
      StateChange change;
      change.record = std::move(next);
      LogFailure(Commit(std::move(change)));
  }
}

void UpdateEngine::ReportMetadata(const std::string& version, const Status& refused) {
  // Network trouble tells itself by silence.
  note_ = UpdateReport{record().state, version, ReasonIdOf(refused),
                       Shorten(MessageOf(refused), kMaxMessageBytes), health_.healthy};
}

Status UpdateEngine::OnOrderRetry(const std::string& version) {
  if (store_ == nullptr) return NotOpen();
  StateChange change;
  change.forget = version;
  SEALIFT_RETURN_IF_ERROR(Commit(std::move(change)));
  retry_at_.reset();
  return OkStatus();
}

Status UpdateEngine::OnOrderRecovery() {
  if (store_ == nullptr) return NotOpen();
  return PointRecovery();
}

Status UpdateEngine::OnOrderRollback(const std::string& version) {
  if (store_ == nullptr) return NotOpen();
  if (!IsValidVersion(version)) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     "take an order: the version is not well formed");
  }
  StateChange change;
  change.permitted_rollback = version;
  // A refusal of that very rollback is what the order is about.
  const VersionFailure* failure = FindFailure(version);
  if (failure != nullptr && failure->reason == ReasonId(Reason::kRollback)) change.forget = version;
  SEALIFT_RETURN_IF_ERROR(Commit(std::move(change)));
  retry_at_.reset();
  return OkStatus();
}

}  // namespace sealift::agent
