#include "node-agent/app/reset_at_boot.h"

#include <sys/mount.h>

#include <algorithm>
#include <cerrno>

#include "node-agent/app/system.h"
#include "node-agent/tpm/ek_digest.h"
#include "node-agent/volume/system_volumes.h"
#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

// The system's clock, never before the image was built.
class BootClock final : public Clock {
 public:
  BootClock(const Clock& system, UnixMillis built) : system_(system), built_(built) {}
  UnixMillis Now() const override { return std::max(system_.Now(), built_); }
  std::chrono::steady_clock::time_point Steady() const override { return system_.Steady(); }
  bool SleepFor(std::chrono::milliseconds, std::stop_token) override { return true; }

 private:
  const Clock& system_;
  const UnixMillis built_;
};

// An ESP mounted read-only as long as this lives.
class MountedEsp final : public FileSystem {
 public:
  static Result<std::unique_ptr<FileSystem>> Mount(const std::filesystem::path& device,
                                                   const std::filesystem::path& target) {
    SEALIFT_RETURN_IF_ERROR(MakeDirectories(target, 0700));
    constexpr unsigned long kFlags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (::mount(device.c_str(), target.c_str(), "vfat", kFlags, "umask=0077") != 0) {
      return ErrnoError(Code::kFailedPrecondition, Reason::kEspMissing, "mount ESP " + device.string(),
                        "mount", errno);
    }
    return std::unique_ptr<FileSystem>(new MountedEsp(target));
  }
  ~MountedEsp() override { ::umount2(target_.c_str(), MNT_DETACH); }
  MountedEsp(const MountedEsp&) = delete;
  MountedEsp& operator=(const MountedEsp&) = delete;

  Result<std::vector<DirectoryEntry>> List(std::string_view directory) override {
    return files_.List(directory);
  }
  Status ReadPieces(std::string_view path, const std::function<Status(ByteView)>& sink) override {
    return files_.ReadPieces(path, sink);
  }
  Result<std::unique_ptr<FileWriter>> Create(std::string_view path) override { return files_.Create(path); }
  Status Rename(std::string_view from, std::string_view to) override { return files_.Rename(from, to); }
  Status Remove(std::string_view path) override { return files_.Remove(path); }
  Status RemoveDirectory(std::string_view path) override { return files_.RemoveDirectory(path); }
  Status MakeDirectory(std::string_view path) override { return files_.MakeDirectory(path); }
  Status SyncDirectory(std::string_view path) override { return files_.SyncDirectory(path); }
  Result<std::uint64_t> FreeBytes() override { return files_.FreeBytes(); }

 private:
  explicit MountedEsp(std::filesystem::path target) : target_(std::move(target)), files_(target_) {}
  const std::filesystem::path target_;
  PosixFileSystem files_;
};

// Of several partitions with that name, whoever plugged them in, the one with an order.
Result<std::unique_ptr<FileSystem>> OpenEsp(const Settings& settings) {
  auto mounted = std::make_unique<PosixFileSystem>(settings.esp);
  if (mounted->Exists("EFI")) return std::unique_ptr<FileSystem>(std::move(mounted));
  Status last =
      MakeError(Code::kFailedPrecondition, Reason::kEspMissing, "look for a reset order: no ESP is there");
  std::unique_ptr<FileSystem> any;
  for (const auto& [name, device] : PartitionsByLabel()) {
    if (name != "ESP" && name != "esp") continue;
    any.reset();
    auto esp = MountedEsp::Mount(device, settings.runtime / "esp");
    if (!esp.ok()) {
      last = esp.status();
      continue;
    }
    any = *std::move(esp);
    if (any->Exists(kResetOrderFile)) break;
  }
  if (any == nullptr) return last;
  return any;
}

// Keeps what EspResetOrders borrows.
class ResetsAtBoot final : public ResetOrders {
 public:
  ResetsAtBoot(const Settings& settings, const std::shared_ptr<TpmDevice>& device, TpmCounters& counters,
               PublicKey orders_root, const Clock& clock, UnixMillis built)
      : clock_(clock, built),
        orders_({.open_esp = [&settings] { return OpenEsp(settings); },
                 .counters = counters,
                 .ek_digest = [device] { return EndorsementKeyDigest(*MakeEsysTpm(device)); },
                 .orders_root = std::move(orders_root),
                 .clock = clock_,
                 .runtime = settings.runtime}) {}
  Result<std::string> Pending() override { return orders_.Pending(); }
  Status Consume(const std::string& id) override { return orders_.Consume(id); }

 private:
  BootClock clock_;
  EspResetOrders orders_;
};

}  // namespace

std::unique_ptr<ResetOrders> MakeResetOrders(const Settings& settings,
                                             const std::shared_ptr<TpmDevice>& device, TpmCounters& counters,
                                             const Clock& clock) {
  // Without a TPM no order can be told to be this machine's.
  if (settings.orders_root_pem.empty() || device == nullptr) return nullptr;
  auto root = PublicKey::FromPem(settings.orders_root_pem);
  const auto built = ReadImageBuildTime(settings.build_time);
  if (!root.ok() || !built.ok()) {
    const Status why = root.ok() ? built.status() : root.status();
    log::Error("no reset order is looked for", {{"error", Describe(why)}});
    return nullptr;
  }
  return std::make_unique<ResetsAtBoot>(settings, device, counters, *std::move(root), clock, *built);
}

}  // namespace sealift::agent
