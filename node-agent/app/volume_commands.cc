#include "node-agent/app/volume_commands.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <iostream>
#include <nlohmann/json.hpp>

#include "node-agent/app/reset_at_boot.h"
#include "node-agent/app/secret_line.h"
#include "node-agent/esp/efi_variables.h"
#include "node-agent/install/medium.h"
#include "node-agent/order/console_reset.h"
#include "node-agent/tpm/ek_digest.h"
#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/volume/system_volumes.h"
#include "node-agent/volume/unlock.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/base/process.h"

namespace sealift::agent {
namespace {

constexpr auto kTpmTimeout = std::chrono::seconds(15);
constexpr auto kTpmPoll = std::chrono::milliseconds(200);
constexpr std::size_t kMaxTypedBytes = 256;

// The device may appear late in a boot.
Result<std::shared_ptr<TpmDevice>> WaitForTpm(const std::string& tcti, Clock& clock) {
  const auto deadline = clock.Steady() + kTpmTimeout;
  while (true) {
    Result<std::shared_ptr<TpmDevice>> device = OpenTpmDevice({.tcti = tcti});
    if (device.ok() || clock.Steady() >= deadline) return device;
    clock.SleepFor(kTpmPoll, {});
  }
}

// In the place of a TPM that does not answer: headers can be read and recovery keys tried all the same.
class DeadTpm final : public TpmVault, public TpmCounters {
 public:
  explicit DeadTpm(Status why) : why_(std::move(why)) {}
  Result<tpm::PcrValues> ReadPcrs(std::span<const std::uint32_t>) override { return why_; }
  Result<SealedObject> Seal(const SecretBytes&, const SealPolicy&, std::string_view) override { return why_; }
  Result<Unsealed> Unseal(const SealedObject&, const SealPolicy&, const SignedPcrs&,
                          std::string_view) override {
    return why_;
  }
  Result<std::uint64_t> DefineCounter(std::uint32_t) override { return why_; }
  Result<std::uint64_t> ReadCounter(std::uint32_t) override { return why_; }
  Result<std::uint64_t> IncrementCounter(std::uint32_t) override { return why_; }
  Result<Attestation> CertifyCounter(std::uint32_t, ByteView) override { return why_; }

 private:
  Status why_;
};

// Everything that unlocking uses, in the order in which it is made.
struct Machine {
  SystemClock clock;
  DeviceMapper mapper;
  SystemMounts mounts;
  std::shared_ptr<TpmDevice> device;
  std::unique_ptr<TpmVault> vault;
  std::unique_ptr<TpmCounters> counters;
  std::unique_ptr<VolumeKeeper> keeper;

  static std::unique_ptr<Machine> Open(const std::string& tcti) {
    auto machine = std::make_unique<Machine>();
    Result<std::shared_ptr<TpmDevice>> device = WaitForTpm(tcti, machine->clock);
    if (device.ok()) {
      machine->device = *std::move(device);
      machine->vault = MakeEsysVault(machine->device);
      machine->counters = MakeEsysCounters(machine->device);
    } else {
      machine->vault = std::make_unique<DeadTpm>(device.status());
      machine->counters = std::make_unique<DeadTpm>(device.status());
    }
    machine->keeper = std::make_unique<VolumeKeeper>(
        VolumeKeeper::Parts{.vault = *machine->vault, .mapper = machine->mapper, .mounts = machine->mounts});
    return machine;
  }
};

Result<EscrowTo> EscrowOf(const Settings& settings, const std::shared_ptr<TpmDevice>& device) {
  if (settings.escrow_public_pem.empty()) {
    return MakeError(Code::kFailedPrecondition, Reason::kEscrowKeyMissing,
                     "make recovery key: the image names no escrow key");
  }
  SEALIFT_ASSIGN_OR_RETURN(PublicKey key, PublicKey::FromPem(settings.escrow_public_pem));
  SEALIFT_ASSIGN_OR_RETURN(const escrow::OaepHash oaep, escrow::ParseOaepHash(settings.escrow_oaep));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest ek_digest, EndorsementKeyDigest(*MakeEsysTpm(device)));
  return EscrowTo{.key = std::move(key), .oaep = oaep, .ek_digest = ek_digest};
}

Result<RunningImage> Image(const UnlockSettings& unlock) {
  Result<RunningImage> image = ReadRunningImage(unlock.settings.volumes_bind_secure_boot, unlock.extra);
  if (image.ok() || ReasonOf(image.status()) != Reason::kFileUnreadable) return image;
  return MakeError(Code::kFailedPrecondition, Reason::kVolumeLocked,
                   "unlock volumes: this boot entry carries no PCR signature: " + MessageOf(image.status()));
}

bool IsMapped(const std::string& name) {
  std::error_code error;
  return std::filesystem::exists(std::filesystem::path(kMappedFolder) / name, error);
}

bool IsMounted(const MountRule& rule) {
  struct stat target {};
  struct stat mapped {};
  return ::stat(rule.target.c_str(), &target) == 0 &&
         ::stat((std::filesystem::path(kMappedFolder) / rule.volume).c_str(), &mapped) == 0 &&
         target.st_dev == mapped.st_rdev;
}

// What opened in the early boot and could not be mounted then. The first error.
Status MountMapped(Mounts& mounts) {
  Status first = OkStatus();
  for (const MountRule& rule : CosVolumes()) {
    if (!IsMapped(rule.volume) || IsMounted(rule)) continue;
    const Status mounted =
        mounts.Mount(std::filesystem::path(kMappedFolder) / rule.volume, rule.fs_type, rule.target);
    if (first.ok()) first = mounted;
  }
  return first;
}

// Required ones that lie nowhere.
Status CheckAllMapped() {
  for (const MountRule& rule : CosVolumes()) {
    if (IsMapped(rule.volume)) continue;
    return MakeError(
        Code::kNotFound, Reason::kVolumeMissing,
        fmt::format("open volume '{}': no partition of this name holds one of ours", rule.volume));
  }
  return OkStatus();
}

Status FirstMissing(const UnlockReport& report) {
  return report.missing.empty() ? OkStatus() : report.missing.begin()->second;
}

// Of required volumes and of others.
Status FirstProblem(const UnlockReport& report) {
  for (const VolumeOutcome& one : report.volumes) {
    if (!one.status.ok()) return one.status;
    if (!one.mount.ok()) return one.mount;
  }
  return FirstMissing(report);
}

void Tell(const UnlockReport& report) {
  for (const VolumeOutcome& one : report.volumes)
    if (one.status.ok() && one.mount.ok()) std::cout << "volume " << one.name << ": open\n";
  for (const auto& [name, status] : report.missing)
    std::cerr << "sealift-agent: volume " << name << ": " << Describe(status) << "\n"
              << ReasonAdvice(ReasonOf(status)) << "\n";
}

UnlockOptions Options(const UnlockSettings& unlock, const std::shared_ptr<TpmDevice>& device) {
  UnlockOptions options{.required = CosVolumes()};
  if (!unlock.settings.escrow_public_pem.empty())
    options.escrow = [&settings = unlock.settings, device] { return EscrowOf(settings, device); };
  options.replace_recovery = unlock.settings.state / kReplaceRecoveryName;
  return options;
}

// Opens by recovery keys what the TPM left closed: each volume has one of its own, so lines are read until
// all are open or none follows. `report`: what was opened is added.
Status OpenByRecoveryKeys(Machine& machine, std::multimap<std::string, std::filesystem::path> closed,
                          UnlockReport& report) {
  Status problem = OkStatus();
  while (!closed.empty()) {
    std::cerr << "still closed:";
    for (const auto& [name, device] : closed) std::cerr << " " << name;
    std::cerr << "\n";
    SEALIFT_ASSIGN_OR_RETURN(const SecretBytes key, ReadSecretLine("Recovery key", kMaxTypedBytes));
    if (key.empty()) break;
    for (auto one = closed.begin(); one != closed.end();) {
      const auto& [name, device] = *one;
      const Result<VolumeFacts> opened = machine.keeper->OpenByRecoveryKey(device, name, key);
      if (!opened.ok()) {
        problem = opened.status();
        ++one;
        continue;
      }
      VolumeOutcome outcome{.name = name,
                            .device = device,
                            .status = OkStatus(),
                            .luks_uuid = opened->luks_uuid,
                            .bindings = {},
                            .recoveries = {},
                            .recovered = true};
      for (const MountRule& rule : CosVolumes()) {
        if (rule.volume == name)
          outcome.mount = machine.mounts.Mount(opened->mapped, rule.fs_type, rule.target);
      }
      if (outcome.mount.ok()) std::cout << "volume " << name << ": open\n";
      report.volumes.push_back(std::move(outcome));
      SEALIFT_RETURN_IF_ERROR(report.volumes.back().mount);
      one = closed.erase(one);
    }
  }
  if (closed.empty()) return OkStatus();
  if (!problem.ok()) return problem;
  return MakeError(Code::kUnauthenticated, Reason::kRecoveryKeyWrong,
                   "open volumes: no recovery key was given");
}

// For the running agent, which otherwise cannot tell this from an early boot that never ran.
Status NothingOpened(const UnlockSettings& unlock, const Status& why) {
  UnlockReport report;
  for (const MountRule& rule : CosVolumes()) report.missing[rule.volume] = why;
  if (const Status written = WriteUnlockState(unlock.settings.runtime, report); !written.ok())
    log::Error("state of the volumes was not left", {{"error", Describe(written)}});
  return why;
}

// `entry`: what the boot loader says it started.
Result<UnlockReport> UnlockAtBoot(const UnlockSettings& unlock, const std::string& entry) {
  SEALIFT_ASSIGN_OR_RETURN(const RunningImage image, Image(unlock));
  const std::unique_ptr<Machine> machine = Machine::Open(unlock.settings.tcti);
  UnlockOptions options = Options(unlock, machine->device);
  SEALIFT_ASSIGN_OR_RETURN(options.image_epoch, ReadImageEpoch(unlock.settings.epoch));
  const std::unique_ptr<ResetOrders> orders =
      MakeResetOrders(unlock.settings, machine->device, *machine->counters, machine->clock);
  std::optional<ConsoleReset> console;
  if (unlock.settings.volumes_console_reset && LeadsToConsoleReset(entry))
    console.emplace(ConsoleReset::Parts{.orders = orders.get(), .word = NewConsoleWord()});
  return UnlockVolumes(
      options, image,
      {.keeper = *machine->keeper,
       .counters = *machine->counters,
       .mounts = machine->mounts,
       .clock = machine->clock,
       .resets = console ? &*console : orders.get(),
       .partitions = [] { return PartitionsByLabel(); },
       .opened =
           [&unlock](const UnlockReport& report) {
             if (const Status written = WriteUnlockState(unlock.settings.runtime, report); !written.ok())
               log::Error("state of the volumes was not left", {{"error", Describe(written)}});
           }});
}

// By the TPM, where this image may.
Result<UnlockReport> UnlockLater(const UnlockSettings& unlock, Machine& machine,
                                 const std::multimap<std::string, std::filesystem::path>& closed) {
  SEALIFT_ASSIGN_OR_RETURN(const RunningImage image, Image(unlock));
  UnlockOptions options{.required = CosVolumes()};
  std::erase_if(options.required, [&](const MountRule& rule) { return !closed.contains(rule.volume); });
  options.device_timeout = {};
  SEALIFT_ASSIGN_OR_RETURN(options.image_epoch, ReadImageEpoch(unlock.settings.epoch));
  return UnlockVolumes(options, image,
                       {.keeper = *machine.keeper,
                        .counters = *machine.counters,
                        .mounts = machine.mounts,
                        .clock = machine.clock,
                        .resets = nullptr,
                        .partitions = [&closed] { return closed; }});
}

}  // namespace

Status RunUnlock(const UnlockSettings& unlock) {
  SEALIFT_RETURN_IF_ERROR(ForbidCoreDumps());
  if (!unlock.settings.volumes_encrypted) {
    std::cout << "volumes are not encrypted in this image\n";
    return OkStatus();
  }
  EfivarfsVariables variables(unlock.settings.efivars);
  if (const Result<bool> medium = BootedFromMedium(variables); medium.ok() && *medium) {
    std::cout << "started from a medium: nothing is unlocked\n";
    return OkStatus();
  }
  const Result<std::string> entry = variables.ReadText("LoaderEntrySelected", kLoaderVendor);
  const Result<UnlockReport> report = UnlockAtBoot(unlock, entry.value_or(""));
  if (!report.ok()) return NothingOpened(unlock, report.status());
  Tell(*report);
  SEALIFT_RETURN_IF_ERROR(WriteUnlockState(unlock.settings.runtime, *report));
  return FirstMissing(*report);
}

Status RunUnlockAll(const UnlockSettings& unlock, bool ask) {
  SEALIFT_RETURN_IF_ERROR(ForbidCoreDumps());
  if (!unlock.settings.volumes_encrypted) {
    std::cout << "volumes are not encrypted in this image\n";
    return OkStatus();
  }
  const auto partitions = [] {
    auto found = PartitionsByLabel();
    std::erase_if(found, [](const auto& one) { return IsMapped(one.first); });
    return found;
  };
  const std::unique_ptr<Machine> machine = Machine::Open(unlock.settings.tcti);
  std::multimap<std::string, std::filesystem::path> closed = partitions();
  std::erase_if(closed,
                [&](const auto& one) { return !machine->keeper->ReadHeader(one.second, one.first).ok(); });
  const Status mounted = MountMapped(machine->mounts);
  if (closed.empty()) {
    SEALIFT_RETURN_IF_ERROR(mounted);
    SEALIFT_RETURN_IF_ERROR(CheckAllMapped());
    std::cout << "every volume of this machine is open\n";
    return OkStatus();
  }
  Result<UnlockReport> report = UnlockLater(unlock, *machine, closed);
  const Status by_tpm = report.ok() ? FirstProblem(*report) : report.status();
  if (report.ok()) {
    Tell(*report);
  } else {
    std::cerr << "sealift-agent: " << Describe(by_tpm) << "\n";
  }
  UnlockReport now = report.ok() ? *std::move(report) : UnlockReport();
  Status result = by_tpm;
  if (!by_tpm.ok() && ask) {
    std::erase_if(closed, [](const auto& one) { return IsMapped(one.first); });
    // What stayed closed until here is told by what becomes of it now.
    std::erase_if(now.volumes, [&](const VolumeOutcome& one) { return !one.status.ok(); });
    now.missing.clear();
    if (!closed.empty()) result = OpenByRecoveryKeys(*machine, std::move(closed), now);
  }
  SEALIFT_RETURN_IF_ERROR(AddUnlockState(unlock.settings.runtime, now));
  return result.ok() ? mounted : result;
}

Result<std::string> DescribeVolumes(const UnlockSettings& unlock, bool json) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  const std::unique_ptr<Machine> machine = Machine::Open(unlock.settings.tcti);
  const auto registers = machine->vault->ReadPcrs(std::array{kSecureBootPcr});
  const Result<RunningImage> image = Image(unlock);
  std::string text;
  for (const auto& [name, device] : PartitionsByLabel()) {
    const Result<VolumeHeader> header = machine->keeper->ReadHeader(device, name);
    const bool cos = name == kOemVolume || name == kPersistentVolume;
    if (!header.ok() && !cos) continue;
    nlohmann::ordered_json one{
        {"name", name}, {"device", device.string()}, {"open", IsMapped(name)}, {"ours", header.ok()}};
    text += fmt::format("{:<12} {:<16} {}", name, device.string(), IsMapped(name) ? "open" : "closed");
    if (header.ok()) {
      bool key = false;
      bool secure_boot = false;
      for (const VolumeBound& bound : header->bindings) {
        key = key || (image.ok() && bound.policy_key == image->policy_key);
        secure_boot = secure_boot || !bound.secure_boot.has_value() ||
                      (registers.ok() && *bound.secure_boot == registers->at(kSecureBootPcr));
      }
      one["luks_uuid"] = header->luks_uuid;
      one["bound_to_image_key"] = key;
      one["bound_to_secure_boot_state"] = secure_boot;
      one["recovery_keys"] = header->recoveries.size();
      text += fmt::format("  {}{}, {} recovery keys\n",
                          key ? "bound to this image's key" : "bound to another key",
                          secure_boot ? "" : ", another Secure Boot state", header->recoveries.size());
    } else {
      one["reason"] = ReasonIdOf(header.status());
      one["message"] = MessageOf(header.status());
      text += "  " + Describe(header.status()) + "\n";
    }
    list.push_back(std::move(one));
  }
  if (json)
    return nlohmann::ordered_json{{"volumes", std::move(list)}}.dump(
               2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
           "\n";
  return text.empty() ? "no volumes\n" : text;
}

}  // namespace sealift::agent
