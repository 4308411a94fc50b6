// A release carried from one controller to another that has never heard of the first, by the programs as they
// are installed. Deltas on the way need no folders of old builds.
#include <fstream>

#include "shared/base/subprocess.h"
#include "shared/crypto/hash.h"
#include "shared/release/manifest.h"
#include "tests/integration/controller/app/daemon_fixture.h"

namespace sealift {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLoader = "a boot loader";

class AirGapTest : public DaemonTest {
 protected:
  void Build(const std::string& version) {
    const fs::path out = Path("out-" + version);
    Manifest manifest;
    manifest.version = version;
    manifest.hardware_class = "generic-x86_64";
    manifest.pcr11 = {{"", Sha256(AsBytes(version))}};
    std::string image;
    for (int i = 0; i < 20'000; ++i) image += Sha256(AsBytes(std::to_string(i))).hex();
    image += version;
    ASSERT_TRUE(MakeDirectories(out / "EFI/kairos").ok());
    ASSERT_TRUE(WriteFileAtomically(out / "EFI/kairos/norole.efi", AsBytes(image)).ok());
    manifest.files.push_back(
        {"EFI/kairos/norole.efi", FileRole::kUki, Sha256(AsBytes(image)), image.size(), std::nullopt});
    ASSERT_TRUE(MakeDirectories(out / "EFI/BOOT").ok());
    ASSERT_TRUE(WriteFileAtomically(out / "EFI/BOOT/BOOTX64.EFI", AsBytes(kLoader)).ok());
    manifest.files.push_back({"EFI/BOOT/BOOTX64.EFI", FileRole::kBootLoader, Sha256(AsBytes(kLoader)),
                              kLoader.size(), std::nullopt});
    ASSERT_TRUE(WriteFileAtomically(out / "release.json", AsBytes(SerializeManifest(manifest))).ok());
  }
  nlohmann::json Json(std::vector<std::string> arguments, int expected = 0) {
    arguments.insert(arguments.end(), {"-o", "json"});
    return nlohmann::json::parse(Sealift(std::move(arguments), expected), nullptr, false);
  }
  nlohmann::json Publish(const std::string& version) {
    return Json({"release", "publish", Path("out-" + version), "--keys", Path("keys"), "--token",
                 "release=" + tokens_["release"], "--profile", profile_});
  }
  std::vector<std::string> Import(const std::string& place) {
    return {"release", "import", place, "--root", Path("keys/tuf/1.root.json"), "--profile", profile_};
  }
  std::size_t ObjectsStored() const {
    std::size_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(Path("state/content/objects")))
      count += entry.is_regular_file();
    return count;
  }

  std::string profile_;
};

TEST_F(AirGapTest, AReleaseIsCarriedToAControllerThatHasNoReleaseToken) {
  auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  profile_ = Profile("operator");
  for (const char* version : {"1.0", "1.1"}) Build(version);
  EXPECT_TRUE(Publish("1.0").at("delta_bytes").empty());
  // Compared with 1.0 out of the content store, and little more than the difference.
  fs::remove_all(Path("out-1.0"));
  const nlohmann::json published = Publish("1.1");
  EXPECT_TRUE(published.at("left_out").empty()) << published.dump();
  ASSERT_EQ(published.at("delta_bytes").size(), 1u) << published.dump();
  EXPECT_GT(published.at("delta_bytes")[0], 0);
  EXPECT_LT(published.at("delta_bytes")[0], 2000);

  const std::vector<std::string> export_command = {"release",       "export", "1.1",
                                                   Path("1.1.tar"), "--root", Path("keys/tuf/1.root.json"),
                                                   "--profile",     profile_};
  const nlohmann::json exported = Json(export_command);
  EXPECT_EQ(exported.at("version"), "1.1");
  // Another tool reads it, and the folder it fills is an export as well.
  ASSERT_TRUE(MakeDirectories(Path("unpacked")).ok());
  const CommandOutput tar = test::RunTool({"tar", "-xf", Path("1.1.tar"), "-C", Path("unpacked")});
  ASSERT_EQ(tar.exit_code, 0) << tar.err;

  // The far side: the same set of keys, nothing else.
  ASSERT_EQ(kill(daemon->pid(), SIGTERM), 0);
  ASSERT_EQ(daemon->Wait(), 0);
  fs::rename(Path("state"), Path("state-near"));
  fs::remove_all(Path("keys/tuf/seen"));
  daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  profile_ = Profile("operator");
  const Bytes good = ReadFile(Path("1.1.tar")).value();
  for (std::size_t at = 3; at < good.size(); at += good.size() / 40) {
    Bytes bad = good;
    bad[at] ^= 0x10;
    ASSERT_TRUE(WriteFileAtomically(Path("bad.tar"), bad).ok());
    EXPECT_EQ(Json(Import(Path("bad.tar")), 1).at("error").at("reason"), "RELEASE_ARCHIVE_INVALID") << at;
  }
  for (const std::size_t size : {std::size_t{0}, std::size_t{100}, good.size() / 2, good.size() - 1}) {
    ASSERT_TRUE(WriteFileAtomically(Path("bad.tar"), ByteView(good).first(size)).ok());
    EXPECT_EQ(Json(Import(Path("bad.tar")), 1).at("error").at("reason"), "RELEASE_ARCHIVE_INVALID") << size;
  }
  EXPECT_EQ(ObjectsStored(), 0u);

  const nlohmann::json imported = Json(Import(Path("1.1.tar")));
  EXPECT_EQ(imported.at("release_id"), exported.at("release_id"));
  EXPECT_EQ(imported.at("objects_stored"), exported.at("objects"));
  EXPECT_EQ(Json(Import(Path("unpacked"))).at("objects_stored"), 0);
  const nlohmann::json shown = Json({"release", "show", "1.1", "--profile", profile_});
  EXPECT_EQ(shown.at("state"), "published");
  // From there it can go on; what did not come cannot, and no rollout of it starts.
  std::vector<std::string> again = export_command;
  again[3] = Path("again.tar");
  again.back() = profile_;
  EXPECT_EQ(Json(again).at("release_id"), exported.at("release_id"));
  again[2] = "1.0";
  again[3] = Path("none.tar");
  EXPECT_EQ(Json(again, 1).at("error").at("reason"), "CONTENT_UNKNOWN");
  EXPECT_EQ(
      Json({"rollout", "create", "--release", "1.0", "--profile", profile_}, 1).at("error").at("reason"),
      "CONTENT_UNKNOWN");
}

}  // namespace
}  // namespace sealift
