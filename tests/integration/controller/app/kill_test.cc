// A controller killed while releases are published: nothing that is named is lost, nothing else is served.
#include <random>

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
    return {kSealift, "release",    "publish", Path("out-" + version),          "--channel", "stable",
            "--keys", Path("keys"), "--token", "release=" + tokens_["release"], "--profile", profile};
  }

  // An object is on its way into the store.
  bool Uploading() const {
    std::error_code error;
    for (auto entry = fs::recursive_directory_iterator(Path("state/content"), error);
         !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
      if (entry->path().string().find("incoming") != std::string::npos && entry->is_regular_file(error))
        return true;
    }
    return false;
  }

  // What nodes are offered is whole, and every object in the store is what its name says.
  void CheckState() {
    std::map<std::string, Sha256Digest> objects;
    for (const auto& entry : fs::recursive_directory_iterator(Path("state/content"))) {
      const std::string name = entry.path().filename();
      if (!entry.is_regular_file() || name.size() != 64) continue;
      if (entry.path().string().find("incoming") != std::string::npos) continue;
      objects[name] = Sha256(*ReadFile(entry.path()));
      EXPECT_EQ(objects[name].hex(), name) << "an object that is not what its name says would be served";
    }
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
};

TEST_F(KillTest, NothingThatIsNamedIsLost) {
  const int kills = Kills();
  int inside = 0;
  std::mt19937 random(20261126);
  for (int i = 1; i <= kills; ++i) {
    SCOPED_TRACE(i);
    auto daemon = StartDaemon({"online"});
    ASSERT_NE(daemon, nullptr) << Log();
    CheckState();
    const std::string profile = Profile("operator");
    const std::string version = "1." + std::to_string(i);
    Build(version);
    Daemon publish(PublishCommand(version, profile), Path("publish.log"));
    // At the beginning of an upload, some time into it, or when its metadata is written.
    const std::size_t metadata_before = static_cast<std::size_t>(
        std::distance(fs::directory_iterator(Path("state/tuf")), fs::directory_iterator()));
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    int status = 0;
    bool ended = false;
    while (std::chrono::steady_clock::now() < give_up) {
      const bool metadata =
          static_cast<std::size_t>(std::distance(fs::directory_iterator(Path("state/tuf")),
                                                 fs::directory_iterator())) > metadata_before;
      if (i % 3 == 0 ? metadata : Uploading()) break;
      if (publish.Ended(status)) {
        ended = true;
        break;
      }
      if (i % 3 != 0) continue;
      SystemClock().SleepFor(std::chrono::milliseconds(1), {});
    }
    if (i % 3 == 1) SystemClock().SleepFor(std::chrono::milliseconds(random() % 40), {});
    ASSERT_EQ(kill(daemon->pid(), SIGKILL), 0);
    EXPECT_EQ(daemon->Wait(), -1);
    // The trace: its connection was cut, so the publication had begun and not ended.
    const int outcome = ended ? WEXITSTATUS(status) : publish.Wait();
    if (outcome == 1) ++inside;
    CheckState();
  }
  EXPECT_GE(inside * 10, kills * 8) << inside << " of " << kills << " kills were inside a publication";
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  const std::string last = "1." + std::to_string(kills + 1);
  Build(last);
  const CommandOutput output = test::RunTool(PublishCommand(last, Profile("operator")));
  EXPECT_EQ(output.exit_code, 0) << output.err;
  CheckState();
  EXPECT_GE(published_, 1u);
  RecordProperty("inside", inside);
}

}  // namespace
}  // namespace sealift
