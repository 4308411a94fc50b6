// The life of a release at the shell: published, withdrawn, lost with its controller, and back from a backup.
#include "controller/store/sqlite_stores.h"
#include "shared/crypto/hash.h"
#include "shared/release/manifest.h"
#include "tests/integration/controller/app/daemon_fixture.h"

namespace sealift {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class ReleaseLifeTest : public DaemonTest {
 protected:
  std::string Build(const std::string& version) {
    const fs::path out = Path("out-" + version);
    Manifest manifest;
    manifest.version = version;
    manifest.hardware_class = "generic-x86_64";
    manifest.pcr11 = {{"", Sha256(AsBytes(version))}};
    const std::string image = "image of " + version;
    EXPECT_TRUE(MakeDirectories(out / "EFI/kairos").ok());
    EXPECT_TRUE(WriteFileAtomically(out / "EFI/kairos/norole.efi", AsBytes(image)).ok());
    manifest.files.push_back(
        {"EFI/kairos/norole.efi", FileRole::kUki, Sha256(AsBytes(image)), image.size(), std::nullopt});
    EXPECT_TRUE(WriteFileAtomically(out / "release.json", AsBytes(SerializeManifest(manifest))).ok());
    return out;
  }
  std::string Publish(const std::string& version, const std::string& profile,
                      const std::vector<std::string>& more = {}, int expected = 0) {
    std::vector<std::string> arguments = {"release",
                                          "publish",
                                          Build(version),
                                          "--keys",
                                          Path("keys"),
                                          "--token",
                                          "release=" + tokens_["release"],
                                          "--profile",
                                          profile};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Sealift(arguments, expected);
  }
};

TEST_F(ReleaseLifeTest, WhoRunsAWithdrawnReleaseIsListed) {
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  const std::string profile = Profile("operator");
  Publish("1.0", profile);
  Publish("1.1", profile);
  const std::string id = "01890000-0000-7000-8000-00000000000";
  {
    const auto stores = controller::SqliteStores::Open(Path("state"));
    ASSERT_TRUE(stores.ok()) << Describe(stores.status());
    for (const auto& [number, version] : std::map<std::string, std::string>{{"1", "1.0"}, {"2", "1.1"}}) {
      controller::Node node{.id = NodeId::Parse(id + number).value()};
      node.ek_digest = Sha256(AsBytes(number));
      ASSERT_TRUE((*stores)->nodes().Enrol(node).ok());
      const controller::NodeStatus status{.running = {.version = version, .boot_id = "b"}};
      ASSERT_TRUE((*stores)->node_status().RecordStatus(node.id, status, FromUnixMs(1), std::nullopt).ok());
    }
  }
  const auto withdraw = [&](const std::string& version) {
    return json::parse(
        Sealift({"release", "withdraw", version, "--because", "no network", "--keys", Path("keys"), "--token",
                 "release=" + tokens_["release"], "--profile", profile, "-o", "json"}));
  };
  EXPECT_EQ(withdraw("1.0").at("running_nodes"), json::array({id + "1"}));
  const auto shown = json::parse(Sealift({"release", "show", "1.1", "-o", "json", "--profile", profile}));
  EXPECT_EQ(shown.at("running_nodes"), json::array({id + "2"}));
}

TEST_F(ReleaseLifeTest, WithdrawnIsSeenEverywhereAndOutlivesARestore) {
  auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  std::string profile = Profile("operator");
  Publish("1.0", profile);
  Publish("1.1", profile);
  // Online, from another process.
  const std::string config = Path("controller.toml");
  CommandOutput output = test::RunTool({kController, "--config", config, "backup", Path("backup")});
  ASSERT_EQ(output.exit_code, 0) << output.out << output.err;

  const auto withdrawn =
      json::parse(Sealift({"release", "withdraw", "1.0", "--because", "no network", "--keys", Path("keys"),
                           "--token", "release=" + tokens_["release"], "--profile", profile, "-o", "json"}));
  EXPECT_EQ(withdrawn.at("targets_version"), 3);
  EXPECT_TRUE(withdrawn.at("running_nodes").empty());
  const auto states = [&] {
    std::string text;
    const json list = json::parse(Sealift({"release", "list", "-o", "json", "--profile", profile}));
    for (const json& release : list.at("releases")) {
      text += release.at("version").get<std::string>() + " " + release.at("state").get<std::string>() + ", ";
    }
    return text;
  };
  EXPECT_EQ(states(), "1.0 withdrawn, 1.1 published, ");
  const auto shown = json::parse(Sealift({"release", "show", "1.0", "-o", "json", "--profile", profile}));
  EXPECT_EQ(shown.at("withdrawn").at("because"), "no network");
  EXPECT_EQ(shown.at("files").size(), 1u) << "the manifest";

  // The machine burns down.
  ASSERT_EQ(kill(daemon->pid(), SIGKILL), 0);
  EXPECT_EQ(daemon->Wait(), -1);
  output = test::RunTool({kController, "--config", config, "restore", Path("backup")});
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_NE(output.err.find("RESTORE_REFUSED"), std::string::npos) << output.err;
  fs::remove_all(Path("state"));
  output = test::RunTool({kController, "--config", config, "restore", Path("backup")});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  profile = Profile("operator");
  EXPECT_EQ(states(), "1.0 published, 1.1 published, ") << "the backup knows no better";
  EXPECT_NE(Publish("1.2", profile, {}, 1).find("TUF_ROLLBACK"), std::string::npos);
  Publish("1.2", profile, {"--after-restore"});
  EXPECT_EQ(states(), "1.0 withdrawn, 1.1 published, 1.2 published, ");
  EXPECT_NE(Sealift({"audit", "list", "--profile", profile}).find("restore"), std::string::npos);
}

TEST_F(ReleaseLifeTest, RootByTwoCustodiansEachWithAToken) {
  MakeToken("root2");
  const std::string other = tokens_["root2"];
  Sealift({"keys", "add-generation", "tuf-root", "--keys", Path("keys"), "--new-token", "root=" + other,
           "--token", "root=" + tokens_["root"]});
  const std::string draft = Path("next.json");
  Sealift({"tuf", "root", "draft", draft, "--keys", Path("keys"), "--threshold", "2"});
  const auto sign = [&](const std::string& token) {
    return json::parse(Sealift(
        {"tuf", "root", "sign", draft, "--keys", Path("keys"), "--token", "root=" + token, "-o", "json"}));
  };
  EXPECT_FALSE(sign(tokens_["root"]).at("complete")) << "two must sign from now on";
  const auto shown =
      json::parse(Sealift({"tuf", "root", "show", draft, "--keys", Path("keys"), "-o", "json"}));
  EXPECT_EQ(shown.at("signatures_by_next"), 1);
  EXPECT_FALSE(fs::exists(Path("keys/tuf/3.root.json")));
  EXPECT_TRUE(sign(other).at("complete"));
  ASSERT_TRUE(fs::exists(Path("keys/tuf/3.root.json")));
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  EXPECT_EQ(*ReadTextFile(Path("state/tuf/3.root.json")), *ReadTextFile(Path("keys/tuf/3.root.json")));
}

}  // namespace
}  // namespace sealift
