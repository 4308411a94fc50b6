#include "node-agent/update/update_engine.h"

#include <algorithm>

#include "node-agent/update/update_policy.h"
#include "shared/base/log.h"

namespace sealift::agent {

UpdateEngine::UpdateEngine(UpdateSettings settings, const Seams& seams)
    : settings_(std::move(settings)), seams_(seams) {
  SEALIFT_CHECK(settings_.boot_tries > 0);
  SEALIFT_CHECK(settings_.max_attempts > 0);
}

void UpdateEngine::Resume() {
  if (resumed_) return;
  Status status = seams_.place.CheckMounted();
  if (status.ok()) status = OpenState();
  // What runs is worth telling even where nothing may be changed.
  auto inventory = seams_.stager.Inspect();
  if (inventory.ok()) inventory_ = *std::move(inventory);
  if (status.ok() && !inventory.ok()) status = inventory.status();
  if (status.ok()) status = DecideByWhatRuns();
  if (!status.ok()) {
    Hold(status);
    return;
  }
  resumed_ = true;
  Busy();
  CheckHealth();
  TakeWish();
}

StepOutcome UpdateEngine::Tick() {
  if (const Status mounted = seams_.place.CheckMounted(); !mounted.ok()) {
    CloseState();
    Hold(mounted);
    // Looking again costs nothing.
    retry_at_.reset();
    return Wait(settings_.retry_after);
  }
  if (retry_at_) {
    const Instant now = seams_.clock.Steady();
    if (now < *retry_at_) return Wait(std::chrono::ceil<std::chrono::milliseconds>(*retry_at_ - now));
    retry_at_.reset();
  }
  if (resumed_) {
    CheckHealth();
    return Step();
  }
  Resume();
  return resumed_ ? Busy() : Wait(Since(*retry_at_) * -1);
}

StepOutcome UpdateEngine::Step() {
  switch (record().state) {
    case UpdateState::kIdle:
      return StepIdle();
    case UpdateState::kFetching:
      return StepFetching();
    case UpdateState::kVerified:
      return StepVerified();
    case UpdateState::kStaged:
      return StepStaged();
    case UpdateState::kArmed:
      return StepArmed();
    case UpdateState::kRebooting:
      return StepRebooting();
    case UpdateState::kAssessing:
      return StepAssessing();
    case UpdateState::kBlessed:
      return StepBlessed();
    case UpdateState::kFellBack:
      return StepFellBack();
    case UpdateState::kStateMissing:
    case UpdateState::kUnknown:  // never stored
      break;
  }
  return Wait(settings_.idle_interval);
}

bool UpdateEngine::EffectOwed() const {
  return !effect_done_ &&
         (record().state == UpdateState::kBlessed || record().state == UpdateState::kFellBack);
}

// ---- transitions ----

Status UpdateEngine::Commit(StateChange change) {
  change.time_floor = seams_.clock.floor();
  SEALIFT_RETURN_IF_ERROR(store_->Commit(change));
  ApplyChange(change, state_);
  return OkStatus();
}

Status UpdateEngine::Take(UpdateEvent event, StateChange change) {
  const Transition* row = FindTransition(record().state, event);
  SEALIFT_CHECK(row != nullptr);
  SEALIFT_CHECK(change.record.has_value());
  change.record->state = row->to;
  const std::string version = change.record->version;
  SEALIFT_RETURN_IF_ERROR(Commit(std::move(change)));
  log::Info("update state changed", {{"from", std::string(UpdateStateName(row->from))},
                                     {"to", std::string(UpdateStateName(row->to))},
                                     {"version", version},
                                     {"reason", std::string(UpdateEventName(event))}});
  effect_done_ = false;
  Busy();
  return RunEffect(row->effect);
}

Status UpdateEngine::TakeRecord(UpdateEvent event, UpdateRecord record) {
  StateChange change;
  change.record = std::move(record);
  return Take(event, std::move(change));
}

Status UpdateEngine::RunEffect(UpdateEffect effect) {
  switch (effect) {
    case UpdateEffect::kNone:
      break;
    case UpdateEffect::kFlipEntries:
      SEALIFT_RETURN_IF_ERROR(seams_.stager.Activate(*staged_, settings_.boot_tries));
      break;
    case UpdateEffect::kReboot:
      SEALIFT_RETURN_IF_ERROR(seams_.rebooter.RequestReboot("update to " + record().version));
      reboot_asked_ = seams_.clock.Steady();
      break;
    case UpdateEffect::kBless:
      SEALIFT_RETURN_IF_ERROR(seams_.stager.Bless());
      break;
    case UpdateEffect::kDisarm:
      SEALIFT_RETURN_IF_ERROR(seams_.stager.Disarm());
      break;
    case UpdateEffect::kDropDownloads:
      DropDownloads();
      break;
    case UpdateEffect::kCleanUp:
      DropDownloads();
      RemoveOldImages();
      break;
  }
  effect_done_ = true;
  if (effect == UpdateEffect::kFlipEntries || effect == UpdateEffect::kBless ||
      effect == UpdateEffect::kDisarm) {
    // For status() only; what was read before stays where this fails.
    if (auto inventory = seams_.stager.Inspect(); inventory.ok()) inventory_ = *std::move(inventory);
  }
  return OkStatus();
}

void UpdateEngine::DropDownloads() {
  DropEvidence();
  if (const Status status = seams_.fetcher.Discard(nullptr); !status.ok()) {
    log::Warning("downloads stay on the state partition", {{"error", Describe(status)}});
  }
}

void UpdateEngine::RemoveOldImages() {
  if (const auto freed = seams_.stager.CollectGarbage(); !freed.ok()) {
    log::Warning("old images stay on the ESP", {{"error", Describe(freed.status())}});
  }
}

UpdateRecord UpdateEngine::Entered() const {
  UpdateRecord next = record();
  next.boot_id = settings_.boot_id;
  next.since_ms = SteadyMs();
  next.report_due = false;
  next.report_accepted = false;
  return next;
}

void UpdateEngine::DropEvidence() {
  release_.reset();
  verified_.reset();
  staged_.reset();
  unlocks_ = false;
  fetched_.clear();
}

// ---- outcomes ----

StepOutcome UpdateEngine::Busy() {
  problem_ = OkStatus();
  tries_failed_ = 0;
  retry_at_.reset();
  return {.busy = true};
}

StepOutcome UpdateEngine::Wait(std::chrono::milliseconds duration) const {
  return {.busy = false, .wait = std::max(duration, std::chrono::milliseconds(1))};
}

StepOutcome UpdateEngine::Hold(const Status& problem) {
  if (Describe(problem) != Describe(problem_)) {
    log::Warning("update held up", {{"state", std::string(UpdateStateName(record().state))},
                                    {"version", record().version},
                                    {"error", Describe(problem)}});
  }
  problem_ = problem;
  verified_.reset();
  staged_.reset();
  std::chrono::milliseconds wait = settings_.retry_after;
  for (std::uint32_t i = 0; i < tries_failed_ && wait < settings_.retry_after_max; ++i) wait *= 2;
  wait = std::min(wait, settings_.retry_after_max);
  ++tries_failed_;
  retry_at_ = seams_.clock.Steady() + wait;
  return Wait(wait);
}

StepOutcome UpdateEngine::HoldAndTell(const std::string& version, const Status& problem) {
  if (!IsPassing(problem)) ReportMetadata(version, problem);
  return Hold(problem);
}

StepOutcome UpdateEngine::After(const Status& status) { return status.ok() ? Busy() : Hold(status); }

std::chrono::milliseconds UpdateEngine::Since(Instant instant) const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(seams_.clock.Steady() - instant);
}

EngineStatus UpdateEngine::status() const {
  EngineStatus out;
  out.running = inventory_;
  out.health = health_;
  out.problem = problem_;
  out.journal = journal_;
  if (store_ == nullptr) {
    const bool missing = ReasonOf(problem_) == Reason::kStateMissing;
    out.state = missing ? UpdateState::kStateMissing : UpdateState::kIdle;
    return out;
  }
  const UpdateState state = record().state;
  out.state = state;
  if (state != UpdateState::kIdle) out.version = record().version;
  if (state >= UpdateState::kVerified && state <= UpdateState::kRebooting)
    out.staged_version = record().version;
  out.failures = state_.failures;
  for (const FetchProgress& progress : fetched_) {
    out.fetched_bytes += progress.have;
    out.fetch_size += progress.size;
  }
  return out;
}

}  // namespace sealift::agent
