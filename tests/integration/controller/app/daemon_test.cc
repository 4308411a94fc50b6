// The programs as they are installed: tokens and keys by `sealift`, the daemon as a process, operators at
// their shell.
#include "tests/integration/controller/app/daemon_fixture.h"

namespace sealift {
namespace {

TEST_F(DaemonTest, OperatorsWorkWithADaemonWhoseKeysAreInAToken) {
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  const auto nodes =
      nlohmann::json::parse(Sealift({"node", "list", "-o", "json", "--profile", Profile("viewer")}));
  EXPECT_TRUE(nodes.at("nodes").empty());

  const std::string ek(64, 'a');
  Sealift({"node", "admit-ek", ek, "--label", "site=lab", "--profile", Profile("approver")});
  const std::string refused = Sealift({"node", "admit-ek", ek, "--profile", Profile("viewer")}, 1);
  EXPECT_NE(refused.find("RPC_NOT_PERMITTED"), std::string::npos) << refused;
  const auto audit =
      nlohmann::json::parse(Sealift({"audit", "list", "-o", "json", "--profile", Profile("viewer")}));
  ASSERT_EQ(audit.at("entries").size(), 1u);
  EXPECT_EQ(audit.at("entries")[0].at("operator"), "anna");

  // A stolen certificate, from the next call on.
  const std::string stolen = Profile("operator");
  Sealift({"rollout", "list", "--profile", stolen});
  Sealift({"certificate", "revoke", Path("operator/anna.pem"), "--reason", "stolen", "--profile",
           Profile("custodian")});
  EXPECT_NE(Sealift({"rollout", "list", "--profile", stolen}, 1).find("CERTIFICATE_REVOKED"),
            std::string::npos);
}

TEST_F(DaemonTest, WhoMayEnrolIsSaidAtTheCommandLine) {
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  const std::string approver = Profile("approver");
  const auto run = [&](std::vector<std::string> argv, int expected = 0) {
    argv.insert(argv.end(), {"-o", "json", "--profile", approver});
    const std::string out = Sealift(argv, expected);
    return expected == 0 ? nlohmann::json::parse(out) : nlohmann::json(out);
  };
  const std::string a(64, 'a');
  const std::string b(64, 'b');
  const auto write = [&](const std::string& csv) {
    ASSERT_TRUE(WriteFileAtomically(Path("machines.csv"), AsBytes(csv)).ok());
  };
  write("serial,ek_digest,labels\nSN-1," + a + ",\nSN-2,nothing,\n");
  EXPECT_NE(run({"node", "inventory", "import", Path("machines.csv")}, 1)
                .get<std::string>()
                .find("line 3: the EK digest"),
            std::string::npos);
  write("serial,ek_digest,labels\nSN-1," + a + ",site=lab\nSN-2," + b + ",\n");
  EXPECT_EQ(run({"node", "inventory", "import", Path("machines.csv")}).at("added"), 2);
  EXPECT_EQ(run({"node", "withdraw-ek", b}).at("withdrawn"), true);
  const auto machines = run({"node", "inventory", "list", "--missing"}).at("machines");
  ASSERT_EQ(machines.size(), 1u);
  EXPECT_EQ(machines[0].at("serial"), "SN-1");
  EXPECT_EQ(machines[0].at("labels").at("site"), "lab");
  EXPECT_EQ(machines[0].at("listed_by"), "anna");

  const auto made = run({"node", "token", "create", "--uses", "3", "--hours", "2", "--file", Path("join")});
  EXPECT_EQ(made.at("state"), "usable");
  EXPECT_FALSE(made.contains("secret"));
  const std::string secret = ReadTextFile(Path("join")).value();
  EXPECT_EQ(secret.rfind("sealift-join-", 0), 0u);
  EXPECT_EQ(std::filesystem::status(Path("join")).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_EQ(run({"node", "token", "revoke", made.at("id")}).at("state"), "revoked");
  const std::string list = Sealift({"node", "token", "list", "--profile", approver});
  EXPECT_NE(list.find("revoked"), std::string::npos);
  EXPECT_EQ(list.find(secret.substr(0, secret.size() - 1)), std::string::npos);
  EXPECT_TRUE(run({"node", "refusals"}).at("refusals").empty());
  EXPECT_NE(run({"node", "replace-ek", "0193", b}, 1).get<std::string>().find("NODE_UNKNOWN"),
            std::string::npos);
}

TEST_F(DaemonTest, TheSecondGenerationServesWhenTheFirstTokenIsGone) {
  ASSERT_NE(StartDaemon({"online"}), nullptr) << Log();
  const std::string lost = tokens_["online"];
  MakeToken("online2");
  Sealift({"keys", "add-generation", "node-ca", "controller-tls", "tuf-snapshot", "tuf-timestamp", "journal",
           "--keys", Path("keys"), "--new-token", "online=" + tokens_["online2"], "--token", "online=" + lost,
           "--token", "root=" + tokens_["root"]});
  tokens_["online"] = tokens_["online2"];
  std::filesystem::remove(Path("keys/controller-tls.key.pem"));
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  EXPECT_EQ(*ReadTextFile(Path("state/tuf/2.root.json")), *ReadTextFile(Path("keys/tuf/2.root.json")));
  // Profiles made now know both CAs; one that knows the first only is not deceived.
  Sealift({"node", "list", "--profile", Profile("viewer")});
  std::filesystem::copy_file(Path("keys/node-ca.pem"), Path("viewer/ca.pem"),
                             std::filesystem::copy_options::overwrite_existing);
  Sealift({"node", "list", "--profile", Path("viewer/profile.toml")}, 1);
}

TEST_F(DaemonTest, MetricsTellCallsAndNodes) {
  if (!test::HaveTool("curl")) {
    ASSERT_FALSE(test::ToolsAreRequired());
    GTEST_SKIP() << "curl is not here";
  }
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  Sealift({"node", "list", "--profile", Profile("viewer")});
  const std::string metrics =
      test::RunTool(
          {"curl", "--silent", "--fail", "http://" + ready_.at("metrics").get<std::string>() + "/metrics"})
          .out;
  EXPECT_NE(metrics.find("sealift_rpcs_total{code=\"OK\",method=\"/sealift.v1.FleetService/ListNodes\"} 1"),
            std::string::npos)
      << metrics;
  EXPECT_NE(metrics.find("sealift_rollouts_active 0"), std::string::npos) << metrics;
}

TEST_F(DaemonTest, SigtermEndsItWithZeroAndItsStateIsThereAgain) {
  auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  Sealift({"node", "admit-ek", std::string(64, 'b'), "--profile", Profile("approver")});
  ASSERT_EQ(kill(daemon->pid(), SIGTERM), 0);
  EXPECT_EQ(daemon->Wait(), 0) << Log();
  daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  EXPECT_NE(Sealift({"audit", "list", "--profile", Profile("viewer")}).find("AdmitEk OK"), std::string::npos);
}

TEST_F(DaemonTest, KilledInTheMiddleItStartsAgain) {
  auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  Sealift({"node", "admit-ek", std::string(64, 'c'), "--profile", Profile("approver")});
  ASSERT_EQ(kill(daemon->pid(), SIGKILL), 0);
  EXPECT_EQ(daemon->Wait(), -1);
  daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  EXPECT_NE(Sealift({"audit", "list", "--profile", Profile("viewer")}).find("AdmitEk OK"), std::string::npos);
}

TEST_F(DaemonTest, KeysOfOthersAreRefused) {
  for (const char* group : {"root", "custody"}) {
    EXPECT_EQ(StartDaemon({"online", group}), nullptr);
    EXPECT_NE(Log().find("TOKEN_GROUP_FORBIDDEN"), std::string::npos) << Log();
    std::filesystem::remove(Path("log"));
  }
}

// Named as `online`, but it is the root token: what it holds counts, not what it is called.
TEST_F(DaemonTest, RootTokenUnderAnotherNameIsRefused) {
  tokens_["online"] = tokens_["root"];
  EXPECT_EQ(StartDaemon({"online"}), nullptr);
  EXPECT_NE(Log().find("TOKEN_GROUP_FORBIDDEN"), std::string::npos) << Log();
}

TEST_F(DaemonTest, NoCoreFileAndNoPinInSight) {
  const auto daemon = StartDaemon({"online"});
  ASSERT_NE(daemon, nullptr) << Log();
  const std::string proc = "/proc/" + std::to_string(daemon->pid());
  const auto limits = ReadTextFile(proc + "/limits");
  ASSERT_TRUE(limits.ok());
  EXPECT_NE(limits->find("Max core file size        0                    0"), std::string::npos) << *limits;
  for (const char* file : {"/cmdline", "/environ"}) {
    const auto text = ReadTextFile(proc + file);
    if (!text.ok()) continue;
    EXPECT_EQ(text->find("online-pin-1234"), std::string::npos) << file;
  }
  EXPECT_EQ(Log().find("online-pin-1234"), std::string::npos);
}

TEST_F(DaemonTest, CheckConfigNamesEveryProblem) {
  ASSERT_TRUE(
      WriteFileAtomically(Path("bad.toml"), AsBytes("[listen]\nfleet = \"x\"\n[typo]\na = 1\n")).ok());
  const CommandOutput bad = test::RunTool({kController, "--config", Path("bad.toml"), "--check-config"});
  EXPECT_EQ(bad.exit_code, 2);
  for (const char* path : {"state_dir", "keys", "tokens", "listen.fleet", "typo"}) {
    EXPECT_NE(bad.err.find(path), std::string::npos) << bad.err;
  }
  EXPECT_EQ(test::RunTool({kController, "--config", WriteConfig({"online"}), "--check-config"}).exit_code, 0);
}

}  // namespace
}  // namespace sealift
