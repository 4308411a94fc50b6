// The programs as they are installed: tokens and keys by `sealift`, the daemon as a process, operators at
// their shell.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "shared/base/clock.h"
#include "shared/base/files.h"
#include "shared/crypto/certificate.h"
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift {
namespace {

constexpr char kSealift[] = SEALIFT_BIN_DIR "/sealift";
constexpr char kController[] = SEALIFT_BIN_DIR "/sealift-controller";
constexpr auto kPatience = std::chrono::seconds(60);

// A program that runs beside the test; killed with it.
class Daemon {
 public:
  Daemon(std::vector<std::string> argv, const std::filesystem::path& log) {
    std::vector<char*> arguments;
    for (std::string& argument : argv) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND,
                                     0600);
    EXPECT_EQ(posix_spawn(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Daemon() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  bool Ended(int& status) {
    if (pid_ <= 0 || waitpid(pid_, &status, WNOHANG) != pid_) return false;
    pid_ = -1;
    return true;
  }
  // The exit code; -1 where a signal ended it or it did not end.
  int Wait() {
    int status = 0;
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    while (!Ended(status)) {
      if (std::chrono::steady_clock::now() > give_up) return -1;
      SystemClock().SleepFor(std::chrono::milliseconds(20), {});
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
};

class DaemonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto dir = TempDir::Create("daemon");
    ASSERT_TRUE(dir.ok());
    dir_.emplace(std::move(dir).value());
    for (const char* group : {"root", "release", "online", "custody"}) MakeToken(group);
    std::vector<std::string> init = {
        "keys", "init", "test", "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING", "-o", Path("keys")};
    for (const auto& [group, uri] : tokens_) init.insert(init.end(), {"--token", group + "=" + uri});
    Sealift(init);
  }

  std::string Path(const std::string& name) const { return (dir_->path() / name).string(); }

  std::string Sealift(std::vector<std::string> arguments, int expected = 0) {
    arguments.insert(arguments.begin(), kSealift);
    const CommandOutput output = test::RunTool(arguments);
    EXPECT_EQ(output.exit_code, expected)
        << arguments[1] << " " << arguments[2] << ": " << output.out << output.err;
    return output.out + (expected == 0 ? "" : output.err);
  }

  void MakeToken(const std::string& group) {
    ASSERT_TRUE(WriteFileAtomically(Path(group + ".pin"), AsBytes(group + "-pin-1234\n"), 0600).ok());
    std::string uri = Sealift({"token", "create", "--store", Path("tokens"), "--label", "test-" + group,
                               "--pin-file", Path(group + ".pin")});
    while (!uri.empty() && (uri.back() == '\n' || uri.back() == '\r')) uri.pop_back();
    tokens_[group] = uri;
  }

  std::string WriteConfig(const std::vector<std::string>& groups) {
    std::string list;
    for (const std::string& group : groups) {
      list += (list.empty() ? "\"" : ", \"") + group + "=" + tokens_[group] + "\"";
    }
    const std::string text = "state_dir = \"state\"\nkeys = \"keys\"\ntokens = [" + list +
                             "]\n[listen]\nfleet = \"127.0.0.1:0\"\nenrolment = \"127.0.0.1:0\"\n"
                             "metrics = \"127.0.0.1:0\"\nready_file = \"ready.json\"\n";
    EXPECT_TRUE(WriteFileAtomically(Path("controller.toml"), AsBytes(text)).ok());
    return Path("controller.toml");
  }

  std::string Log() const {
    const auto text = ReadTextFile(Path("log"));
    return text.ok() ? *text : "";
  }

  // Null when it ended instead.
  std::unique_ptr<Daemon> StartDaemon(const std::vector<std::string>& groups) {
    std::filesystem::remove(Path("ready.json"));
    auto daemon = std::make_unique<Daemon>(
        std::vector<std::string>{kController, "--config", WriteConfig(groups)}, Path("log"));
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    while (!std::filesystem::exists(Path("ready.json"))) {
      int status = 0;
      if (daemon->Ended(status) || std::chrono::steady_clock::now() > give_up) return nullptr;
      SystemClock().SleepFor(std::chrono::milliseconds(20), {});
    }
    ready_ = nlohmann::json::parse(*ReadTextFile(Path("ready.json")));
    return daemon;
  }

  // The profile of an operator with that role, for the daemon that runs.
  std::string Profile(const std::string& role) {
    const std::string folder = Path(role);
    std::filesystem::remove_all(folder);
    Sealift({"operator", "issue", "anna", "--role", role, "--keys", Path("keys"), "--token",
             "custody=" + tokens_["custody"], "--controller", ready_.at("fleet"), "-o", folder});
    return folder + "/profile.toml";
  }

  std::optional<TempDir> dir_;
  std::map<std::string, std::string> tokens_;
  nlohmann::json ready_;
};

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
