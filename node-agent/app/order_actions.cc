#include "node-agent/app/order_actions.h"

#include <fmt/format.h>

#include <charconv>

#include "node-agent/esp/one_shot.h"
#include "node-agent/order/order_log.h"
#include "node-agent/order/reset_order_file.h"
#include "node-agent/volume/unlock.h"
#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

constexpr std::uint64_t kMaxOutcomeBytes = 8u << 10;

std::uint64_t EpochOf(const order::ChangeRequest& request) {
  const std::string& text = request.parameters.at("epoch");
  std::uint64_t epoch = 0;
  std::from_chars(text.data(), text.data() + text.size(), epoch);
  return epoch;
}

BootRole RoleOf(const order::ChangeRequest& request) { return RoleOfId(request.parameters.at("entry")); }

Status NotHere(std::string_view what) {
  return MakeError(Code::kFailedPrecondition, Reason::kOrderUnsupported,
                   std::string("take order: ").append(what));
}

}  // namespace

Result<BootInventory> AgentOrderActions::BlessedInventory() const {
  const EngineStatus status = parts_.engine.status();
  const bool settled = status.state == UpdateState::kIdle || status.state == UpdateState::kBlessed;
  if (status.running && settled && !status.running->running_on_trial) return *status.running;
  return MakeError(Code::kFailedPrecondition, Reason::kBootNotBlessed,
                   "take order: an update is under way, or what runs was not blessed yet");
}

Status AgentOrderActions::Check(const order::ChangeRequest& request) {
  switch (request.action) {
    case order::Action::kReset:
      return parts_.volumes_encrypted ? OkStatus()
                                      : NotHere("this image has no encrypted volume to make anew");
    case order::Action::kRaiseEpoch: {
      SEALIFT_RETURN_IF_ERROR(CheckEpochStep(EpochOf(request)));
      SEALIFT_ASSIGN_OR_RETURN(const BootInventory inventory, BlessedInventory());
      return parts_.epochs.CheckRaise(inventory, EpochOf(request));
    }
    case order::Action::kUpgradeRecovery:
      return BlessedInventory().status();
    case order::Action::kRetry:
    case order::Action::kRollback:
    case order::Action::kSelectEntry:
    case order::Action::kReplaceRecoveryKey:
    case order::Action::kReleaseRecoveryKey:
      return OkStatus();
  }
  return NotHere("an action of another version");
}

// Each step is a write of the TPM's memory, by the one thread that does everything else, too.
Status AgentOrderActions::CheckEpochStep(std::uint64_t epoch) {
  SEALIFT_ASSIGN_OR_RETURN(const EpochState state, ReadEpochState(parts_.runtime));
  SEALIFT_ASSIGN_OR_RETURN(const std::uint64_t counter, parts_.counters.ReadCounter(kEpochCounter));
  const std::uint64_t now = counter - state.base;
  if (epoch <= now || epoch - now <= kMaxEpochSteps) return OkStatus();
  return MakeError(
      Code::kFailedPrecondition, Reason::kOrderUnsupported,
      fmt::format("raise epoch from {} to {}: at most {} steps at once", now, epoch, kMaxEpochSteps));
}

Status AgentOrderActions::RaiseEpoch(std::uint64_t epoch) {
  SEALIFT_ASSIGN_OR_RETURN(const EpochState state, ReadEpochState(parts_.runtime));
  SEALIFT_ASSIGN_OR_RETURN(std::uint64_t counter, parts_.counters.ReadCounter(kEpochCounter));
  // From where a cut left it. Nothing else raises it while this process runs.
  while (counter - state.base < epoch) {
    SEALIFT_ASSIGN_OR_RETURN(counter, parts_.counters.IncrementCounter(kEpochCounter));
  }
  log::Info("security epoch raised", {{"state", fmt::format("{}", epoch)}});
  return OkStatus();
}

Result<bool> AgentOrderActions::Perform(const order::ChangeRequest& request) {
  switch (request.action) {
    case order::Action::kReset:
      return NotHere("a reset is carried out by the early boot");
    case order::Action::kRaiseEpoch:
      SEALIFT_RETURN_IF_ERROR(Check(request));
      SEALIFT_RETURN_IF_ERROR(RaiseEpoch(EpochOf(request)));
      return true;
    case order::Action::kRetry:
      SEALIFT_RETURN_IF_ERROR(parts_.engine.OnOrderRetry(request.parameters.at("version")));
      return true;
    case order::Action::kRollback:
      SEALIFT_RETURN_IF_ERROR(parts_.engine.OnOrderRollback(request.parameters.at("version")));
      return true;
    case order::Action::kUpgradeRecovery:
      SEALIFT_RETURN_IF_ERROR(parts_.engine.OnOrderRecovery());
      return true;
    case order::Action::kSelectEntry:
      SEALIFT_RETURN_IF_ERROR(SelectOnce(parts_.esp, parts_.variables, RoleOf(request)).status());
      return true;
    case order::Action::kReplaceRecoveryKey:
    case order::Action::kReleaseRecoveryKey:
      return parts_.escrow.Replace(request.id);
  }
  return NotHere("an action of another version");
}

// Only recovery keys take that long.
Result<bool> AgentOrderActions::HasEnded(const std::string&) { return parts_.escrow.HasReplaced(); }

Status AgentOrderActions::StageReset(const std::string& envelope) {
  return WriteResetOrder(parts_.esp, envelope);
}

Status AgentOrderActions::DropReset() { return RemoveResetOrder(parts_.esp); }

std::optional<OrderOutcome> AgentOrderActions::ResetOutcome() {
  const auto text = ReadTextFile(parts_.runtime / kResetOutcomeName, kMaxOutcomeBytes);
  if (!text.ok()) return std::nullopt;
  auto outcome = ParseOutcome(*text);
  if (outcome.ok()) return *std::move(outcome);
  log::Warning("the early boot's word about a reset is not readable",
               {{"error", Describe(outcome.status())}});
  return std::nullopt;
}

Status AgentOrderActions::RequestReboot(const std::string& why) { return parts_.rebooter.RequestReboot(why); }

}  // namespace sealift::agent
