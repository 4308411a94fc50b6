#include "node-agent/app/daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <thread>

#include "node-agent/app/agent.h"
#include "node-agent/app/order_actions.h"
#include "node-agent/app/recovery_keys.h"
#include "node-agent/app/system.h"
#include "node-agent/app/unlock_check.h"
#include "node-agent/esp/esp_stager.h"
#include "node-agent/esp/os_release.h"
#include "node-agent/health/failed_boot.h"
#include "node-agent/health/health_check.h"
#include "node-agent/install/installer.h"
#include "node-agent/link/site_client.h"
#include "node-agent/mirror/neighbour_source.h"
#include "node-agent/mirror/share_server.h"
#include "node-agent/order/order_log.h"
#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/tpm/tls_guard.h"
#include "node-agent/tpm/tls_signer.h"
#include "node-agent/update/content_fetcher.h"
#include "node-agent/update/delta_fetcher.h"
#include "node-agent/update/state_place.h"
#include "node-agent/update/tuf_release_catalog.h"
#include "node-agent/volume/system_volumes.h"
#include "node-agent/volume/unlock.h"
#include "shared/base/log.h"
#include "shared/base/process.h"
#include "shared/crypto/key_reference.h"
#include "shared/wire/tls.h"

namespace sealift::agent {
namespace {

// Turns SIGTERM and SIGINT into a stop request. Signals are handled, not blocked: programs that the agent
// starts would inherit a block. One at a time.
class StopOnSignal {
 public:
  static Result<std::unique_ptr<StopOnSignal>> Install() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
      return ErrnoError(Code::kUnavailable, Reason::kInternal, "wait for signals", "pipe2", errno);
    }
    std::unique_ptr<StopOnSignal> self(new StopOnSignal(UniqueFd(ends[0]), UniqueFd(ends[1])));
    write_end_ = self->write_.get();
    struct sigaction action {};
    action.sa_handler = &StopOnSignal::Handle;
    for (const int number : {SIGTERM, SIGINT}) {
      if (::sigaction(number, &action, nullptr) != 0) {
        return ErrnoError(Code::kUnavailable, Reason::kInternal, "wait for signals", "sigaction", errno);
      }
    }
    self->watcher_ = std::jthread([raw = self.get()](const std::stop_token& ended) { raw->Watch(ended); });
    return self;
  }
  ~StopOnSignal() {
    watcher_.request_stop();
    Handle(0);
  }
  std::stop_token token() const { return stop_.get_token(); }

 private:
  StopOnSignal(UniqueFd read, UniqueFd write) : read_(std::move(read)), write_(std::move(write)) {}

  static void Handle(int) {
    const int saved = errno;
    const char byte = 0;
    // A full pipe has a request waiting already.
    [[maybe_unused]] const ssize_t written = ::write(write_end_, &byte, 1);
    errno = saved;
  }
  void Watch(const std::stop_token& ended) {
    pollfd readable{.fd = read_.get(), .events = POLLIN, .revents = 0};
    while (::poll(&readable, 1, -1) <= 0) {
    }
    if (!ended.stop_requested()) stop_.request_stop();
  }

  inline static int write_end_ = -1;
  UniqueFd read_;
  UniqueFd write_;
  std::stop_source stop_;
  // Last: it uses the others.
  std::jthread watcher_;
};

struct TpmParts {
  std::shared_ptr<TpmDevice> device;
  std::shared_ptr<Tpm> tpm;
  std::shared_ptr<Signer> tls_signer;
};

// The state partition's, or one for this boot.
SecretBytes TlsGuardOf(const Settings& settings) {
  MountedStatePlace place(settings.state_mount, settings.state);
  Status problem = place.CheckMounted();
  if (problem.ok()) problem = MakeDirectories(settings.state, 0700);
  if (problem.ok()) {
    auto guard = LoadOrMakeTlsGuard(settings.state / kTlsGuardFileName);
    if (guard.ok()) return std::move(*guard);
    problem = guard.status();
  }
  log::Warning("the TLS key is one of this boot", {{"error", Describe(problem)}});
  return MakeTlsGuard();
}

Result<TpmParts> OpenTpm(const std::string& tcti, SecretBytes tls_guard) {
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<TpmDevice> device, OpenTpmDevice({.tcti = tcti}));
  std::shared_ptr<Tpm> tpm = MakeEsysTpm(device, std::move(tls_guard));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> signer, MakeTlsSigner(tpm));
  return TpmParts{.device = std::move(device), .tpm = std::move(tpm), .tls_signer = std::move(signer)};
}

// A device that appears late, or a TPM in lockout: waited for.
Result<TpmParts> WaitForTpm(const Settings& settings, Clock& clock, const std::stop_token& stop) {
  Backoff backoff(std::chrono::seconds(1), std::chrono::seconds(60), SystemRandom());
  std::string told;
  while (true) {
    Result<TpmParts> parts = OpenTpm(settings.tcti, TlsGuardOf(settings));
    if (parts.ok()) return parts;
    if (const std::string now = Describe(parts.status()); now != told) {
      log::Error("waiting for the TPM", {{"error", now}});
      told = now;
    }
    if (!clock.SleepFor(backoff.Next(), stop)) {
      return MakeError(Code::kCancelled, Reason::kCancelled, "wait for the TPM: stopped");
    }
  }
}

Result<std::string> RunningVersion(const std::filesystem::path& os_release) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(os_release, 64u << 10));
  return OsReleaseVersion(text);
}

constexpr std::uint64_t kMaxImageBytes = 1ull << 30;

Result<Bytes> ReadRunningImage(EspStager& stager, FileSystem& esp) {
  SEALIFT_ASSIGN_OR_RETURN(const BootInventory now, stager.Inspect());
  return esp.Read(RelativePath(now.running_image_path), kMaxImageBytes);
}

std::vector<std::unique_ptr<Probe>> MakeProbes(const Settings& all, Tpm& tpm,
                                               std::function<Result<Bytes>()> read_image) {
  const HealthSettings& settings = all.health;
  const Systemctl systemctl = {"systemctl"};
  const std::chrono::milliseconds timeout = settings.timeout;
  std::vector<std::unique_ptr<Probe>> probes;
  if (settings.phase) probes.push_back(MakePhaseProbe(tpm, std::move(read_image)));
  if (all.volumes_encrypted && settings.volumes)
    probes.push_back(MakeVolumesProbe("/proc/self/mounts", {"/oem", all.state_mount}));
  if (settings.boot_complete) probes.push_back(MakeBootCompleteProbe(systemctl, timeout));
  if (settings.failed_units) probes.push_back(MakeFailedUnitsProbe(systemctl, timeout));
  if (!settings.units.empty()) probes.push_back(MakeActiveUnitsProbe(systemctl, settings.units, timeout));
  for (const auto& command : settings.commands) probes.push_back(MakeCommandProbe(command, timeout));
  for (const HttpTarget& target : settings.http) probes.push_back(MakeHttpProbe(target, timeout));
  return probes;
}

UpdateSettings EngineSettings(const Settings& settings, const std::string& boot_id) {
  return {.channel = settings.channel,
          .hardware_class = settings.hardware_class,
          .agent_version = SEALIFT_VERSION,
          .boot_id = boot_id,
          .boot_tries = settings.boot_tries,
          .max_attempts = settings.max_attempts,
          .retry_after = settings.retry_after,
          .health_deadline = settings.health_deadline,
          .assess_offline_after = settings.assess_offline_after,
          .recovery_after = settings.recovery_after,
          .why_boot_failed = [] { return WhyBootFailed({}); }};
}

// Every image on the ESP, whatever release it is of. They are read where they lie: what comes of them is
// checked.
std::vector<std::filesystem::path> ImagesOn(const std::filesystem::path& esp) {
  std::vector<std::filesystem::path> images;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(esp / kImagesDirectory, error)) {
    std::error_code failed;
    if (entry.path().extension() == ".efi" && entry.is_regular_file(failed)) images.push_back(entry.path());
  }
  return images;
}

Result<OrderSettings> OrderSettingsOf(const Settings& settings, const std::string& boot_id) {
  OrderSettings out{.orders_root = std::nullopt, .boot_id = boot_id};
  if (settings.orders_root_pem.empty()) return out;
  SEALIFT_ASSIGN_OR_RETURN(out.orders_root, PublicKey::FromPem(settings.orders_root_pem));
  return out;
}

// Null where it is off or cannot be: a node asks its neighbours without serving them, too.
std::unique_ptr<ShareServer> StartSharing(const Settings& settings, MountedStatePlace& place, SiteHints& site,
                                          const ControllerLink& link) {
  if (settings.share.listen.empty()) return nullptr;
  Status problem = place.CheckMounted();
  if (problem.ok()) {
    ShareOptions options = settings.share;
    options.towards = settings.controller.node;
    auto server = ShareServer::Start(std::move(options), settings.state / "share", site,
                                     [&link] { return link.Tls(); });
    if (server.ok()) return std::move(*server);
    problem = server.status();
  }
  log::Warning("neighbours are not served", {{"error", Describe(problem)}});
  return nullptr;
}

NeighbourOptions NeighbourOptionsOf(const Settings& settings, const ControllerLink& link,
                                    std::stop_token stop) {
  NeighbourOptions options{
      .own = [&link] { return link.Tls(); }, .patience = settings.share_patience, .stop = std::move(stop)};
  options.minimum_rate = std::max(options.minimum_rate, settings.mirrors.minimum_rate);
  return options;
}

Status RunLoop(const Settings& settings, const std::string& boot_id, const std::string& version,
               AgentClock& clock, const std::stop_token& stop) {
  SEALIFT_ASSIGN_OR_RETURN(const TpmParts tpm, WaitForTpm(settings, clock, stop));
  RegisterTpmKeyResolver(tpm.tpm);
  SEALIFT_ASSIGN_OR_RETURN(const std::unique_ptr<EnrolmentClient> enrolment,
                           OpenEnrolmentClient(settings.controller));
  ControllerLink link(settings.controller);

  PosixFileSystem esp(settings.esp);
  EfivarfsVariables variables(settings.efivars);
  EspStager stager(&esp, &variables,
                   {.running_version = version, .boot_id = boot_id, .runtime_directory = settings.runtime});

  MountedStatePlace place(settings.state_mount, settings.state);
  LinkMetadataSource metadata(link);
  LinkContentSource controller_content(link);
  MirrorSource content(settings.mirrors, controller_content, SystemRandom());
  tuf::FileMetadataStore trusted(place.metadata_directory());
  SiteClient site(link);
  const std::unique_ptr<ShareServer> share = StartSharing(settings, place, site, link);
  NeighbourSource neighbours(NeighbourOptionsOf(settings, link, stop), site, content);
  const bool shares = !settings.share.listen.empty();
  ContentFetcherOptions fetching{
      .blame = [&content](const Sha256Digest& digest) { return content.Blame(digest); }};
  // A manifest is small: it comes as the other metadata does.
  ContentFetcher manifests(content, place.manifests_directory(), fetching);
  if (shares) {
    fetching.blame = [&](const Sha256Digest& digest) {
      const bool lied = neighbours.Blame(digest);
      return content.Blame(digest) || lied;
    };
    fetching.complete = [&](const Sha256Digest& digest, const std::filesystem::path& file) {
      neighbours.Absolve(digest);
      if (share != nullptr && share->Add(digest, file)) return;
      // Not kept: whoever waits for this node's turn to end need not.
      const Status told = site.Offer({digest}, "");
      if (!told.ok()) log::Debug("a turn was not given back", {{"error", Describe(told)}});
    };
    fetching.waits = [&neighbours] { return neighbours.waits(); };
    fetching.make_room = [&share] {
      if (share != nullptr) share->MakeRoom();
    };
  }
  content::ContentSource& source = shares ? static_cast<content::ContentSource&>(neighbours) : content;
  ContentFetcher whole(source, place.content_directory(), fetching);
  ContentFetcher parts(source, place.parts_directory(), fetching);
  TufReleaseCatalog catalog(settings.tuf_root_json, metadata, trusted, clock, manifests);
  DeltaFetcher images(whole, parts,
                      {.directory = place.content_directory(),
                       .content_list = [&catalog](const auto& image) { return catalog.ContentListOf(image); },
                       .seeds = [&settings] { return ImagesOn(settings.esp); }});
  CommandRebooter rebooter(settings.reboot_command);
  NodeHealthCheck health(MakeProbes(settings, *tpm.tpm, [&] { return ReadRunningImage(stager, esp); }));
  MachineUnlockCheck unlock(
      {.esp = settings.esp, .runtime = settings.runtime, .event_log = settings.event_log}, variables,
      *tpm.tpm);
  UpdateEngine engine(EngineSettings(settings, boot_id),
                      {.place = place,
                       .catalog = catalog,
                       .fetcher = images,
                       .stager = stager,
                       .rebooter = rebooter,
                       .health = health,
                       .clock = clock,
                       .unlock = settings.volumes_encrypted ? &unlock : nullptr});
  const std::unique_ptr<TpmCounters> counters = MakeEsysCounters(tpm.device);
  const std::unique_ptr<TpmVault> vault = MakeEsysVault(tpm.device);
  DeviceMapper mapper;
  SystemMounts mounts;
  VolumeKeeper volumes({.vault = *vault, .mapper = mapper, .mounts = mounts});
  VolumeRecoveryKeys recovery_keys(settings.runtime, settings.volumes_encrypted, volumes);
  const auto mounted = [&place] { return place.CheckMounted().ok(); };
  EscrowKeeper escrow({.book = settings.state / kEscrowBookName,
                       .replace_mark = settings.state / kReplaceRecoveryName,
                       .mounted = mounted},
                      recovery_keys);
  EpochBook epochs(settings.state / kEpochBookName, mounted);
  AgentOrderActions actions({.engine = engine,
                             .rebooter = rebooter,
                             .esp = esp,
                             .variables = variables,
                             .counters = *counters,
                             .escrow = escrow,
                             .epochs = epochs,
                             .runtime = settings.runtime,
                             .volumes_encrypted = settings.volumes_encrypted});
  FileOrderLog order_log(settings.state / kOrderLogName, mounted);
  SEALIFT_ASSIGN_OR_RETURN(OrderSettings order_settings, OrderSettingsOf(settings, boot_id));
  OrderKeeper orders(
      std::move(order_settings),
      {.tpm = *tpm.tpm, .counters = *counters, .actions = actions, .log = order_log, .clock = clock});
  BootCure cure(
      {.rebooter = rebooter, .mounted = mounted, .mark = settings.state / kBootCureName, .boot_id = boot_id});
  Agent agent({.agent_version = SEALIFT_VERSION,
               .boot_id = boot_id,
               .labels = settings.labels,
               .runtime = settings.runtime,
               .identity_file = settings.state / kIdentityFileName,
               .join_token_file = settings.state / kJoinTokenFileName,
               .install_record = settings.state / kInstallRecordName,
               .hardware = ReadHardwareModel(settings.dmi),
               .volumes_encrypted = settings.volumes_encrypted},
              {.tpm = *tpm.tpm,
               .tls_signer = tpm.tls_signer,
               .enrolment = *enrolment,
               .link = link,
               .engine = engine,
               .place = place,
               .counters = *counters,
               .orders = orders,
               .escrow = escrow,
               .epochs = epochs,
               .cure = cure,
               .read_event_log = [file = settings.event_log] { return ReadEventLog(file); },
               .clock = clock,
               .random = SystemRandom()});
  agent.Run(stop);
  return OkStatus();
}

}  // namespace

Status RunDaemon(const Settings& settings) {
  SEALIFT_RETURN_IF_ERROR(ForbidCoreDumps());
  wire::InitialiseGrpc();
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  SEALIFT_ASSIGN_OR_RETURN(const UniqueFd lock, LockAgent(settings.runtime));
  SEALIFT_ASSIGN_OR_RETURN(const std::string boot_id, ReadBootId(settings.boot_id));
  SEALIFT_ASSIGN_OR_RETURN(const std::string version, RunningVersion(settings.os_release));
  SEALIFT_ASSIGN_OR_RETURN(const UnixMillis built, ReadImageBuildTime(settings.build_time));
  SystemClock system;
  AgentClock clock(system, built);
  SEALIFT_ASSIGN_OR_RETURN(const std::unique_ptr<StopOnSignal> signals, StopOnSignal::Install());
  log::Info("agent starts", {{"version", SEALIFT_VERSION}, {"release", version}});
  const Status status = RunLoop(settings, boot_id, version, clock, signals->token());
  return signals->token().stop_requested() ? OkStatus() : status;
}

}  // namespace sealift::agent
