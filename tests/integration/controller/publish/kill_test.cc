// A controller killed while releases are published and unused content is collected: nothing that is named is
// lost, nothing else is served. Its log says what it was in when it died.
#include <fstream>
#include <random>
#include <thread>

#include "shared/crypto/hash.h"
#include "shared/release/manifest.h"
#include "shared/tuf/metadata.h"
#include "tests/integration/controller/app/daemon_fixture.h"

namespace sealift {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kFileBytes = 6u << 20;

class KillTest : public DaemonTest {
 protected:
  // 10, or as many as SEALIFT_KILLS says.
  static int Kills() {
    const char* text = std::getenv("SEALIFT_KILLS");
    return text == nullptr ? 10 : std::atoi(text);
  }

  // A folder as build-uki leaves it, with an image that nothing else shares.
  std::string Build(const std::string& version) {
    const fs::path out = Path("out-" + version);
    Manifest manifest;
    manifest.version = version;
    manifest.hardware_class = "generic-x86_64";
    manifest.pcr11 = {{"", Sha256(AsBytes(version))}};
    std::string image(kFileBytes, 'x');
    for (std::size_t i = 0; i + version.size() < image.size(); i += 4096)
      image.replace(i, version.size(), version);
    const auto add = [&](const std::string& path, FileRole role, const std::string& text) {
      EXPECT_TRUE(MakeDirectories((out / path).parent_path()).ok());
      EXPECT_TRUE(WriteFileAtomically(out / path, AsBytes(text)).ok());
      manifest.files.push_back({path, role, Sha256(AsBytes(text)), text.size(), std::nullopt});
    };
    add("EFI/kairos/norole.efi", FileRole::kUki, image);
    add("EFI/BOOT/BOOTX64.EFI", FileRole::kBootLoader, "the same boot loader");
    EXPECT_TRUE(WriteFileAtomically(out / "release.json", AsBytes(SerializeManifest(manifest))).ok());
    return out;
  }

  std::vector<std::string> PublishCommand(const std::string& version, const std::string& profile) {
    return {
        kSealift,          "release",    "publish", Path("out-" + version),          "--channel", "stable",
        "--keys",          Path("keys"), "--token", "release=" + tokens_["release"], "--profile", profile,
        "--delta-against", "0"};
  }

  // How many calls of `rpc` had begun and not ended, by what this daemon has logged.
  int Open(const std::string& rpc) const {
    std::ifstream log(Path("log"));
    log.seekg(static_cast<std::streamoff>(log_begin_));
    int open = 0;
    for (std::string line; std::getline(log, line);) {
      if (!line.ends_with("rpc=/sealift.v1." + rpc)) continue;
      open += line.find(" call begins ") != std::string::npos;
      open -= line.find(" call ends ") != std::string::npos;
    }
    return open;
  }

  // Objects that no release names, and everything else: as if nobody had asked for any of it for long.
  void LeaveGarbage(int seed) {
    for (int i = 0; i < 1500; ++i) {
      const std::string text = "garbage " + std::to_string(seed) + " " + std::to_string(i);
      const std::string hex = Sha256(AsBytes(text)).hex();
      fs::create_directories(Path("state/content/objects/" + hex.substr(0, 2)));
      std::ofstream(Path("state/content/objects/" + hex.substr(0, 2) + "/" + hex)) << text;
    }
    const auto old = fs::file_time_type::clock::now() - std::chrono::hours(48);
    for (const auto& entry : fs::recursive_directory_iterator(Path("state/content/objects")))
      if (std::error_code gone; entry.is_regular_file(gone)) fs::last_write_time(entry.path(), old, gone);
  }

  // What nodes are offered is whole, and every object in the store is what its name says.
  void CheckState() {
    std::map<std::string, Sha256Digest> objects;
    for (const auto& entry : fs::recursive_directory_iterator(Path("state/content"))) {
      const std::string name = entry.path().filename();
      if (!entry.is_regular_file() || name.size() != 64) continue;
      if (entry.path().string().find("incoming") != std::string::npos) continue;
      const auto bytes = ReadFile(entry.path());
      // One that a collection has just removed.
      if (bytes.status().code() == Code::kNotFound) continue;
      objects[name] = Sha256(*bytes);
      EXPECT_EQ(objects[name].hex(), name) << "an object that is not what its name says would be served";
    }
    objects_ = objects.size();
    if (!fs::exists(Path("state/tuf/timestamp.json"))) return;
    const auto read = [&](const std::string& name) {
      return tuf::ParseEnvelope(*ReadTextFile(Path("state/tuf/" + name)), tuf::kMaxTargetsBytes).value();
    };
    const tuf::Timestamp timestamp = tuf::ParseTimestamp(read("timestamp.json")).value();
    const tuf::Snapshot snapshot =
        tuf::ParseSnapshot(read(std::to_string(timestamp.snapshot.version) + ".snapshot.json")).value();
    const tuf::Targets targets =
        tuf::ParseTargets(read(std::to_string(snapshot.meta.at("targets.json").version) + ".targets.json"))
            .value();
    for (const auto& [name, target] : targets.targets) {
      EXPECT_TRUE(objects.contains(target.sha256.hex())) << name << " is named and lost";
    }
    published_ = targets.targets.size() / 3;
  }

  std::size_t published_ = 0;
  std::size_t objects_ = 0;
  std::size_t log_begin_ = 0;
};

TEST_F(KillTest, NothingThatIsNamedIsLost) {
  more_config_ = "[log]\nlevel = \"debug\"\n";
  const int kills = Kills();
  int inside = 0;
  int collecting = 0;
  std::mt19937 random(20261126);
  {
    // Without metadata nothing is ever collected.
    const auto daemon = StartDaemon({"online"});
    ASSERT_NE(daemon, nullptr) << Log();
    Build("1.0");
    const CommandOutput output = test::RunTool(PublishCommand("1.0", Profile("operator")));
    ASSERT_EQ(output.exit_code, 0) << output.err;
  }
  for (int i = 1; i <= kills; ++i) {
    SCOPED_TRACE(i);
    log_begin_ = fs::exists(Path("log")) ? fs::file_size(Path("log")) : 0;
    auto daemon = StartDaemon({"online"});
    ASSERT_NE(daemon, nullptr) << Log();
    CheckState();
    const std::string profile = Profile("operator");
    const std::string version = "1." + std::to_string(i);
    Build(version);
    // In an upload, when its metadata is signed, in a collection.
    const std::string rpc = i % 3 == 0   ? "FleetService/PublishTargets"
                            : i % 3 == 1 ? "FleetService/UploadContent"
                                         : "ContentService/Collect";
    const bool collects = i % 3 == 2;
    if (collects) LeaveGarbage(i);
    Daemon command(collects ? std::vector<std::string>{kSealift, "content", "collect", "--profile", profile}
                            : PublishCommand(version, profile),
                   Path("command.log"));
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    int status = 0;
    bool ended = false;
    const auto late = [&] { return ended || std::chrono::steady_clock::now() >= give_up; };
    for (;;) {
      while (Open(rpc) == 0 && !late()) {
        ended = command.Ended(status);
        if (!ended) SystemClock().SleepFor(std::chrono::milliseconds(1), {});
      }
      // Somewhere in it. Where it was over by then, the next one is waited for.
      std::this_thread::sleep_for(std::chrono::microseconds(random() % (collects ? 8'000 : 4'000)));
      ASSERT_EQ(kill(daemon->pid(), SIGSTOP), 0);
      if (late() || Open(rpc) > 0) break;
      ASSERT_EQ(kill(daemon->pid(), SIGCONT), 0);
    }
    ASSERT_EQ(kill(daemon->pid(), SIGKILL), 0);
    EXPECT_EQ(daemon->Wait(), -1);
    // What was written last is what it died in.
    if (Open("FleetService/PublishTargets") + Open("FleetService/UploadContent") > 0) ++inside;
    if (Open("ContentService/Collect") > 0) ++collecting;
    if (!ended) command.Wait();
    CheckState();
  }
  std::printf("%d kills: %d in publications, %d in collections\n", kills, inside, collecting);
  EXPECT_GE((inside + collecting) * 10, kills * 8)
      << inside << " in publications, " << collecting << " in collections, of " << kills << " kills";
  EXPECT_GE(collecting, kills / 10);
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  const std::string last = "1." + std::to_string(kills + 1);
  Build(last);
  const std::string profile = Profile("operator");
  const CommandOutput output = test::RunTool(PublishCommand(last, profile));
  EXPECT_EQ(output.exit_code, 0) << output.err;
  LeaveGarbage(0);
  // All that the killed collections left: tens of thousands of objects after many kills.
  const auto collected = RunCommandChecked({.argv = {kSealift, "content", "collect", "--profile", profile}});
  EXPECT_TRUE(collected.ok()) << collected.status();
  CheckState();
  EXPECT_GE(published_, 1u);
  // Nothing that is not named is left either: the boot loader is one object, images and manifests are not.
  EXPECT_EQ(objects_, published_ * 2 + 1);
}

TEST_F(KillTest, CollectsBySchedule) {
  more_config_ = "[content]\ncollect_interval_ms = 100\ngrace_ms = 3600000\n";
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  Build("1.0");
  const CommandOutput output = test::RunTool(PublishCommand("1.0", Profile("operator")));
  ASSERT_EQ(output.exit_code, 0) << output.err;
  LeaveGarbage(1);
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  do {
    ASSERT_LT(std::chrono::steady_clock::now(), give_up) << Log();
    SystemClock().SleepFor(std::chrono::milliseconds(20), {});
    CheckState();
  } while (objects_ > 3);
  // The command beside the daemon finds nothing more.
  const CommandOutput again =
      test::RunTool({kController, "--config", Path("controller.toml"), "collect", "--dry-run"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.out.find("would remove 0 objects"), std::string::npos) << again.out;
}

}  // namespace
}  // namespace sealift
