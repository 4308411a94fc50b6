#include "node-agent/volume/unlock.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <stop_token>

#include "node-agent/volume/volume_token.h"
#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

constexpr auto kDevicePoll = std::chrono::milliseconds(100);
constexpr std::size_t kMaxMarkBytes = 256;
// Of a mark that names no order.
constexpr std::string_view kUnnamedOrder = "unnamed";

struct Candidate {
  std::string name;
  std::filesystem::path device;
  Result<UnsealedVolume> volume;
};

// Who asked for new recovery keys; nothing when nobody did.
std::optional<std::string> ReadReplaceMark(const std::filesystem::path& file) {
  std::error_code error;
  if (file.empty() || !std::filesystem::exists(file, error)) return std::nullopt;
  std::string order = ReadTextFile(file, kMaxMarkBytes).value_or("");
  while (order.ends_with('\n')) order.pop_back();
  return IsOrderId(order) ? order : std::string(kUnnamedOrder);
}

class Unlocking {
 public:
  Unlocking(const UnlockOptions& options, const RunningImage& image, UnlockParts parts)
      : options_(options), image_(image), parts_(std::move(parts)) {}

  Result<UnlockReport> Run() {
    report_.image_epoch = options_.image_epoch;
    UnsealAll(WaitForDevices());
    SEALIFT_RETURN_IF_ERROR(CheckEpoch());
    ResetIfOrdered();
    OpenAll();
    for (const MountRule& rule : options_.required) ExpectMount(rule);
    if (parts_.opened) parts_.opened(report_);
    for (const MountRule& rule : options_.required) MountOne(rule);
    SettleTokens();
    ReplaceRecoveryKeys();
    return std::move(report_);
  }

 private:
  using Partitions = std::multimap<std::string, std::filesystem::path>;

  bool IsRequired(const std::string& name) const {
    return std::ranges::any_of(options_.required, [&](const MountRule& rule) { return rule.volume == name; });
  }

  Partitions WaitForDevices() {
    const auto deadline = parts_.clock.Steady() + options_.device_timeout;
    const std::stop_token never;
    while (true) {
      Partitions found = parts_.partitions();
      const bool complete = std::ranges::all_of(
          options_.required, [&](const MountRule& rule) { return HoldsOurs(found, rule.volume); });
      if (complete || parts_.clock.Steady() >= deadline) return found;
      parts_.clock.SleepFor(kDevicePoll, never);
    }
  }

  // A look-alike that is there first does not end the wait for the real one.
  bool HoldsOurs(const Partitions& found, const std::string& name) {
    const auto [first, end] = found.equal_range(name);
    return std::any_of(first, end,
                       [&](const auto& one) { return parts_.keeper.ReadHeader(one.second, name).ok(); });
  }

  // Required names whatever lies there; others only where they say that they are ours.
  void UnsealAll(const Partitions& partitions) {
    for (const auto& [name, device] : partitions) {
      if (!IsRequired(name) && !parts_.keeper.ReadHeader(device, name).ok()) continue;
      candidates_.push_back(
          {.name = name, .device = device, .volume = parts_.keeper.Unseal(device, name, image_)});
    }
    for (const MountRule& rule : options_.required) {
      if (partitions.contains(rule.volume)) continue;
      report_.missing[rule.volume] =
          MakeError(Code::kNotFound, Reason::kVolumeMissing,
                    fmt::format("open volume '{}': no partition has this name", rule.volume));
    }
  }

  // The highest epoch that any volume's base speaks of; the counter is read even where none does, so that a
  // missing one is told.
  Status CheckEpoch() {
    std::vector<std::uint64_t> bases;
    for (const Candidate& one : candidates_)
      if (one.volume.ok()) bases.push_back(one.volume->epoch_base());
    if (bases.empty()) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(report_.counter, parts_.counters.ReadCounter(kEpochCounter));
    report_.epoch_base =
        *std::ranges::max_element(bases, {}, [&](std::uint64_t base) { return report_.counter - base; });
    report_.epoch = report_.counter - report_.epoch_base;
    if (options_.image_epoch >= report_.epoch) return OkStatus();
    return MakeError(
        Code::kFailedPrecondition, Reason::kEpochTooLow,
        fmt::format("unlock volumes: the image is of epoch {}, this machine accepts {} and above",
                    options_.image_epoch, report_.epoch));
  }

  // Whatever goes wrong here, the other volumes open.
  void ResetIfOrdered() {
    if (parts_.resets == nullptr || !options_.escrow) return;
    const Result<std::string> order = parts_.resets->Pending();
    if (!order.ok()) log::Error("reset order was not looked at", {{"error", Describe(order.status())}});
    if (!order.ok() || order->empty()) return;
    const Status done = Reset(*order);
    if (done.ok()) return;
    log::Error("reset order was not carried out", {{"key", *order}, {"error", Describe(done)}});
  }

  Status Reset(const std::string& order) {
    const auto rule = std::ranges::find(options_.required, kPersistentVolume, &MountRule::volume);
    Candidate* target = nullptr;
    std::size_t others = 0;
    for (Candidate& one : candidates_) {
      if (one.name != kPersistentVolume) continue;
      if (one.volume.ok() && (target == nullptr || !target->volume.ok())) target = &one;
      if (target == nullptr) target = &one;
      others += one.volume.ok() ? 0u : 1u;
    }
    if (rule == options_.required.end() || target == nullptr || (!target->volume.ok() && others != 1)) {
      return MakeError(Code::kFailedPrecondition, Reason::kVolumeForeign,
                       "reset: it cannot be told which partition is meant");
    }
    if (report_.counter == 0) {
      // No volume opened, so none says what the base is: this image's epoch is the lowest from now on.
      SEALIFT_ASSIGN_OR_RETURN(report_.epoch_base, NewEpochBase(parts_.counters, options_.image_epoch));
      SEALIFT_ASSIGN_OR_RETURN(report_.counter, parts_.counters.ReadCounter(kEpochCounter));
      report_.epoch = options_.image_epoch;
    }
    log::Info("reset order is carried out: the volume is made anew", {{"key", order}});
    SEALIFT_ASSIGN_OR_RETURN(EscrowTo escrow, options_.escrow());
    MakeOptions make{
        .binding = {.policy_key = image_.policy_key, .bind_secure_boot = image_.bind_secure_boot},
        .escrow = std::move(escrow),
        .epoch_base = report_.epoch_base};
    Result<MadeVolume> made = parts_.keeper.Make({.device = target->device,
                                                  .name = target->name,
                                                  .fs_label = rule->fs_label,
                                                  .fs_type = rule->fs_type},
                                                 make);
    // As it was, half made, or new: like any other from here on, and to be bound to the image's other keys.
    target->volume = parts_.keeper.Unseal(target->device, target->name, image_);
    SEALIFT_RETURN_IF_ERROR(made.status());
    made_ = target->device;
    // An order that stays good would make it anew in the next boot, so nothing is written to it until then.
    const Status consumed = parts_.resets->Consume(order);
    report_.volumes.push_back({.name = target->name,
                               .device = target->device,
                               .status = consumed,
                               .luks_uuid = made->facts.luks_uuid,
                               .slot = target->volume.ok() ? target->volume->slot() : 0,
                               .bindings = BindingsOf(target->device, target->name),
                               .recoveries = {made->recovery}});
    if (!consumed.ok()) {
      report_.missing.emplace(target->name, consumed);
      return consumed;
    }
    opened_[target->name] = made->facts.mapped;
    report_.reset = order;
    return OkStatus();
  }

  std::vector<VolumeBound> BindingsOf(const std::filesystem::path& device, const std::string& name) {
    Result<VolumeHeader> header = parts_.keeper.ReadHeader(device, name);
    return header.ok() ? std::move(header->bindings) : std::vector<VolumeBound>();
  }

  void OpenAll() {
    for (Candidate& one : candidates_) {
      if (one.device == made_) continue;
      VolumeOutcome outcome{.name = one.name,
                            .device = one.device,
                            .status = one.volume.status(),
                            .luks_uuid = {},
                            .bindings = {},
                            .recoveries = {}};
      if (one.volume.ok()) {
        outcome.luks_uuid = one.volume->header().luks_uuid;
        outcome.slot = one.volume->slot();
        outcome.bindings = one.volume->header().bindings;
        outcome.status = opened_.contains(one.name)
                             ? MakeError(Code::kFailedPrecondition, Reason::kVolumeForeign,
                                         fmt::format("open volume {}: another one of this name is open",
                                                     one.device.string()))
                             : Open(one);
      }
      if (outcome.status.ok()) {
        outcome.recoveries = one.volume->header().recoveries;
      } else {
        log::Error("volume was not opened",
                   {{"path", one.device.string()}, {"error", Describe(outcome.status)}});
        // A later one may open; the first refusal explains best otherwise.
        if (IsRequired(one.name)) report_.missing.emplace(one.name, outcome.status);
      }
      report_.volumes.push_back(std::move(outcome));
    }
  }

  Status Open(const Candidate& one) {
    SEALIFT_ASSIGN_OR_RETURN(const VolumeFacts facts, parts_.keeper.Open(*one.volume));
    opened_[one.name] = facts.mapped;
    return OkStatus();
  }

  // The one of this name that opened.
  VolumeOutcome* OpenedOutcome(const std::string& name) {
    const auto found = std::ranges::find_if(
        report_.volumes, [&](const VolumeOutcome& one) { return one.name == name && one.status.ok(); });
    return found == report_.volumes.end() ? nullptr : &*found;
  }

  void ExpectMount(const MountRule& rule) {
    if (VolumeOutcome* outcome = OpenedOutcome(rule.volume)) {
      outcome->mount = MakeError(Code::kUnavailable, Reason::kVolumeDamaged,
                                 fmt::format("mount volume '{}': it was not finished", rule.volume));
    }
  }

  void MountOne(const MountRule& rule) {
    const auto opened = opened_.find(rule.volume);
    if (opened == opened_.end()) return;
    const Status mounted = parts_.mounts.Mount(opened->second, rule.fs_type, rule.target);
    if (VolumeOutcome* outcome = OpenedOutcome(rule.volume)) outcome->mount = mounted;
    if (mounted.ok()) {
      report_.missing.erase(rule.volume);
      return;
    }
    log::Error("volume was not mounted", {{"error", Describe(mounted)}});
    report_.missing[rule.volume] = mounted;
  }

  void SettleTokens() {
    for (const Candidate& one : candidates_) {
      const auto outcome = std::ranges::find(report_.volumes, one.device, &VolumeOutcome::device);
      if (!one.volume.ok() || outcome == report_.volumes.end() || !outcome->status.ok()) continue;
      const Result<std::size_t> removed = parts_.keeper.RemoveForeignTokens(*one.volume, image_);
      if (!removed.ok()) {
        log::Error("tokens of others stay on the volume", {{"error", Describe(removed.status())}});
      } else if (*removed != 0) {
        log::Warning("tokens that this image does not accept were removed", {{"path", one.device.string()}});
      }
      const Result<std::size_t> added = parts_.keeper.AddBindings(*one.volume, image_);
      if (!added.ok()) {
        log::Error("volume was not bound to the next PCR policy key", {{"error", Describe(added.status())}});
      } else if (*added != 0) {
        log::Info("volume is bound to another PCR policy key", {{"path", one.device.string()}});
      }
      outcome->bindings = BindingsOf(one.device, one.name);
    }
  }

  void ReplaceRecoveryKeys() {
    const std::optional<std::string> order = ReadReplaceMark(options_.replace_recovery);
    if (!order || !options_.escrow) return;
    for (const Candidate& one : candidates_) {
      // Made already: it waits for its acknowledgement.
      if (!one.volume.ok() || !opened_.contains(one.name) || one.volume->HasRecoveryFor(*order)) continue;
      const auto outcome = std::ranges::find(report_.volumes, one.device, &VolumeOutcome::device);
      if (outcome == report_.volumes.end() || !outcome->status.ok()) continue;
      const Result<EscrowTo> escrow = options_.escrow();
      auto added = escrow.ok() ? parts_.keeper.AddRecovery(*one.volume, *escrow, *order)
                               : Result<escrow::EscrowedKey>(escrow.status());
      if (added.ok()) {
        outcome->recoveries.push_back(*std::move(added));
      } else {
        log::Error("recovery key was not replaced", {{"error", Describe(added.status())}});
      }
    }
  }

  const UnlockOptions& options_;
  const RunningImage& image_;
  UnlockParts parts_;
  std::vector<Candidate> candidates_;
  std::map<std::string, std::filesystem::path> opened_;
  // The device of the volume that a reset made.
  std::filesystem::path made_;
  UnlockReport report_;
};

}  // namespace

std::vector<MountRule> CosVolumes() {
  return {{.volume = std::string(kOemVolume), .target = "/oem", .fs_label = "COS_OEM"},
          {.volume = std::string(kPersistentVolume), .target = "/usr/local", .fs_label = "COS_PERSISTENT"}};
}

Result<UnlockReport> UnlockVolumes(const UnlockOptions& options, const RunningImage& image,
                                   UnlockParts parts) {
  return Unlocking(options, image, std::move(parts)).Run();
}

}  // namespace sealift::agent
