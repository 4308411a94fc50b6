// A whole node for tests of the update machine: the real EspStager on an ESP in memory, the real
// ContentFetcher, a boot loader that counts, and switches to fail, kill or cut anything.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "node-agent/update/content_fetcher.h"
#include "node-agent/update/update_engine.h"
#include "shared/base/ids.h"
#include "shared/efi/boot_entry.h"
#include "tests/contract/memory_state_store.h"
#include "tests/unit/node-agent/esp/esp_fixture.h"

namespace sealift::agent {

inline constexpr UnixMillis kTestNow = UnixMillis(std::chrono::milliseconds(1'900'000'000'000));

// Thrown where the process is killed. Nothing of the code under test catches it.
struct Killed {};

class KillSwitch {
 public:
  // The process dies at the n-th point from now, 0 being the next.
  void Arm(int point) { left_ = point; }
  void Disarm() { left_ = -1; }
  bool armed() const { return left_ >= 0; }
  void Point() {
    if (left_ < 0) return;
    if (left_-- == 0) throw Killed{};
  }

 private:
  int left_ = -1;
};

class KillableStore final : public StateStore {
 public:
  KillableStore(std::unique_ptr<StateStore> inner, KillSwitch& kill)
      : inner_(std::move(inner)), kill_(kill) {}
  Result<NodeState> Load() override { return inner_->Load(); }
  Status Commit(const StateChange& change) override {
    kill_.Point();
    const Status status = inner_->Commit(change);
    kill_.Point();
    return status;
  }

 private:
  std::unique_ptr<StateStore> inner_;
  KillSwitch& kill_;
};

class TestPlace final : public StatePlace {
 public:
  explicit TestPlace(KillSwitch& kill) : kill_(kill) {
    open_store = [this] { return std::make_unique<MemoryStateStore>(disk); };
  }
  Status CheckMounted() override {
    if (mounted) return OkStatus();
    return MakeError(Code::kFailedPrecondition, Reason::kStateMissing, "nothing is mounted");
  }
  Result<Opened> Open() override {
    Opened opened;
    opened.store = std::make_unique<KillableStore>(open_store(), kill_);
    opened.put_aside = std::exchange(put_aside, OkStatus());
    return opened;
  }

  bool mounted = true;
  Status put_aside;
  std::shared_ptr<MemoryStateDisk> disk = std::make_shared<MemoryStateDisk>();
  std::function<std::unique_ptr<StateStore>()> open_store;

 private:
  KillSwitch& kill_;
};

// The power goes at a step that the agent makes on the ESP; the boot loader's own do not count.
struct EspPower {
  MemoryFileSystem& fs;
  std::optional<std::size_t> cut_at;

  template <typename Step>
  std::invoke_result_t<Step> During(Step step) {
    if (!cut_at) return step();
    const std::size_t before = fs.steps();
    fs.CutPowerAt(*cut_at);
    auto result = step();
    fs.CutPowerAt(kNever);
    if (fs.powered()) {
      *cut_at -= fs.steps() - before;
    } else {
      cut_at.reset();
    }
    return result;
  }
  static constexpr std::size_t kNever = std::size_t{1} << 40;
};

// The real stager, but for the signature check, which has its own tests and needs signed images.
class TestStager final : public Stager {
 public:
  TestStager(EspStager stager, KillSwitch& kill, EspPower& power)
      : inner_(std::move(stager)), fs_(power.fs), kill_(kill), power_(power) {}

  Result<BootInventory> Inspect() override {
    if (!fail_inspect.ok()) return fail_inspect;
    return inner_.Inspect();
  }
  Result<VerifiedImage> VerifyImage(const LocalImage& local, const ImageExpectations& expected) override {
    ++verifications;
    if (!fail_verify.ok()) return fail_verify;
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(local.file));
    if (Sha256(bytes) != expected.digest || bytes.size() != expected.size) {
      return MakeError(Code::kInvalidArgument, Reason::kImageDigestMismatch, "the file is another");
    }
    std::vector<VerifiedImage::LocalCompanion> companions;
    for (std::size_t i = 0; i < expected.companions.size(); ++i) {
      SEALIFT_ASSIGN_OR_RETURN(const Bytes beside, ReadFile(local.companions[i]));
      if (Sha256(beside) != expected.companions[i].digest)
        return MakeError(Code::kInvalidArgument, Reason::kImageDigestMismatch, "an extension is another");
      companions.push_back({.what = expected.companions[i], .file = local.companions[i]});
    }
    return Evidence::Of(local.file, expected.version, bytes, std::move(companions));
  }
  Result<StagedImage> Stage(const VerifiedImage& image) override {
    if (!fail_stage.ok()) return fail_stage;
    return Killable([&] { return inner_.Stage(image); });
  }
  Result<StagedImage> FindStaged(const ImageExpectations& expected) override {
    ++verifications;
    const std::string path = ImageFilePath(expected.version, expected.digest);
    const auto bytes = fs_.Read(path, expected.size);
    if (!bytes.ok() || Sha256(*bytes) != expected.digest) {
      return MakeError(Code::kNotFound, Reason::kImageNotStaged, "not there");
    }
    SEALIFT_RETURN_IF_ERROR(inner_.FindBeside(path, expected));
    if (!fail_verify.ok()) return fail_verify;
    return Evidence::Of(expected.version, expected.digest, "/" + path);
  }
  Status Activate(const StagedImage& image, std::uint32_t tries) override {
    if (!fail_activate.ok()) return fail_activate;
    return Killable([&] { return inner_.Activate(image, tries); });
  }
  Status Bless() override {
    if (!fail_bless.ok()) return fail_bless;
    return Killable([&] { return inner_.Bless(); });
  }
  Status Disarm() override {
    if (!fail_disarm.ok()) return fail_disarm;
    return Killable([&] { return inner_.Disarm(); });
  }
  Status PointRecovery() override {
    return Killable([&] { return inner_.PointRecovery(); });
  }
  Result<std::optional<Fallback>> FellBack() override { return inner_.FellBack(); }
  Result<std::uint64_t> CollectGarbage() override {
    return Killable([&] { return inner_.CollectGarbage(); });
  }

  Status fail_inspect, fail_verify, fail_stage, fail_activate, fail_bless, fail_disarm;
  int verifications = 0;

 private:
  template <typename Step>
  std::invoke_result_t<Step> Killable(Step step) {
    kill_.Point();
    auto result = power_.During(step);
    kill_.Point();
    return result;
  }
  EspStager inner_;
  FileSystem& fs_;
  KillSwitch& kill_;
  EspPower& power_;
};

class TestCatalog final : public ReleaseCatalog {
 public:
  Result<ReleaseVerdict> Resolve(const DesiredRelease& desired) override {
    ++resolutions;
    if (!fail.ok()) return fail;
    ReleaseVerdict verdict;
    verdict.unusable = unusable;
    if (!unusable.ok()) return verdict;
    const auto found = manifests.find(desired.version);
    if (found == manifests.end()) {
      return MakeError(Code::kNotFound, Reason::kTufTargetUnknown, "no such release");
    }
    const Manifest& manifest = found->second;
    verdict.release = Vouch(ReleaseIdOf(SerializeManifest(manifest)), manifest, manifest.files.front(),
                            CompanionsOf(manifest, manifest.files.front()).value(), not_before, expires);
    return verdict;
  }

  // The metadata stays stored where it was found.
  UnixMillis ProvenTime() override { return not_before; }

  std::map<std::string, Manifest> manifests;
  Status fail;
  Status unusable;
  UnixMillis not_before{};
  UnixMillis expires = kTestNow + std::chrono::hours(24 * 365);
  int resolutions = 0;
};

class TestContent final : public content::ContentSource {
 public:
  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override {
    ++transfers;
    if (!fail.ok()) return fail;
    const auto found = objects.find(digest);
    if (found == objects.end()) return MakeError(Code::kNotFound, Reason::kContentUnknown, "no such object");
    constexpr std::size_t kPiece = 2048;
    for (std::size_t at = offset; at < found->second.size(); at += kPiece) {
      if (at - offset >= breaks_after) return breaks_with;
      const ByteView rest = ByteView(found->second).subspan(at);
      SEALIFT_RETURN_IF_ERROR(sink(rest.first(std::min(kPiece, rest.size()))));
      bytes_sent += std::min(kPiece, rest.size());
    }
    return OkStatus();
  }

  std::map<Sha256Digest, Bytes> objects;
  Status fail;
  // Every transfer ends so after so many bytes.
  std::size_t breaks_after = SIZE_MAX;
  Status breaks_with;
  int transfers = 0;
  std::size_t bytes_sent = 0;
};

class TestRebooter final : public Rebooter {
 public:
  explicit TestRebooter(KillSwitch& kill) : kill_(kill) {}
  Status RequestReboot(const std::string&) override {
    kill_.Point();
    if (!fail.ok()) return fail;
    requested = true;
    ++requests;
    kill_.Point();
    return OkStatus();
  }
  bool requested = false;
  int requests = 0;
  Status fail;

 private:
  KillSwitch& kill_;
};

class TestHealth final : public HealthCheck {
 public:
  Health Check() override { return health; }
  Health health{.healthy = true};
};

class UpdateNode {
 public:
  UpdateNode() : place(kill), rebooter(kill), temp_(TempDir::Create("sealift-update").value()) {
    log::SetLevel(log::Level(4));
    fetcher = std::make_unique<ContentFetcher>(
        content, temp_.path() / "content",
        ContentFetcherOptions{.slice_bytes = 4096, .least_bytes = 2048, .reserve_bytes = 0});
    settings.channel = "stable";
    settings.agent_version = "1.0";
    Publish("2.0");
    Start();
  }

  void Publish(const std::string& version, const std::function<void(Manifest&)>& bend = {}) {
    const Bytes image = ImageBytes(version);
    Manifest manifest;
    manifest.channel = "stable";
    manifest.version = version;
    manifest.minimum_agent_version = "0.1";
    manifest.hardware_class = "generic-x86_64";
    manifest.files.push_back({.path = "EFI/kairos/norole.efi",
                              .role = FileRole::kUki,
                              .digest = Sha256(image),
                              .size = image.size()});
    for (const auto& [name, text] : extensions) {
      manifest.files.push_back({.path = "EFI/kairos/norole.efi.extra.d/" + name,
                                .role = FileRole::kExtension,
                                .digest = Sha256(AsBytes(text)),
                                .size = text.size()});
      content.objects[Sha256(AsBytes(text))] = ToBytes(text);
    }
    if (bend) bend(manifest);
    content.objects[manifest.files.front().digest] = image;
    catalog.manifests[version] = manifest;
  }
  DesiredRelease Desired(const std::string& version) const {
    return {.channel = "stable", .version = version};
  }

  // A new process in the same boot.
  void Start() {
    engine.reset();
    settings.boot_id = esp.boot_id;
    stager = std::make_unique<TestStager>(esp.Stager(), kill, power);
    engine = std::make_unique<UpdateEngine>(
        settings, UpdateEngine::Seams{place, catalog_seam ? *catalog_seam : catalog, *fetcher, *stager,
                                      rebooter, health, agent_clock, unlock});
  }

  // The boot loader's choice, counted down. Images of `broken` versions never come up: the machine is reset
  // and tries again.
  void Reboot() {
    engine.reset();
    rebooter.requested = false;
    for (int attempt = 0; attempt < 20; ++attempt) {
      auto disk = LoadBootEntries(esp.fs);
      ASSERT_TRUE(disk.ok()) << disk.status();
      const RoleEntry* choice = Choose(*disk);
      ASSERT_NE(choice, nullptr) << "nothing to boot";
      const std::string was = choice->file_name;
      const std::string version = choice->version;
      ASSERT_TRUE(esp.fs.Exists(RelativePath(choice->image_path))) << was << " names no image";
      if (choice->tries_left && *choice->tries_left > 0) {
        esp.CountDown(was, fmt::format("active+{}-{}.conf", *choice->tries_left - 1, choice->tries_done + 1));
      }
      booted.push_back(version);
      health.health = {.healthy = !unhealthy.contains(version), .problem = "unit database.service failed"};
      if (broken.contains(version)) continue;
      esp.Boot(was, version);
      Start();
      return;
    }
    FAIL() << "the machine never came up";
  }

  // Steps until the machine has nothing more to do at this moment.
  void Settle(int steps = 200) {
    for (int i = 0; i < steps; ++i) {
      if (!engine->Tick().busy || !esp.fs.powered()) return;
      ExpectSafe();
    }
    FAIL() << "the machine never comes to rest";
  }
  // Time passes until the next step is due.
  void Pass(std::chrono::milliseconds duration) { clock.Advance(duration); }

  // As the daemon does: a check-in, a report if one is due, steps; reboots where asked.
  void Round(const std::optional<std::string>& wish, bool controller_there = true) {
    if (controller_there) {
      wish ? engine->OnDesired(Desired(*wish)) : engine->OnNothingDesired();
      if (const auto report = engine->DueReport()) {
        reports.push_back(*report);
        engine->OnReportAccepted(*report);
      }
    }
    Settle();
    if (rebooter.requested && esp.fs.powered()) Reboot();
    Pass(std::chrono::minutes(1));
  }

  // Whatever was done: something whole can be booted without trial, and what runs is still there.
  void ExpectSafe() {
    if (!esp.fs.powered()) return;
    auto disk = LoadBootEntries(esp.fs);
    ASSERT_TRUE(disk.ok()) << disk.status();
    bool proven = false;
    for (const RoleEntry& entry : disk->entries) {
      EXPECT_TRUE(esp.fs.Exists(RelativePath(entry.image_path))) << entry.file_name;
      proven = proven || (!entry.on_trial() && entry.role != BootRole::kUnknown);
    }
    EXPECT_TRUE(proven) << "no entry without a trial";
  }

  UpdateState state() const { return engine->status().state; }
  // What a new process would find, whatever this one believes.
  UpdateState PersistedState() {
    engine.reset();
    auto loaded = place.open_store()->Load();
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? loaded->record.state : UpdateState::kIdle;
  }

  KillSwitch kill;
  EspNode esp;
  EspPower power{esp.fs, std::nullopt};
  TestPlace place;
  TestCatalog catalog;
  ReleaseCatalog* catalog_seam = nullptr;
  TestContent content;
  std::unique_ptr<ContentFetcher> fetcher;
  std::unique_ptr<TestStager> stager;
  TestRebooter rebooter;
  TestHealth health;
  FakeClock clock{kTestNow};
  AgentClock agent_clock{clock, UnixMillis{}};
  UpdateSettings settings;
  UnlockCheck* unlock = nullptr;
  std::unique_ptr<UpdateEngine> engine;
  std::set<std::string> broken;
  // Of what is published from now on; name -> bytes.
  std::map<std::string, std::string> extensions;
  // Versions that come up, and stay ill.
  std::set<std::string> unhealthy;
  std::vector<std::string> booted;
  std::vector<UpdateReport> reports;

  const std::filesystem::path& temp() const { return temp_.path(); }

 private:
  static const RoleEntry* Choose(const BootEntries& disk) {
    const RoleEntry* best = nullptr;
    const auto rank = [](const RoleEntry& of) {
      return std::pair(of.exhausted(), static_cast<int>(of.role));
    };
    for (const RoleEntry& entry : disk.entries) {
      if (entry.role == BootRole::kUnknown) continue;
      if (best == nullptr || rank(entry) < rank(*best)) best = &entry;
    }
    return best;
  }

  TempDir temp_;
};

inline void Wish(UpdateNode& node, const std::string& version) {
  node.engine->OnDesired(node.Desired(version));
}

// Steps until the machine is in `state`.
inline void StepTo(UpdateNode& node, UpdateState state) {
  for (int i = 0; i < 200 && node.state() != state; ++i) node.engine->Tick();
  ASSERT_EQ(node.state(), state) << node.engine->status().problem;
}

inline void BootInto(UpdateNode& node, const std::string& version) {
  Wish(node, version);
  node.Settle();
  ASSERT_TRUE(node.rebooter.requested);
  node.Reboot();
}

}  // namespace sealift::agent
