// From flipped entries to a blessed image, or back to the one before.
#include <fmt/format.h>

#include <algorithm>

#include "node-agent/update/update_engine.h"
#include "node-agent/update/update_policy.h"
#include "shared/base/foreign_text.h"
#include "shared/base/log.h"

namespace sealift::agent {

std::int64_t UpdateEngine::SteadyMs() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(seams_.clock.Steady().time_since_epoch())
      .count();
}

UpdateEngine::Instant UpdateEngine::EnteredAt() const {
  return Instant(std::chrono::milliseconds(std::min(record().since_ms, SteadyMs())));
}

StepOutcome UpdateEngine::StepArmed() {
  if (effect_done_) return After(TakeRecord(UpdateEvent::kEntriesFlipped, Entered()));
  // Repeated by a new process, or after a failure: with evidence of its own.
  if (const auto outcome = EnsureRecordedRelease(UpdateEvent::kArmFailed)) return *outcome;
  if (const Status status = EnsureStaged(); !status.ok()) return TryFailed(UpdateEvent::kArmFailed, status);
  if (const Status status = RunEffect(UpdateEffect::kFlipEntries); !status.ok()) {
    return TryFailed(UpdateEvent::kArmFailed, status);
  }
  return Busy();
}

StepOutcome UpdateEngine::StepRebooting() {
  if (reboot_asked_ && Since(*reboot_asked_) < settings_.reboot_again_after) {
    return Wait(settings_.reboot_again_after - Since(*reboot_asked_));
  }
  if (const Status status = RunEffect(UpdateEffect::kReboot); !status.ok()) {
    return HoldAndTell(record().version, status);
  }
  return Wait(settings_.reboot_again_after);
}

void UpdateEngine::CheckHealth() {
  const bool assessing = record().state == UpdateState::kAssessing;
  const auto interval = assessing ? settings_.health_interval : settings_.idle_interval;
  if (health_checked_ && Since(*health_checked_) < interval) return;
  health_ = seams_.health.Check();
  health_checked_ = seams_.clock.Steady();
  if (health_.healthy) last_healthy_ = health_checked_;
}

bool UpdateEngine::ControllerIsAway() const {
  const Instant seen = std::max(EnteredAt(), controller_seen_.value_or(EnteredAt()));
  return Since(seen) >= settings_.assess_offline_after;
}

// Another entry to boot once this image's tries are used up.
bool UpdateEngine::CanFallBack() const {
  return std::any_of(inventory_->entries.begin(), inventory_->entries.end(), [&](const RoleEntry& entry) {
    return entry.image_present && !entry.exhausted() && entry.image_path != inventory_->running_image_path;
  });
}

StepOutcome UpdateEngine::StepAssessing() {
  if (health_.healthy) {
    if (!record().report_accepted && !ControllerIsAway()) return Wait(settings_.health_interval);
    UpdateRecord next = Entered();
    next.report_due = true;
    next.reason.clear();
    next.message.clear();
    StateChange change;
    // An order to go back is used up by having gone.
    if (next.version == state_.permitted_rollback) change.permitted_rollback = "";
    change.record = std::move(next);
    return After(Take(UpdateEvent::kAssessedGood, std::move(change)));
  }
  const Instant good_until = std::max(EnteredAt(), last_healthy_.value_or(EnteredAt()));
  const bool overdue = Since(good_until) >= settings_.health_deadline;
  // Without a trial, or anything to go back to, a reboot would only be repeated.
  if (!overdue || !inventory_->running_on_trial || !CanFallBack()) return Wait(settings_.health_interval);
  UpdateRecord next = Entered();
  next.reason = ReasonId(Reason::kHealthFailed);
  next.message = Shorten(fmt::format("assess {}: {}", record().version, health_.problem), kMaxMessageBytes);
  return After(TakeRecord(UpdateEvent::kHealthFailed, std::move(next)));
}

StepOutcome UpdateEngine::StepBlessed() {
  if (effect_done_) return Wait(settings_.idle_interval);
  if (const Status status = RunEffect(UpdateEffect::kBless); !status.ok()) {
    return HoldAndTell(record().version, status);
  }
  return Busy();
}

void UpdateEngine::CountBlessedBoot() {
  if (boot_counted_ || !health_.healthy || settings_.recovery_after == 0) return;
  boot_counted_ = true;
  if (inventory_->running_role != BootRole::kActive || inventory_->running_on_trial) return;
  BlessedBoots boots = state_.blessed_boots;
  if (boots.image != inventory_->running_digest) boots = {.image = inventory_->running_digest};
  if (boots.boot_id != settings_.boot_id) {
    boots.boot_id = settings_.boot_id;
    boots.count = std::min(boots.count + 1, kMaxBlessedBoots);
    StateChange change;
    change.blessed_boots = boots;
    if (const Status stored = Commit(std::move(change)); !stored.ok()) {
      boot_counted_ = false;
      log::Warning("update state not stored", {{"error", Describe(stored)}});
      return;
    }
  }
  if (boots.count < settings_.recovery_after) return;
  // Repeated at every boot, as it costs nothing where it points there already.
  if (const Status pointed = PointRecovery(); !pointed.ok())
    log::Warning("the recovery image stays as it is", {{"error", Describe(pointed)}});
}

Status UpdateEngine::PointRecovery() {
  SEALIFT_RETURN_IF_ERROR(seams_.stager.PointRecovery());
  // What was read before stays where this fails.
  if (auto inventory = seams_.stager.Inspect(); inventory.ok()) inventory_ = *std::move(inventory);
  return OkStatus();
}

StepOutcome UpdateEngine::StepFellBack() {
  if (!effect_done_) return After(RunEffect(UpdateEffect::kDisarm));
  // Accepted while the effect was still owed.
  if (!record().report_due) return After(TakeRecord(UpdateEvent::kReportAccepted, UpdateRecord()));
  return Wait(settings_.idle_interval);
}

}  // namespace sealift::agent
