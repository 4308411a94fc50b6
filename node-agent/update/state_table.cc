#include "node-agent/update/state_table.h"

#include <fmt/format.h>

#include <array>

namespace sealift::agent {
namespace {

using S = UpdateState;
using E = UpdateEvent;
using F = UpdateEffect;

constexpr std::array kStored = {S::kIdle,      S::kFetching,  S::kVerified, S::kStaged,  S::kArmed,
                                S::kRebooting, S::kAssessing, S::kBlessed,  S::kFellBack};

constexpr Transition kTransitions[] = {
    {S::kIdle, E::kReleaseTrusted, S::kFetching, "version, release id, image digest and size", F::kNone},
    {S::kIdle, E::kReleaseRefused, S::kIdle, "the failure, report due", F::kNone},
    {S::kIdle, E::kTrialFound, S::kAssessing, "running version and digest, boot id", F::kNone},
    {S::kIdle, E::kFellBack, S::kFellBack, "the failure, report due", F::kDisarm},
    {S::kIdle, E::kReportAccepted, S::kIdle, "nothing due", F::kCleanUp},

    {S::kFetching, E::kImageVerified, S::kVerified, "state", F::kNone},
    {S::kFetching, E::kReleaseRefused, S::kIdle, "the failure, report due", F::kDropDownloads},
    {S::kFetching, E::kImageRefused, S::kIdle, "the failure, report due", F::kDropDownloads},
    {S::kFetching, E::kSuperseded, S::kIdle, "nothing wanted", F::kDropDownloads},
    {S::kFetching, E::kWithdrawn, S::kIdle, "nothing wanted", F::kNone},
    {S::kFetching, E::kRecordRefused, S::kIdle, "nothing wanted", F::kDropDownloads},

    {S::kVerified, E::kImageStaged, S::kStaged, "state, report due", F::kNone},
    {S::kVerified, E::kContentLost, S::kFetching, "state", F::kNone},
    {S::kVerified, E::kReleaseRefused, S::kIdle, "the failure, report due", F::kCleanUp},
    {S::kVerified, E::kImageRefused, S::kIdle, "the failure, report due", F::kCleanUp},
    {S::kVerified, E::kSuperseded, S::kIdle, "nothing wanted", F::kCleanUp},
    {S::kVerified, E::kWithdrawn, S::kIdle, "nothing wanted", F::kNone},
    {S::kVerified, E::kRecordRefused, S::kIdle, "nothing wanted", F::kCleanUp},

    {S::kStaged, E::kArm, S::kArmed, "running version, boot id", F::kFlipEntries},
    {S::kStaged, E::kStagedImageLost, S::kVerified, "state", F::kNone},
    {S::kStaged, E::kReleaseRefused, S::kIdle, "the failure, report due", F::kCleanUp},
    {S::kStaged, E::kImageRefused, S::kIdle, "the failure, report due", F::kCleanUp},
    {S::kStaged, E::kSuperseded, S::kIdle, "nothing wanted", F::kCleanUp},
    {S::kStaged, E::kWithdrawn, S::kIdle, "nothing wanted", F::kCleanUp},
    {S::kStaged, E::kRecordRefused, S::kIdle, "nothing wanted", F::kCleanUp},

    {S::kArmed, E::kEntriesFlipped, S::kRebooting, "boot id", F::kReboot},
    {S::kArmed, E::kArmFailed, S::kIdle, "the failure, report due", F::kDisarm},
    {S::kArmed, E::kRecordRefused, S::kIdle, "nothing wanted", F::kDisarm},
    {S::kArmed, E::kTargetRuns, S::kAssessing, "boot id, when", F::kNone},
    {S::kArmed, E::kFellBack, S::kFellBack, "the failure, report due", F::kDisarm},

    {S::kRebooting, E::kTargetRuns, S::kAssessing, "boot id, when", F::kNone},
    {S::kRebooting, E::kFellBack, S::kFellBack, "the failure, report due", F::kDisarm},

    {S::kAssessing, E::kTargetRuns, S::kAssessing, "boot id, when; nothing accepted yet", F::kNone},
    {S::kAssessing, E::kReportAccepted, S::kAssessing, "that a report of this boot was accepted", F::kNone},
    {S::kAssessing, E::kAssessedGood, S::kBlessed, "state, report due", F::kBless},
    {S::kAssessing, E::kHealthFailed, S::kRebooting, "what failed, boot id", F::kReboot},
    {S::kAssessing, E::kFellBack, S::kFellBack, "the failure, report due", F::kDisarm},

    {S::kBlessed, E::kReportAccepted, S::kIdle, "nothing due", F::kCleanUp},
    {S::kBlessed, E::kSuperseded, S::kIdle, "nothing wanted", F::kCleanUp},
    {S::kBlessed, E::kFellBack, S::kFellBack, "the failure, report due", F::kDisarm},
    {S::kBlessed, E::kOtherBootChosen, S::kIdle, "nothing wanted", F::kNone},

    {S::kFellBack, E::kReportAccepted, S::kIdle, "nothing due", F::kCleanUp},
    {S::kFellBack, E::kSuperseded, S::kIdle, "nothing wanted", F::kCleanUp},
};

constexpr std::string_view kOnlyOne = "one update at a time; the machine is at this very version";
constexpr std::string_view kUntouched = "nothing that boots was touched yet";
constexpr std::string_view kFlipped = "the entries may be flipped: what boots next is decided";

constexpr TakeOver kTakeOvers[] = {
    {S::kIdle, Wish::kSameVersion, WishOutcome::kGoOn, "the wished version runs"},
    {S::kIdle, Wish::kOtherVersion, WishOutcome::kTakeUp, "unless it failed here before"},
    {S::kIdle, Wish::kNothing, WishOutcome::kGoOn, "stay as you are"},
    {S::kFetching, Wish::kSameVersion, WishOutcome::kGoOn, kOnlyOne},
    {S::kFetching, Wish::kOtherVersion, WishOutcome::kReplace, kUntouched},
    {S::kFetching, Wish::kNothing, WishOutcome::kDrop, "the rollout was halted; what was fetched is kept"},
    {S::kVerified, Wish::kSameVersion, WishOutcome::kGoOn, kOnlyOne},
    {S::kVerified, Wish::kOtherVersion, WishOutcome::kReplace, kUntouched},
    {S::kVerified, Wish::kNothing, WishOutcome::kDrop, "the rollout was halted; what was fetched is kept"},
    {S::kStaged, Wish::kSameVersion, WishOutcome::kGoOn, kOnlyOne},
    {S::kStaged, Wish::kOtherVersion, WishOutcome::kReplace, "no entry names the staged image yet"},
    {S::kStaged, Wish::kNothing, WishOutcome::kDrop, "no entry names the staged image yet"},
    {S::kArmed, Wish::kSameVersion, WishOutcome::kGoOn, kOnlyOne},
    {S::kArmed, Wish::kOtherVersion, WishOutcome::kDefer, kFlipped},
    {S::kArmed, Wish::kNothing, WishOutcome::kGoOn, kFlipped},
    {S::kRebooting, Wish::kSameVersion, WishOutcome::kGoOn, kOnlyOne},
    {S::kRebooting, Wish::kOtherVersion, WishOutcome::kDefer, kFlipped},
    {S::kRebooting, Wish::kNothing, WishOutcome::kGoOn, kFlipped},
    {S::kAssessing, Wish::kSameVersion, WishOutcome::kGoOn, kOnlyOne},
    {S::kAssessing, Wish::kOtherVersion, WishOutcome::kDefer,
     "an image on trial must not become the one to fall back to"},
    {S::kAssessing, Wish::kNothing, WishOutcome::kGoOn, "the trial ends by itself"},
    {S::kBlessed, Wish::kSameVersion, WishOutcome::kGoOn, "done; the report is still due"},
    {S::kBlessed, Wish::kOtherVersion, WishOutcome::kReplace,
     "what runs tells the controller that it is done"},
    {S::kBlessed, Wish::kNothing, WishOutcome::kGoOn, "the report is still due"},
    {S::kFellBack, Wish::kSameVersion, WishOutcome::kGoOn, "it failed here; the report is still due"},
    {S::kFellBack, Wish::kOtherVersion, WishOutcome::kReplace, "every check-in carries the failure"},
    {S::kFellBack, Wish::kNothing, WishOutcome::kGoOn, "the report is still due"},
};

std::string_view WishName(Wish wish) {
  switch (wish) {
    case Wish::kSameVersion:
      return "the same version";
    case Wish::kOtherVersion:
      return "another version";
    case Wish::kNothing:
      return "nothing";
  }
  return "nothing";
}

struct StateProse {
  S state;
  std::string_view work;
  std::string_view resumed;
};

constexpr StateProse kProse[] = {
    {S::kIdle, "metadata and policy for a wished release",
     "stays, or assesses an unblessed running image; takes the tries again while a failure is to be "
     "reported"},
    {S::kFetching, "download to the state partition, then all checks of the image",
     "goes on at the byte reached"},
    {S::kVerified, "checks again what a new process has not checked; copies the image to the ESP",
     "checks again, stages again"},
    {S::kStaged, "a new process finds the release in metadata and the image on the ESP again",
     "checks again what lies there, arms"},
    {S::kArmed, "none: the effect of the way in", "flips the entries again, or assesses if the target runs"},
    {S::kRebooting, "none: the effect of the way in", "same boot: asks again; another boot: by what runs"},
    {S::kAssessing, "health checks; waits for an accepted report", "assesses again, or has fallen back"},
    {S::kBlessed, "none: the effect of the way in", "ends the trial again where an entry still counts"},
    {S::kFellBack, "none: the effect of the way in", "takes the tries again, reports again"},
};

}  // namespace

std::span<const UpdateState> StoredStates() { return kStored; }
std::span<const Transition> Transitions() { return kTransitions; }
std::span<const TakeOver> TakeOvers() { return kTakeOvers; }

const Transition* FindTransition(UpdateState from, UpdateEvent event) {
  for (const Transition& transition : kTransitions) {
    if (transition.from == from && transition.event == event) return &transition;
  }
  return nullptr;
}

WishOutcome DecideWish(UpdateState state, Wish wish) {
  for (const TakeOver& row : kTakeOvers) {
    if (row.state == state && row.wish == wish) return row.outcome;
  }
  return WishOutcome::kDefer;
}

std::string_view UpdateStateName(UpdateState state) {
  switch (state) {
    case S::kIdle:
      return "IDLE";
    case S::kFetching:
      return "FETCHING";
    case S::kVerified:
      return "VERIFIED";
    case S::kStaged:
      return "STAGED";
    case S::kArmed:
      return "ARMED";
    case S::kRebooting:
      return "REBOOTING";
    case S::kAssessing:
      return "ASSESSING";
    case S::kBlessed:
      return "BLESSED";
    case S::kFellBack:
      return "FELL_BACK";
    case S::kStateMissing:
      return "STATE_MISSING";
    case S::kUnknown:
      break;
  }
  return "UNKNOWN";
}

std::string_view UpdateEventName(UpdateEvent event) {
  switch (event) {
    case E::kReleaseTrusted:
      return "release trusted";
    case E::kReleaseRefused:
      return "release refused";
    case E::kImageVerified:
      return "image verified";
    case E::kImageRefused:
      return "image refused or given up";
    case E::kContentLost:
      return "fetched file lost";
    case E::kImageStaged:
      return "image staged";
    case E::kStagedImageLost:
      return "staged image lost";
    case E::kArm:
      return "arm";
    case E::kArmFailed:
      return "arming given up";
    case E::kEntriesFlipped:
      return "entries flipped";
    case E::kTargetRuns:
      return "new boot of the target";
    case E::kFellBack:
      return "another image runs than armed";
    case E::kOtherBootChosen:
      return "another image was chosen";
    case E::kTrialFound:
      return "running image is on trial";
    case E::kAssessedGood:
      return "assessed good";
    case E::kHealthFailed:
      return "health deadline passed";
    case E::kReportAccepted:
      return "report accepted";
    case E::kSuperseded:
      return "superseded";
    case E::kWithdrawn:
      return "withdrawn";
    case E::kRecordRefused:
      return "record is not what is signed";
  }
  return "unknown";
}

std::string_view UpdateEffectName(UpdateEffect effect) {
  switch (effect) {
    case F::kNone:
      return "-";
    case F::kFlipEntries:
      return "flip the boot entries";
    case F::kReboot:
      return "ask for a reboot";
    case F::kBless:
      return "end the trial of the running image";
    case F::kDisarm:
      return "take the tries from an image that does not run";
    case F::kDropDownloads:
      return "remove downloads";
    case F::kCleanUp:
      return "remove downloads and unnamed images";
  }
  return "-";
}

std::string_view WishOutcomeName(WishOutcome outcome) {
  switch (outcome) {
    case WishOutcome::kGoOn:
      return "goes on";
    case WishOutcome::kTakeUp:
      return "takes it up";
    case WishOutcome::kReplace:
      return "replaced";
    case WishOutcome::kDrop:
      return "dropped";
    case WishOutcome::kDefer:
      return "the wish waits";
  }
  return "the wish waits";
}

Result<UpdateState> StoredStateFromNumber(std::int64_t number) {
  for (const UpdateState state : kStored) {
    if (static_cast<std::int64_t>(state) == number) return state;
  }
  return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                   fmt::format("read update state: {} is no stored state", number));
}

std::string UpdateTablesMarkdown() {
  std::string out =
      "# The node's update machine\n\n"
      "Generated from `node-agent/update/state_table.cc`; a unit test compares it. Run that test with\n"
      "`SEALIFT_UPDATE_GOLDEN=1` to write it anew.\n\n"
      "`STATE_MISSING` is no state but a condition: without the mounted state partition the node reports "
      "and\n"
      "changes nothing.\n\n"
      "## States\n\nWork changes nothing that a boot depends on and may be repeated.\n\n"
      "| state | work | after a power cut or a killed agent |\n|---|---|---|\n";
  for (const StateProse& row : kProse) {
    out += fmt::format("| {} | {} | {} |\n", UpdateStateName(row.state), row.work, row.resumed);
  }
  out +=
      "\n## Transitions\n\nThe third column is durable, together with the new state, before the effect "
      "begins.\n\n"
      "| from | event | persisted first | to | effect |\n|---|---|---|---|---|\n";
  for (const Transition& row : kTransitions) {
    out += fmt::format("| {} | {} | {} | {} | {} |\n", UpdateStateName(row.from), UpdateEventName(row.event),
                       row.persisted, UpdateStateName(row.to), UpdateEffectName(row.effect));
  }
  out +=
      "\n## What a new wish may replace\n\n"
      "| at | the controller wishes | then | because |\n|---|---|---|---|\n";
  for (const TakeOver& row : kTakeOvers) {
    out += fmt::format("| {} | {} | {} | {} |\n", UpdateStateName(row.state), WishName(row.wish),
                       WishOutcomeName(row.outcome), row.why);
  }
  return out;
}

}  // namespace sealift::agent
