// The programs as they are installed: tokens and keys by `sealift`, the daemon as a process.
#pragma once

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
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift {

inline constexpr char kSealift[] = SEALIFT_BIN_DIR "/sealift";
inline constexpr char kController[] = SEALIFT_BIN_DIR "/sealift-controller";
inline constexpr auto kPatience = std::chrono::seconds(60);

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
                             "metrics = \"127.0.0.1:0\"\nready_file = \"ready.json\"\n" +
                             more_config_;
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
  // Behind what WriteConfig writes itself.
  std::string more_config_;
  nlohmann::json ready_;
};

}  // namespace sealift
