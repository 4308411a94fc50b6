#include "node-agent/app/install_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <memory>

#include "node-agent/app/settings.h"
#include "node-agent/esp/os_release.h"
#include "node-agent/install/installer.h"
#include "node-agent/install/medium.h"
#include "node-agent/install/preflight.h"
#include "node-agent/install/tpm_volumes.h"
#include "node-agent/link/enrolment.h"
#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/volume/system_volumes.h"
#include "node-agent/volume/unlock.h"
#include "shared/base/clock.h"
#include "shared/base/files.h"
#include "shared/tpm/structures.h"

namespace sealift::agent {
namespace {

constexpr std::string_view kPcrKeyFile = "/.extra/tpm2-pcr-public-key.pem";
constexpr std::string_view kConsentWord = "enrol";

struct Arguments {
  std::string node_config{kDefaultConfigPath};
  std::string file;
  std::string keys{kImageKeysFolder};
  std::string join_token_file;
  std::string format = "text";
  bool dry_run = false;
  bool automatic = false;
};

// Progress; what was asked for goes to standard output.
void Say(std::string_view line) { std::cerr << "sealift-install: " << line << std::endl; }

// What the kernel calls "MemTotal", in bytes; 0 where it does not tell.
std::uint64_t MemoryBytes() {
  const std::string text = ReadTextFile("/proc/meminfo", 64u << 10).value_or("");
  constexpr std::string_view kName = "MemTotal:";
  const std::size_t at = text.find(kName);
  return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + kName.size(), nullptr, 10) << 10;
}

// A link such as /dev/disk/by-id/...; as it is where it leads nowhere.
std::filesystem::path ResolveLink(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::path resolved = std::filesystem::canonical(path, error);
  return error ? path : resolved;
}

class Installation {
 public:
  Installation(const Arguments& arguments, Settings settings)
      : arguments_(arguments), settings_(std::move(settings)), variables_(settings_.efivars) {}

  Status Preflight() {
    SEALIFT_RETURN_IF_ERROR(EnterOwnMounts());
    const Result<bool> from_medium = BootedFromMedium(variables_);
    if (from_medium.ok() && *from_medium) SEALIFT_RETURN_IF_ERROR(OpenMedium());
    SEALIFT_RETURN_IF_ERROR(LoadConfig(!arguments_.file.empty()));
    const std::vector<InstallFinding> findings = JudgeMachine(Facts());
    std::cout << (arguments_.format == "json" ? FindingsJson(findings) : FindingsText(findings));
    return FirstRefusal(findings);
  }

  Status Install() {
    SEALIFT_RETURN_IF_ERROR(ReadJoinToken());
    const Result<bool> selected = BootedFromMedium(variables_);
    const bool from_medium = selected.ok() && *selected;
    if (arguments_.automatic && !from_medium) return OkStatus();
    // A plan can be had anywhere, for an ESP of the least size.
    if (from_medium || !arguments_.dry_run) {
      SEALIFT_RETURN_IF_ERROR(EnterOwnMounts());
      SEALIFT_RETURN_IF_ERROR(OpenMedium());
    }
    const Status loaded = LoadConfig(arguments_.dry_run && !arguments_.file.empty());
    if (arguments_.automatic && loaded.code() == Code::kNotFound) {
      Say("no install configuration, neither in the image nor on the medium; run sealift-agent install by "
          "hand");
      return OkStatus();
    }
    SEALIFT_RETURN_IF_ERROR(loaded);
    if (arguments_.automatic && !config_.config.automatic) {
      Say("the configuration does not say auto: true; run sealift-agent install by hand");
      return OkStatus();
    }
    if (arguments_.dry_run) return DryRun();
    return Proceed();
  }

 private:
  Status OpenMedium() {
    Say("looking for the install medium");
    SEALIFT_ASSIGN_OR_RETURN(medium_, MountMedium(runner_));
    SEALIFT_ASSIGN_OR_RETURN(release_, ReadMediumRelease(medium_->release));
    Say(fmt::format("medium '{}' carries {}", medium_->disk.string(), release_->manifest.version));
    return OkStatus();
  }

  Status LoadConfig(bool anybodys) {
    if (anybodys) {
      SEALIFT_ASSIGN_OR_RETURN(config_, LoadAnyConfig(arguments_.file));
      return OkStatus();
    }
    const ConfigPlaces places{.medium = medium_ ? medium_->live : std::filesystem::path(),
                              .named = arguments_.file};
    std::vector<PublicKey> keys;
    for (const std::string& pem : settings_.install_keys) {
      SEALIFT_ASSIGN_OR_RETURN(PublicKey key, PublicKey::FromPem(pem));
      keys.push_back(std::move(key));
    }
    SEALIFT_ASSIGN_OR_RETURN(config_, LoadTrustedConfig(places, keys));
    Say(fmt::format("configuration from {}, SHA-256 {}", config_.source, config_.digest.hex()));
    return OkStatus();
  }

  Result<InstallPlan> Plan() {
    PlanInputs inputs{.encrypt = settings_.volumes_encrypted, .resolve = &ResolveLink};
    SEALIFT_ASSIGN_OR_RETURN(inputs.disks, ListDisks(runner_));
    if (medium_) inputs.medium = medium_->disk;
    if (release_) inputs.release = release_->sizes;
    return MakePlan(config_.config, inputs);
  }

  Status ProbeTpm(MachineFacts& facts) {
    SEALIFT_ASSIGN_OR_RETURN(device_, OpenTpmDevice({.tcti = settings_.tcti}));
    const std::unique_ptr<Tpm> tpm = MakeEsysTpm(device_);
    constexpr std::array<std::uint32_t, 1> kPcr{kSecureBootPcr};
    SEALIFT_RETURN_IF_ERROR(tpm->ReadPcrs(kPcr).status());
    SEALIFT_ASSIGN_OR_RETURN(const EndorsementKey key, tpm->ReadEndorsementKey());
    facts.endorsement_certificate = !key.certificates.empty();
    SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea area, tpm::ParsePublic(key.public_area));
    ek_digest_ = area.key.key_id();
    return OkStatus();
  }

  MachineFacts Facts() {
    MachineFacts facts;
    facts.uefi = variables_.ReadFlag("SecureBoot", kGlobalVendor).status();
    const Result<FirmwareKeys> keys = LoadFirmwareKeys(arguments_.keys);
    if (keys.ok()) {
      keys_ = *keys;
      facts.firmware = InspectFirmware(variables_, keys_);
      const Result<Bytes> log = ReadEventLog(settings_.event_log);
      const auto parsed = log.ok() ? tpm::EventLog::Parse(*log) : log.status();
      if (parsed.ok()) facts.option_roms = OptionRoms(*parsed, keys_);
    } else {
      facts.firmware = keys.status();
    }
    facts.tpm = ProbeTpm(facts);
    facts.memory_bytes = MemoryBytes();
    if (release_) facts.release = release_->sizes;
    facts.plan = Plan();
    facts.encrypt = settings_.volumes_encrypted;
    facts.escrow = !settings_.escrow_public_pem.empty();
    return facts;
  }

  Status DryRun() {
    SEALIFT_ASSIGN_OR_RETURN(const InstallPlan plan, Plan());
    std::cout << (arguments_.format == "json" ? PlanJson(plan) : PlanText(plan));
    return OkStatus();
  }

  Status Proceed() {
    const MachineFacts facts = Facts();
    const std::vector<InstallFinding> findings = JudgeMachine(facts);
    std::cout << FindingsText(findings) << std::flush;
    SEALIFT_RETURN_IF_ERROR(FirstRefusal(findings));
    if (facts.firmware->state == FirmwareState::kSetupMode) return EnrolKeys(facts);
    // Nothing is sealed to a firmware that starts others' software.
    SEALIFT_RETURN_IF_ERROR(RequireOurKeys(*facts.firmware));
    SEALIFT_RETURN_IF_ERROR(InstallTo(*facts.plan));
    if (config_.config.reboot) return Leave("reboot");
    if (config_.config.power_off) return Leave("poweroff");
    return OkStatus();
  }

  Status Leave(const std::string& how) {
    Say(how == "reboot" ? "rebooting" : "powering off");
    return runner_.Run({"systemctl", "--no-block", how}).status();
  }

  Status Consent(const MachineFacts& facts) {
    const bool roms = std::any_of(facts.option_roms.begin(), facts.option_roms.end(),
                                  [](const OptionRom& rom) { return !rom.allowed; });
    // Written for a kind of hardware that was tried; a ROM that nobody knew of is none of it.
    if (config_.config.consent_enrol_keys && !roms) return OkStatus();
    if (::isatty(STDIN_FILENO) == 0) {
      return MakeError(
          Code::kFailedPrecondition, Reason::kConsentMissing,
          roms ? "enrol keys: option ROMs ran in this boot, which needs somebody's consent at the console"
               : "enrol keys: the configuration does not say consent: enrol-keys, and there is no console");
    }
    std::cout << "This firmware will start only what this fleet's keys have signed"
              << (roms ? ", and none of the option ROMs above that they have not" : "") << ".\nType '"
              << kConsentWord << "' to go on: " << std::flush;
    std::string line;
    std::getline(std::cin, line);
    if (line == kConsentWord) return OkStatus();
    return MakeError(Code::kFailedPrecondition, Reason::kConsentMissing, "enrol keys: not confirmed");
  }

  Status EnrolKeys(const MachineFacts& facts) {
    SEALIFT_RETURN_IF_ERROR(Consent(facts));
    const std::filesystem::path before = settings_.runtime / "firmware-before";
    SEALIFT_ASSIGN_OR_RETURN(const std::vector<std::string> saved, SavePresentLists(variables_, before));
    for (const std::string& name : saved) {
      const std::string variable = name.substr(0, name.find('.'));
      Say(fmt::format("the firmware's present {} is saved in '{}' until the reboot", variable,
                      before.string()));
      const auto lists = ReadFile(before / name);
      const auto parsed = lists.ok() ? efi::ParseSignatureLists(*lists) : lists.status();
      if (!parsed.ok()) continue;
      for (const std::string& line : DescribeLists(variable, *parsed)) Say(line);
    }
    SEALIFT_RETURN_IF_ERROR(EnrolFirmwareKeys(
        variables_, keys_, [](std::string_view name) { Say(fmt::format("{} enrolled", name)); }));
    if (arguments_.automatic) return Leave("reboot");
    Say("reboot from the medium now, to go on under Secure Boot");
    return OkStatus();
  }

  Status InstallTo(const InstallPlan& plan) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(kPcrKeyFile, 16u << 10));
    SEALIFT_ASSIGN_OR_RETURN(const PublicKey pcr_key, PublicKey::FromPem(pem));
    SEALIFT_ASSIGN_OR_RETURN(const std::string os_release, ReadTextFile(settings_.os_release, 64u << 10));
    SEALIFT_ASSIGN_OR_RETURN(const std::string version, OsReleaseVersion(os_release));
    Say("verifying the release on the medium");
    SEALIFT_RETURN_IF_ERROR(
        VerifyMediumRelease(*release_, variables_, {.version = version, .pcr_key = pcr_key}));
    std::cout << PlanText(plan) << std::flush;
    const std::unique_ptr<TpmVault> vault = MakeEsysVault(device_);
    const std::unique_ptr<TpmCounters> counters = MakeEsysCounters(device_);
    DeviceMapper mapper;
    SystemMounts mounts;
    VolumeKeeper keeper({.vault = *vault, .mapper = mapper, .mounts = mounts});
    // Where nothing is encrypted nothing is escrowed; the key then only fills the place.
    const std::string& escrow_pem = settings_.escrow_public_pem.empty() ? pem : settings_.escrow_public_pem;
    SEALIFT_ASSIGN_OR_RETURN(const PublicKey escrow, PublicKey::FromPem(escrow_pem));
    SEALIFT_ASSIGN_OR_RETURN(const escrow::OaepHash oaep, escrow::ParseOaepHash(settings_.escrow_oaep));
    std::uint64_t epoch = 0;
    if (settings_.volumes_encrypted) {
      SEALIFT_ASSIGN_OR_RETURN(epoch, ReadImageEpoch(settings_.epoch));
    }
    TpmVolumes volumes({.keeper = keeper, .counters = *counters, .mapper = mapper},
                       {.policy_key = pcr_key, .bind_secure_boot = settings_.volumes_bind_secure_boot},
                       {.key = escrow, .oaep = oaep, .ek_digest = ek_digest_}, epoch);
    ShellHookRunner hooks;
    Installer installer({.runner = runner_,
                         .mounts = mounts,
                         .volumes = volumes,
                         .variables = variables_,
                         .hooks = hooks,
                         .open_esp = [](const auto& at) { return std::make_unique<PosixFileSystem>(at); },
                         .tell = Say,
                         .now = SystemClock().Now(),
                         .state_files = std::move(state_files_)},
                        {});
    return installer.Run(config_, plan, *release_);
  }

  // Read before anything is written to a disk.
  Status ReadJoinToken() {
    if (arguments_.join_token_file.empty()) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(Bytes token, ReadFile(arguments_.join_token_file, kMaxJoinTokenBytes));
    state_files_.push_back(
        {.name = std::string(kJoinTokenFileName), .content = SecretBytes(std::move(token))});
    return OkStatus();
  }

  const Arguments& arguments_;
  std::vector<StateFile> state_files_;
  Settings settings_;
  SystemCommandRunner runner_;
  EfivarfsVariables variables_;
  std::optional<Medium> medium_;
  std::optional<MediumRelease> release_;
  TrustedConfig config_;
  FirmwareKeys keys_;
  std::shared_ptr<TpmDevice> device_;
  Sha256Digest ek_digest_;
};

Status RunCommandOf(const Arguments& arguments, bool preflight) {
  SEALIFT_ASSIGN_OR_RETURN(Settings settings, LoadSettings(arguments.node_config));
  Installation installation(arguments, std::move(settings));
  return preflight ? installation.Preflight() : installation.Install();
}

void AddCommonOptions(CLI::App& command, Arguments& arguments) {
  command.add_option("--config", arguments.node_config, "The image's node.toml")->capture_default_str();
  command.add_option(
      "-f,--file", arguments.file,
      "Install configuration instead of the medium's or the image's; FILE.sig beside it must be by a key "
      "of node.toml's install.keys");
  command.add_option("--keys", arguments.keys, "The firmware keys that are expected")->capture_default_str();
  command.add_option("-o,--output", arguments.format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
}

}  // namespace

std::function<std::optional<Status>()> AddInstallCommands(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* install =
      app.add_subcommand("install", "Install this machine from the medium it was booted from");
  AddCommonOptions(*install, *arguments);
  install->add_flag("--dry-run", arguments->dry_run,
                    "Only print what would be written where; takes unsigned files");
  install->add_option(
      "--join-token-file", arguments->join_token_file,
      "A join token for the machine's first enrolment; kept on its state partition until then");
  install->add_flag(
      "--auto", arguments->automatic,
      "As the medium's unit does: nothing unless booted from a medium whose configuration says auto");
  install->footer(
      "Examples:\n  sealift-agent install --dry-run -f install.yaml -o json\n  sealift-agent install\n"
      "  sealift-agent install --join-token-file /run/token\n"
      "In setup mode it enrols the firmware keys and has to be run again after a reboot. docs/install.md");
  CLI::App* preflight =
      app.add_subcommand("preflight", "Say whether this machine can be installed, and why not");
  AddCommonOptions(*preflight, *arguments);
  preflight->footer(
      "Example:\n  sealift-agent preflight -o json\nExit code 1 when anything stands against it.");
  return [install, preflight, arguments]() -> std::optional<Status> {
    if (install->parsed()) return RunCommandOf(*arguments, false);
    if (preflight->parsed()) return RunCommandOf(*arguments, true);
    return std::nullopt;
  };
}

}  // namespace sealift::agent
