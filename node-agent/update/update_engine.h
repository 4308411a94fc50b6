// The node's update machine: takes the controller's wish, verified metadata and content, and what runs, and
// moves through the states of state_table.h, one persisted transition at a time.
//
//   UpdateEngine engine(settings, seams);
//   for (;;) {
//     check in with engine.status() -> engine.OnDesired(...) or engine.OnNothingDesired();
//     if (auto report = engine.DueReport()) send it -> engine.OnReportAccepted(*report);
//     StepOutcome outcome = engine.Tick();  // again at once while outcome.busy, else within outcome.wait
//   }
//
// Not thread-safe: one thread owns it. Borrows everything in Seams, which outlives it. A process may be
// killed and a machine lose its power at any instruction; the next engine goes on from what was persisted,
// and until the boot entries were flipped the machine boots what it booted before.
//
// Errors never leave Tick: what holds the machine up is status().problem, and is logged when it changes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/esp/staging.h"
#include "node-agent/update/agent_clock.h"
#include "node-agent/update/seams.h"
#include "node-agent/update/state_store.h"
#include "node-agent/update/state_table.h"

namespace sealift::agent {

struct UpdateSettings {
  // The machine as releases are made for it.
  std::string channel;
  std::string hardware_class = "generic-x86_64";
  std::string agent_version;
  // /proc/sys/kernel/random/boot_id.
  std::string boot_id;
  // Boots the new image gets before the boot loader goes back.
  std::uint32_t boot_tries = 3;
  // Failed tries of fetching, staging or arming before the version is given up. For lack of a connection or
  // of space a try does not count.
  std::uint32_t max_attempts = 3;
  // Wait after the first failed try; doubles up to the second.
  std::chrono::milliseconds retry_after = std::chrono::seconds(15);
  std::chrono::milliseconds retry_after_max = std::chrono::minutes(15);
  // A new image that is not healthy by then is left by a reboot, unblessed.
  std::chrono::milliseconds health_deadline = std::chrono::minutes(10);
  std::chrono::milliseconds health_interval = std::chrono::seconds(10);
  // Between checks of health, and looks at nothing to do, while nothing is assessed.
  std::chrono::milliseconds idle_interval = std::chrono::minutes(1);
  // A healthy new image is blessed without the controller when it was away for so long.
  std::chrono::milliseconds assess_offline_after = std::chrono::hours(1);
  // An unfulfilled request to reboot is repeated.
  std::chrono::milliseconds reboot_again_after = std::chrono::minutes(5);
  // The running image becomes the recovery image after so many blessed, healthy boots; 0: never by itself.
  std::uint32_t recovery_after = 3;
  // What the boot before left word of, one line; asked once a fallback. Null: nobody knows.
  std::function<std::string()> why_boot_failed;
};

struct EngineStatus {
  // kStateMissing while the state partition is not mounted.
  UpdateState state = UpdateState::kIdle;
  // What is being updated to; empty in kIdle.
  std::string version;
  // The same, in kVerified to kRebooting; empty otherwise.
  std::string staged_version;
  // Absent until the ESP could be read.
  std::optional<BootInventory> running;
  std::vector<VersionFailure> failures;
  // As of the last check.
  Health health;
  std::uint64_t fetched_bytes = 0;
  std::uint64_t fetch_size = 0;
  // What holds the machine up now, if anything does.
  Status problem;
  // What was found wrong with the controller's signing journal since this process began; OK otherwise.
  Status journal;
};

// A change worth telling the controller.
struct UpdateReport {
  UpdateState state = UpdateState::kIdle;
  std::string version;
  // Empty where nothing went wrong.
  std::string reason;
  std::string message;
  bool healthy = false;

  bool operator==(const UpdateReport&) const = default;
};

struct StepOutcome {
  // More can be done at once.
  bool busy = false;
  // Otherwise: nothing to do for so long unless an input arrives.
  std::chrono::milliseconds wait{};
};

class UpdateEngine {
 public:
  struct Seams {
    StatePlace& place;
    ReleaseCatalog& catalog;
    ImageFetcher& fetcher;
    Stager& stager;
    Rebooter& rebooter;
    HealthCheck& health;
    // Its floor is raised by what the store remembers and the catalog proves, and by each trusted release.
    AgentClock& clock;
    // Null: the disks are not encrypted.
    UnlockCheck* unlock = nullptr;
  };

  UpdateEngine(UpdateSettings settings, const Seams& seams);
  UpdateEngine(const UpdateEngine&) = delete;
  UpdateEngine& operator=(const UpdateEngine&) = delete;

  // Opens the state and decides by what runs where to go on. Called by Tick too, as often as it takes; a
  // caller that wants a true first check-in calls it once before.
  void Resume();
  // One transition or one bounded amount of work.
  StepOutcome Tick();

  // The answer of a check-in. Either counts as a sign of life of the controller.
  void OnDesired(const DesiredRelease& desired);
  void OnNothingDesired();
  // The report to send next. The same one until it is accepted or overtaken by a later change.
  std::optional<UpdateReport> DueReport() const;
  void OnReportAccepted(const UpdateReport& report);
  // Signed orders, already verified by the caller. Errors: FAILED_PRECONDITION/STATE_MISSING and those of
  // StateStore::Commit.
  Status OnOrderRetry(const std::string& version);
  Status OnOrderRollback(const std::string& version);
  // Makes the running image the recovery image now. Errors also: those of Stager::PointRecovery.
  Status OnOrderRecovery();

  EngineStatus status() const;

 private:
  using Instant = std::chrono::steady_clock::time_point;

  // --- update_engine.cc: the step, transitions, effects
  StepOutcome Step();
  // Commits `change`, whose record becomes of the state that the table says, then runs the effect.
  Status Take(UpdateEvent event, StateChange change);
  Status TakeRecord(UpdateEvent event, UpdateRecord record);
  Status RunEffect(UpdateEffect effect);
  // What cannot be removed now is with the next update.
  void DropDownloads();
  void RemoveOldImages();
  // Also keeps the time that the clock never runs before.
  Status Commit(StateChange change);
  // The record of now, entered in this boot.
  UpdateRecord Entered() const;
  void DropEvidence();
  StepOutcome Busy();
  StepOutcome Wait(std::chrono::milliseconds duration) const;
  // Keeps the machine where it is until a while later. Images are checked again then: dbx may have grown.
  StepOutcome Hold(const Status& problem);
  // The same; the controller is told, unless it is for lack of a connection.
  StepOutcome HoldAndTell(const std::string& version, const Status& problem);
  // The way into kBlessed or kFellBack changes what boots: nothing follows before that was seen through.
  bool EffectOwed() const;
  // Busy on success, held otherwise.
  StepOutcome After(const Status& status);
  const UpdateRecord& record() const { return state_.record; }
  std::chrono::milliseconds Since(Instant instant) const;

  // --- engine_inputs.cc
  void TakeWish();
  void ReportMetadata(const std::string& version, const Status& refused);

  // --- engine_resume.cc: what runs decides
  Status OpenState();
  void CloseState();
  Status DecideByWhatRuns();
  Status ResumeIdle();
  Status ResumeBeforeArmed();
  Status ResumeArmed();
  Status ResumeRebooting();
  Status ResumeAssessing();
  Status ResumeBlessed();
  Status LapseFailures();
  Status EnterAssessing(UpdateEvent event, UpdateRecord record);
  Status EnterFellBack(const std::string& version, const std::string& message);
  Result<std::optional<Fallback>> FallbackOf(const std::string& version);
  bool TargetRuns() const { return inventory_->running_digest == state_.record.image_digest; }
  bool SameBoot() const { return state_.record.boot_id == settings_.boot_id; }

  // --- engine_fetch.cc: Idle to Staged
  StepOutcome StepIdle();
  StepOutcome StepFetching();
  StepOutcome StepVerified();
  StepOutcome StepStaged();
  // These end the step with an outcome, or let it go on with what it asked for.
  // A trusted release that policy allows. One that is not is given up, by that event.
  enum class Metadata { kUnexpired, kOfNow };
  std::optional<StepOutcome> EnsureRelease(const DesiredRelease& desired, UpdateEvent give_up,
                                           Metadata metadata = Metadata::kUnexpired);
  // As EnsureRelease, for the version of the record. A record that says something else is dropped.
  std::optional<StepOutcome> EnsureRecordedRelease(UpdateEvent give_up,
                                                   Metadata metadata = Metadata::kUnexpired);
  void NoteJournal(const Status& found);
  // Some of the first object that is not here whole: an extension, at last the image.
  std::optional<StepOutcome> FetchSome();
  bool Fetched() const;
  struct Object {
    Sha256Digest digest;
    std::uint64_t size = 0;
  };
  // What has to be fetched: companions, boot loader, image.
  std::vector<Object> Objects() const;
  Status EnsureStaged();
  // What the trusted release says of its image and of what lies beside it.
  ImageExpectations Expected() const;
  Status VerifyFetched();
  // Counts, and gives the version up where it is final or was tried often enough.
  StepOutcome TryFailed(UpdateEvent give_up, const Status& status);
  StepOutcome GiveUp(UpdateEvent event, const std::string& version, const Status& status);
  StepOutcome FetchAgain(const Status& why);
  StepOutcome BackBecause(UpdateEvent event, const Status& why);
  const VersionFailure* FindFailure(const std::string& version) const;

  // --- engine_boot.cc: Armed to Blessed, and back
  StepOutcome StepArmed();
  StepOutcome StepRebooting();
  StepOutcome StepAssessing();
  StepOutcome StepBlessed();
  StepOutcome StepFellBack();
  // Counts this boot towards the recovery image, once, and points it when there were enough.
  void CountBlessedBoot();
  // The recovery entry then leads to what runs, and status() says so.
  Status PointRecovery();
  void CheckHealth();
  bool ControllerIsAway() const;
  bool CanFallBack() const;
  std::int64_t SteadyMs() const;
  // When the state was entered, on this boot's monotonic clock.
  Instant EnteredAt() const;

  const UpdateSettings settings_;
  const Seams seams_;

  std::unique_ptr<StateStore> store_;
  NodeState state_;
  bool resumed_ = false;
  // As of the start, of activation and of blessing.
  std::optional<BootInventory> inventory_;

  // The wish of the last check-in.
  std::optional<DesiredRelease> wish_;
  std::optional<Instant> controller_seen_;

  // Evidence gathered by this process; none of it outlives it.
  std::optional<TrustedRelease> release_;
  std::optional<VerifiedImage> verified_;
  std::optional<StagedImage> staged_;
  // The staged image was proven to open the disks.
  bool unlocks_ = false;
  // The effect of the way into the state was seen through by this process.
  bool effect_done_ = false;
  // This boot was counted, or cannot be.
  bool boot_counted_ = false;
  std::uint32_t tries_failed_ = 0;
  // Of the release's objects in order; empty before anything was asked for.
  std::vector<FetchProgress> fetched_;
  std::optional<Instant> reboot_asked_;

  Health health_;
  std::optional<Instant> health_checked_;
  std::optional<Instant> last_healthy_;

  Status problem_;
  Status journal_;
  std::optional<Instant> retry_at_;
  // A refusal that no state records: of metadata, or of the state found at the start.
  std::optional<UpdateReport> note_;
  std::optional<UpdateReport> note_told_;
};

}  // namespace sealift::agent
