// A real `p11-kit server` in front of a PKCS#11 module, for tests of remoting and of recovery.
//
// The listener is ours; it forks one child for each client, which is the process that can be lost. Both are
// known by pid. The client is p11-kit-client.so, which finds the socket by P11_KIT_SERVER_ADDRESS when it is
// loaded.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hsm/module.h"
#include "hsm/token_uri.h"
#include "shared/base/files.h"
#include "tests/support/tools.h"

extern char** environ;

namespace sealift::hsm {

inline std::string P11KitClientModule() {
  for (const char* path :
       {"/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so",
        "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib64/pkcs11/p11-kit-client.so"}) {
    if (::access(path, R_OK) == 0) return path;
  }
  return {};
}

// True as soon as `condition` is; false after a while.
inline bool Eventually(const std::function<bool()>& condition,
                       std::chrono::milliseconds limit = std::chrono::seconds(20)) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

// Fields of /proc/PID/stat that we need; nothing when the process is gone.
struct ProcessState {
  char state = '?';
  pid_t parent = 0;
};
inline std::optional<ProcessState> ReadProcessState(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  // Not by buffer iterators: they throw where the process ends between open and read (ESRCH).
  std::string text;
  std::getline(file, text);
  const std::size_t end = text.rfind(')');
  if (end == std::string::npos) return std::nullopt;
  std::istringstream rest(text.substr(end + 1));
  ProcessState process;
  rest >> process.state >> process.parent;
  return process;
}

// Ends with the object, and with the test program.
class TestProcess {
 public:
  TestProcess(std::vector<std::string> argv, const std::filesystem::path& log,
              const std::vector<std::pair<std::string, std::string>>& environment = {}) {
    std::vector<std::string> words{"setpriv", "--pdeathsig", "KILL", "env"};
    for (const auto& [name, value] : environment) words.push_back(name + "=" + value);
    words.insert(words.end(), argv.begin(), argv.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    if (::posix_spawnp(&pid_, "setpriv", &actions, nullptr, pointers.data(), environ) != 0) pid_ = -1;
    posix_spawn_file_actions_destroy(&actions);
    EXPECT_GT(pid_, 0);
  }
  TestProcess(const TestProcess&) = delete;
  TestProcess& operator=(const TestProcess&) = delete;
  ~TestProcess() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);  // unshare ignores the gentle ones
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

// Living children of a process, by its pid.
inline std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::vector<pid_t> children;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto pid = static_cast<pid_t>(std::stol(name));
    const auto process = ReadProcessState(pid);
    if (process.has_value() && process->parent == parent && process->state != 'Z') children.push_back(pid);
  }
  return children;
}

class P11KitServer {
 public:
  // `argv` starts the listener on socket().
  P11KitServer(std::filesystem::path folder, std::vector<std::string> argv,
               std::vector<std::pair<std::string, std::string>> environment = {})
      : folder_(std::move(folder)), argv_(std::move(argv)), environment_(std::move(environment)) {
    ::setenv("P11_KIT_SERVER_ADDRESS", ("unix:path=" + socket().string()).c_str(), 1);
    StartListener();
  }
  // `folder` gets the socket; `store` is one that CreateSoftHsmToken made.
  static std::unique_ptr<P11KitServer> ForSoftHsm(std::filesystem::path folder,
                                                  const std::filesystem::path& store) {
    std::vector<std::string> argv{"p11-kit",
                                  "server",
                                  "-f",
                                  "-n",
                                  folder / "p11-kit.socket",
                                  "--provider",
                                  "/usr/lib/softhsm/libsofthsm2.so",
                                  "pkcs11:"};
    return std::make_unique<P11KitServer>(
        std::move(folder), std::move(argv),
        std::vector<std::pair<std::string, std::string>>{{"SOFTHSM2_CONF", SoftHsmConfig(store).string()}});
  }
  P11KitServer(const P11KitServer&) = delete;
  P11KitServer& operator=(const P11KitServer&) = delete;
  ~P11KitServer() { ::unsetenv("P11_KIT_SERVER_ADDRESS"); }

  std::filesystem::path socket() const { return folder_ / "p11-kit.socket"; }
  // The same token as the module shows it, through the socket.
  static TokenUri Remote(const TokenUri& token) {
    return {.token = token.token,
            .serial = token.serial,
            .pin_file = token.pin_file,
            .module_path = P11KitClientModule()};
  }
  void StartListener() {
    std::error_code ignored;
    std::filesystem::remove(socket(), ignored);
    listener_ = std::make_unique<TestProcess>(argv_, folder_ / "p11-kit.log", environment_);
    ASSERT_TRUE(Eventually([&] { return Answers(); }));
  }
  void StopListener() { listener_.reset(); }
  // The one child that serves us; it must be alone.
  std::optional<pid_t> Child() const {
    const auto children = ChildrenOf(listener_->pid());
    if (children.size() != 1) return std::nullopt;
    return children.front();
  }
  // Ends the child, and returns when it is gone.
  void KillChild() const {
    std::optional<pid_t> child;
    ASSERT_TRUE(Eventually([&] { return (child = Child()).has_value(); }));
    End(*child);
  }
  // Returns when the process is gone.
  static void End(pid_t pid) {
    ::kill(pid, SIGKILL);
    ASSERT_TRUE(Eventually([&] {
      const auto process = ReadProcessState(pid);
      return !process.has_value() || process->state == 'Z';
    }));
  }

 private:
  // The socket is there before anybody listens on it.
  bool Answers() const {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = socket();
    EXPECT_LT(path.size(), sizeof(address.sun_path));
    std::copy(path.begin(), path.end(), address.sun_path);
    return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  }

  std::filesystem::path folder_;
  std::vector<std::string> argv_;
  std::vector<std::pair<std::string, std::string>> environment_;
  std::unique_ptr<TestProcess> listener_;
};

}  // namespace sealift::hsm
