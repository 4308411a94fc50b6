// The update machine as data: states, events, what follows from what, and what a new wish may replace.
//
// Constant tables and pure functions; thread-safe. The engine looks every transition up here and takes no
// other; docs/update-states.md is generated from the same tables (UpdateTablesMarkdown) and a test compares.
//
// A state has *work*: steps that change nothing a boot depends on, so that they may be repeated or left off
// at any moment. A transition has an *effect*: the one step that changes what boots, or ends the trial. The
// transition is durable before its effect begins, so a state whose way in has an effect begins by repeating
// it after a power cut or a killed process.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "shared/base/status.h"
#include "shared/release/update_state.h"

namespace sealift::agent {

enum class UpdateEvent : std::uint8_t {
  kReleaseTrusted,
  kReleaseRefused,
  kImageVerified,
  kImageRefused,
  kContentLost,
  kImageStaged,
  kStagedImageLost,
  kArm,
  kArmFailed,
  kEntriesFlipped,
  kTargetRuns,
  kFellBack,
  kOtherBootChosen,
  kTrialFound,
  kAssessedGood,
  kHealthFailed,
  kReportAccepted,
  kSuperseded,
  kWithdrawn,
  kRecordRefused,
};

enum class UpdateEffect : std::uint8_t {
  kNone,
  // Stager::Activate: the boot entries are flipped.
  kFlipEntries,
  // Rebooter::RequestReboot.
  kReboot,
  // Stager::Bless.
  kBless,
  // Stager::Disarm: an image that was armed and does not run is not started again.
  kDisarm,
  // Downloads of the version are removed.
  kDropDownloads,
  // The same, and images on the ESP that no entry names.
  kCleanUp,
};

struct Transition {
  UpdateState from;
  UpdateEvent event;
  UpdateState to;
  // What is durable, in one commit with the state, before the effect.
  std::string_view persisted;
  UpdateEffect effect;
};

// What the controller wishes, compared with what the machine is at.
enum class Wish : std::uint8_t { kSameVersion, kOtherVersion, kNothing };
inline constexpr Wish kAllWishes[] = {Wish::kSameVersion, Wish::kOtherVersion, Wish::kNothing};

enum class WishOutcome : std::uint8_t {
  // Nothing changes; the wish is for what happens already, or there is none.
  kGoOn,
  // The wish becomes what the machine works on.
  kTakeUp,
  // What the machine works on is dropped for the wish.
  kReplace,
  // What the machine works on is dropped.
  kDrop,
  // The wish waits; the controller repeats it at every check-in.
  kDefer,
};

struct TakeOver {
  UpdateState state;
  Wish wish;
  WishOutcome outcome;
  std::string_view why;
};

// Every state that is stored, in order: kIdle to kFellBack.
std::span<const UpdateState> StoredStates();
std::span<const Transition> Transitions();
std::span<const TakeOver> TakeOvers();

// Null where the event has no place in the state.
const Transition* FindTransition(UpdateState from, UpdateEvent event);
// Total over StoredStates() and kAllWishes.
WishOutcome DecideWish(UpdateState state, Wish wish);

// "IDLE", ... as in the wire contract.
std::string_view UpdateStateName(UpdateState state);
std::string_view UpdateEventName(UpdateEvent event);
std::string_view UpdateEffectName(UpdateEffect effect);
std::string_view WishOutcomeName(WishOutcome outcome);
// Errors: INVALID_ARGUMENT/MALFORMED for a number that is no stored state.
Result<UpdateState> StoredStateFromNumber(std::int64_t number);

// The body of docs/update-states.md.
std::string UpdateTablesMarkdown();

}  // namespace sealift::agent
