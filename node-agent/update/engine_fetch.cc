// From a wish to a verified image on the ESP. Nothing here changes what boots.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "node-agent/update/update_engine.h"
#include "node-agent/update/update_policy.h"
#include "shared/base/foreign_text.h"
#include "shared/base/log.h"
#include "shared/tuf/journal_watch.h"

namespace sealift::agent {
namespace {

// What was fetched and verified is no longer what lies there: fetching again mends it.
bool IsLocalLoss(const Status& status) {
  return ReasonOf(status) == Reason::kImageDigestMismatch || ReasonOf(status) == Reason::kFileUnreadable;
}

}  // namespace

const VersionFailure* UpdateEngine::FindFailure(const std::string& version) const {
  for (const VersionFailure& failure : state_.failures) {
    if (failure.version == version) return &failure;
  }
  return nullptr;
}

StepOutcome UpdateEngine::StepIdle() {
  if (record().report_due && !effect_done_) {
    // Arming was given up, perhaps with the entries flipped.
    if (const Status status = RunEffect(UpdateEffect::kDisarm); !status.ok()) return Hold(status);
  }
  CountBlessedBoot();
  if (!wish_ || wish_->version == inventory_->running_version) return Wait(settings_.idle_interval);
  if (wish_->channel != settings_.channel) {
    // The check-in is at fault, not the version, which this node's own channel may have as well.
    return HoldAndTell(
        wish_->version,
        MakeError(Code::kFailedPrecondition, Reason::kReleaseNotForNode,
                  fmt::format("update to {}: it is wished from channel {}, this node follows {}",
                              wish_->version, wish_->channel, settings_.channel)));
  }
  if (const VersionFailure* failure = FindFailure(wish_->version); failure != nullptr) {
    problem_ =
        MakeError(Code::kFailedPrecondition, Reason::kVersionFailedBefore,
                  fmt::format("update to {}: it failed here before: {}", failure->version, failure->reason));
    return Wait(settings_.idle_interval);
  }
  const BootRole role = inventory_->running_role;
  if (role == BootRole::kUnknown || role == BootRole::kMedia) {
    return Hold(
        MakeError(Code::kFailedPrecondition, Reason::kBootStateUnknown,
                  fmt::format("update to {}: this boot is of role {}", wish_->version, BootRoleName(role))));
  }
  const DesiredRelease wish = *wish_;
  if (const auto outcome = EnsureRelease(wish, UpdateEvent::kReleaseRefused)) return *outcome;
  UpdateRecord next = Entered();
  next.channel = release_->manifest().channel;
  next.version = release_->manifest().version;
  next.release_id = release_->id().digest;
  next.image_digest = release_->image().digest;
  next.image_size = release_->image().size;
  next.from_version = inventory_->running_version;
  next.attempts = 0;
  next.reason.clear();
  next.message.clear();
  return After(TakeRecord(UpdateEvent::kReleaseTrusted, std::move(next)));
}

StepOutcome UpdateEngine::StepFetching() {
  if (const auto outcome = EnsureRecordedRelease(UpdateEvent::kReleaseRefused)) return *outcome;
  if (!Fetched()) {
    if (const auto outcome = FetchSome()) return *outcome;
    return Busy();
  }
  if (const Status status = VerifyFetched(); !status.ok()) {
    if (IsLocalLoss(status)) return FetchAgain(status);
    return TryFailed(UpdateEvent::kImageRefused, status);
  }
  return After(TakeRecord(UpdateEvent::kImageVerified, Entered()));
}

StepOutcome UpdateEngine::StepVerified() {
  if (const auto outcome = EnsureRecordedRelease(UpdateEvent::kReleaseRefused)) return *outcome;
  if (!verified_) {
    // A new process: only what is here complete counts; the rest is Fetching's.
    for (std::size_t i = 0; i < Objects().size() && !Fetched(); ++i) {
      if (const auto outcome = FetchSome()) return *outcome;
      if (!fetched_[i].complete) return After(TakeRecord(UpdateEvent::kContentLost, Entered()));
    }
    if (const Status status = VerifyFetched(); !status.ok()) {
      if (IsLocalLoss(status)) return FetchAgain(status);
      return TryFailed(UpdateEvent::kImageRefused, status);
    }
    return Busy();
  }
  auto staged = seams_.stager.Stage(*verified_);
  if (!staged.ok()) {
    verified_.reset();
    if (IsLocalLoss(staged.status())) return FetchAgain(staged.status());
    return TryFailed(UpdateEvent::kImageRefused, staged.status());
  }
  staged_ = *std::move(staged);
  UpdateRecord next = Entered();
  next.report_due = true;
  return After(TakeRecord(UpdateEvent::kImageStaged, std::move(next)));
}

StepOutcome UpdateEngine::StepStaged() {
  // What boots next is decided here: by the metadata of now, not of when the download began.
  if (const auto outcome = EnsureRecordedRelease(UpdateEvent::kReleaseRefused, Metadata::kOfNow))
    return *outcome;
  if (const Status status = EnsureStaged(); !status.ok()) {
    if (ReasonOf(status) != Reason::kImageNotStaged) return TryFailed(UpdateEvent::kImageRefused, status);
    return BackBecause(UpdateEvent::kStagedImageLost, status);
  }
  UpdateRecord next = Entered();
  next.from_version = inventory_->running_version;
  return After(TakeRecord(UpdateEvent::kArm, std::move(next)));
}

// ---- evidence ----

std::optional<StepOutcome> UpdateEngine::EnsureRelease(const DesiredRelease& desired, UpdateEvent give_up,
                                                       Metadata metadata) {
  const bool known =
      metadata == Metadata::kUnexpired && release_ && release_->manifest().channel == desired.channel &&
      release_->manifest().version == desired.version && seams_.clock.Now() < release_->expires();
  if (!known) {
    // An image that was checked stays so where the same release is found again.
    const std::optional<TrustedRelease> before = std::exchange(release_, std::nullopt);
    auto verdict = seams_.catalog.Resolve(desired);
    if (!verdict.ok()) return HoldAndTell(desired.version, verdict.status());
    NoteJournal(verdict->journal);
    if (!verdict->release) return GiveUp(give_up, desired.version, verdict->unusable);
    if (!before || before->id() != verdict->release->id()) DropEvidence();
    release_ = std::move(verdict->release);
    seams_.clock.RaiseFloor(release_->not_before());
    note_.reset();
    note_told_.reset();
  }
  const Status allowed = CheckPolicy(release_->manifest(), {.channel = settings_.channel,
                                                            .hardware_class = settings_.hardware_class,
                                                            .agent_version = settings_.agent_version,
                                                            .running_version = inventory_->running_version,
                                                            .permitted_rollback = state_.permitted_rollback});
  if (!allowed.ok()) return GiveUp(give_up, desired.version, allowed);
  return std::nullopt;
}

// No reason to stop: the release is proven by keys that the journal only accounts for.
void UpdateEngine::NoteJournal(const Status& found) {
  if (found.ok()) return;
  log::Warning("the controller's signing journal is not what was seen before", {{"error", Describe(found)}});
  if (tuf::IsJournalFinding(found)) journal_ = found;
}

std::optional<StepOutcome> UpdateEngine::EnsureRecordedRelease(UpdateEvent give_up, Metadata metadata) {
  if (record().channel == settings_.channel) {
    DesiredRelease desired;
    desired.channel = record().channel;
    desired.version = record().version;
    if (const auto outcome = EnsureRelease(desired, give_up, metadata)) return outcome;
    if (release_->id().digest == record().release_id && release_->image().digest == record().image_digest) {
      return std::nullopt;
    }
  }
  // The record is at fault, forged or old, not the version: begin anew with what is signed.
  log::Warning("what was remembered is not what this node's signed metadata lists; beginning anew",
               {{"version", record().version},
                {"state", std::string(UpdateStateName(record().state))},
                {"reason", std::string(ReasonId(Reason::kReleaseMixed))}});
  DropEvidence();
  return After(TakeRecord(UpdateEvent::kRecordRefused, UpdateRecord()));
}

bool UpdateEngine::Fetched() const {
  return !fetched_.empty() && std::ranges::all_of(fetched_, &FetchProgress::complete);
}

std::vector<UpdateEngine::Object> UpdateEngine::Objects() const {
  std::vector<Object> objects;
  for (const Companion& companion : release_->companions())
    objects.push_back({.digest = companion.digest, .size = companion.size});
  if (release_->boot_loader())
    objects.push_back({.digest = release_->boot_loader()->digest, .size = release_->boot_loader()->size});
  objects.push_back({.digest = release_->image().digest, .size = release_->image().size});
  return objects;
}

std::optional<StepOutcome> UpdateEngine::FetchSome() {
  const std::vector<Object> objects = Objects();
  if (fetched_.empty()) {
    for (const Object& object : objects) fetched_.push_back({.size = object.size});
  }
  for (std::size_t i = 0; i < fetched_.size(); ++i) {
    if (fetched_[i].complete) continue;
    auto progress = seams_.fetcher.FetchSome(objects[i].digest, objects[i].size);
    if (!progress.ok()) return TryFailed(UpdateEvent::kImageRefused, progress.status());
    fetched_[i] = *std::move(progress);
    if (!fetched_[i].source.ok()) return HoldAndTell(record().version, fetched_[i].source);
    return std::nullopt;
  }
  return std::nullopt;
}

ImageExpectations UpdateEngine::Expected() const {
  const ReleaseFile& image = release_->image();
  const Manifest& manifest = release_->manifest();
  ImageExpectations expected{.version = manifest.version,
                             .digest = image.digest,
                             .size = image.size,
                             .authenticode = image.authenticode,
                             .allowed_pcr_keys = manifest.pcr_keys,
                             .companions = release_->companions(),
                             .boot_loader = release_->boot_loader()};
  for (const ImageMeasurements& measured : manifest.images) {
    if (measured.path != image.path) continue;
    if (measured.pcr13.size() == 1) expected.pcr13_event = measured.pcr13.front().digest;
    // Of the first profile: only files beside the image add to it.
    if (measured.profile == 0 && measured.pcr12.size() == 1)
      expected.pcr12_event = measured.pcr12.front().digest;
    break;
  }
  return expected;
}

Status UpdateEngine::VerifyFetched() {
  LocalImage local{.file = fetched_.back().file};
  const std::size_t companions = release_->companions().size();
  for (std::size_t i = 0; i < companions; ++i) local.companions.push_back(fetched_[i].file);
  if (release_->boot_loader()) local.boot_loader = fetched_[companions].file;
  auto verified = seams_.stager.VerifyImage(local, Expected());
  SEALIFT_RETURN_IF_ERROR(verified.status());
  verified_ = *std::move(verified);
  return OkStatus();
}

Status UpdateEngine::EnsureStaged() {
  // A new process has verified nothing yet, and what was verified before a wait is stale.
  if (!staged_) {
    SEALIFT_ASSIGN_OR_RETURN(staged_, seams_.stager.FindStaged(Expected()));
  }
  if (seams_.unlock == nullptr || unlocks_) return OkStatus();
  const ImageExpectations expected = Expected();
  SEALIFT_RETURN_IF_ERROR(
      seams_.unlock->WillUnlock(*staged_, {.pcr12 = expected.pcr12_event, .pcr13 = expected.pcr13_event}));
  unlocks_ = true;
  return OkStatus();
}

// ---- failures ----

StepOutcome UpdateEngine::TryFailed(UpdateEvent give_up, const Status& status) {
  if (IsFinalForImage(status)) return GiveUp(give_up, record().version, status);
  if (IsPassing(status) || WaitsForThisMachine(status)) return HoldAndTell(record().version, status);
  if (record().attempts + 1 >= settings_.max_attempts) return GiveUp(give_up, record().version, status);
  StateChange change;
  change.record = record();
  ++change.record->attempts;
  if (const Status stored = Commit(std::move(change)); !stored.ok()) return Hold(stored);
  return Hold(status);
}

StepOutcome UpdateEngine::FetchAgain(const Status& why) {
  fetched_.clear();
  verified_.reset();
  if (const Status status = seams_.fetcher.Discard(nullptr); !status.ok()) return Hold(status);
  if (record().state == UpdateState::kFetching) return TryFailed(UpdateEvent::kImageRefused, why);
  return BackBecause(UpdateEvent::kContentLost, why);
}

// Counted, so that a disk that keeps losing files comes to an end.
StepOutcome UpdateEngine::BackBecause(UpdateEvent event, const Status& why) {
  UpdateRecord next = Entered();
  ++next.attempts;
  if (next.attempts >= settings_.max_attempts) return GiveUp(UpdateEvent::kImageRefused, next.version, why);
  return After(TakeRecord(event, std::move(next)));
}

StepOutcome UpdateEngine::GiveUp(UpdateEvent event, const std::string& version, const Status& status) {
  const std::string reason = Shorten(ReasonIdOf(status), kMaxReasonBytes);
  const std::string message = Shorten(MessageOf(status), kMaxMessageBytes);
  log::Error("version given up", {{"version", version}, {"reason", reason}, {"error", message}});
  StateChange change;
  change.record = UpdateRecord();
  change.record->version = version;
  change.record->reason = reason;
  change.record->message = message;
  change.record->report_due = true;
  change.remember =
      VersionFailure{.version = version, .reason = reason, .message = message, .at = seams_.clock.Now()};
  if (DependsOnRunningVersion(status)) change.remember->while_running = inventory_->running_version;
  DropEvidence();
  return After(Take(event, std::move(change)));
}

}  // namespace sealift::agent
