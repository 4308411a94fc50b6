// A real TPM for tests: swtpm with state of its own, made by swtpm_setup, with or without an EK certificate.
//
// Serves one connection at a time on two loopback ports; close an EsysTpm before running a tpm2 tool. Skips
// the test, or fails it under SEALIFT_REQUIRE_TOOLS=1, where swtpm is missing: SEALIFT_NEED_TOOLS("swtpm",
// ...).
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "shared/base/files.h"
#include "shared/base/subprocess.h"

extern char** environ;

namespace sealift::test {

// Empty when every tool is there.
inline std::string MissingTool(std::initializer_list<const char*> tools) {
  for (const char* tool : tools) {
    const auto found = RunCommand({.argv = {"sh", "-c", std::string("command -v ") + tool}});
    if (!found.ok() || found->exit_code != 0) return tool;
  }
  return "";
}

#define SEALIFT_NEED_TOOLS(...)                                                             \
  do {                                                                                      \
    const std::string missing_tool_ = ::sealift::test::MissingTool({__VA_ARGS__});          \
    if (!missing_tool_.empty() && std::getenv("SEALIFT_REQUIRE_TOOLS") == nullptr) {        \
      GTEST_SKIP() << missing_tool_ << " is not installed";                                 \
    }                                                                                       \
    ASSERT_EQ(missing_tool_, "") << "not installed, and SEALIFT_REQUIRE_TOOLS asks for it"; \
  } while (false)

struct SwtpmOptions {
  bool ek_certificate = true;
  // Makes EK certificates with this folder's CA; empty: a CA of its own.
  std::filesystem::path ca;
};

class Swtpm {
 public:
  static std::unique_ptr<Swtpm> Start(const SwtpmOptions& options = {}) {
    std::unique_ptr<Swtpm> tpm(new Swtpm());
    tpm->ca_ = options.ca.empty() ? tpm->folder_.path() / "ca" : options.ca;
    tpm->Manufacture(options);
    if (!::testing::Test::HasFatalFailure()) tpm->PowerOn();
    return tpm;
  }
  ~Swtpm() { PowerOff(); }

  // The TCTI for EsysTpmOptions and for TPM2TOOLS_TCTI.
  std::string tcti() const { return "swtpm:host=127.0.0.1,port=" + std::to_string(port_); }
  const std::filesystem::path& folder() const { return folder_.path(); }
  // The folder that makes EK certificates; has private keys.
  const std::filesystem::path& ca() const { return ca_; }
  // The certificate that issued the EK's, alone in a folder: what a verifier is given.
  std::filesystem::path makers() const { return folder_.path() / "makers"; }

  // A reset: registers start anew, keys stay.
  void PowerCycle() {
    PowerOff();
    PowerOn();
  }

  // Runs a tpm2 tool against this TPM, in its folder. EXPECTs success; returns what it printed.
  std::string Tool(std::vector<std::string> argv) const {
    const auto output = ToolOutput(std::move(argv));
    EXPECT_EQ(output.exit_code, 0) << output.err;
    return output.out;
  }
  CommandOutput ToolOutput(std::vector<std::string> argv) const {
    std::vector<std::string> in_folder{"env", "-C", folder_.path().string()};
    in_folder.insert(in_folder.end(), argv.begin(), argv.end());
    auto output = RunCommand({.argv = in_folder,
                              .environment = {{"TPM2TOOLS_TCTI", tcti()}, {"TSS2_LOG", "all+NONE"}},
                              .timeout = std::chrono::seconds(30)});
    EXPECT_TRUE(output.ok()) << Describe(output.status());
    return output.ok() ? *output : CommandOutput{.exit_code = -1};
  }

 private:
  Swtpm() : folder_(TempDir::Create("sealift-swtpm").value()) {}

  void Write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / name, AsBytes(text)).ok());
  }

  void Manufacture(const SwtpmOptions& options) {
    const std::string folder = folder_.path().string();
    const std::string ca = ca_.string();
    ASSERT_TRUE(MakeDirectories(folder_.path() / "state").ok());
    ASSERT_TRUE(MakeDirectories(ca_).ok());
    Write("localca.options",
          "--platform-manufacturer Sealift\n--platform-version 1\n--platform-model test\n");
    Write("localca.conf", "statedir = " + ca + "\nsigningkey = " + ca + "/signkey.pem\nissuercert = " + ca +
                              "/issuercert.pem\ncertserial = " + ca + "/certserial\n");
    Write("setup.conf", "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = " + folder +
                            "/localca.conf\ncreate_certs_tool_options = " + folder +
                            "/localca.options\nactive_pcr_banks = sha256\n");
    std::vector<std::string> argv{"swtpm_setup",     "--tpm2",   "--tpmstate",
                                  folder + "/state", "--config", folder + "/setup.conf",
                                  "--pcr-banks",     "sha256"};
    if (options.ek_certificate) argv.insert(argv.end(), {"--createek", "--create-ek-cert"});
    const auto made = RunCommand({.argv = argv, .timeout = std::chrono::seconds(60)});
    ASSERT_TRUE(made.ok()) << Describe(made.status());
    ASSERT_EQ(made->exit_code, 0) << made->out << made->err;
    if (!options.ek_certificate) return;
    const auto issuer = ReadFile(ca_ / "issuercert.pem");
    ASSERT_TRUE(issuer.ok() && MakeDirectories(makers()).ok());
    ASSERT_TRUE(WriteFileAtomically(makers() / "issuer.pem", *issuer).ok());
  }

  static bool PortIsFree(std::uint16_t port) {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = Loopback(port);
    return ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  static bool Answers(std::uint16_t port) {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = Loopback(port);
    return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  static sockaddr_in Loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  // Claims a port pair among all tests of this machine for as long as the descriptor is open.
  static UniqueFd Reserve(std::uint16_t port) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string name = "sealift-test-swtpm-" + std::to_string(port);
    std::copy(name.begin(), name.end(), address.sun_path + 1);
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0) return UniqueFd();
    return fd;
  }

  void PowerOn() {
    // Below the ephemeral range, so that no client socket takes one meanwhile.
    for (int attempt = 0; attempt < 1000; ++attempt) {
      port_ = static_cast<std::uint16_t>(10000 + (static_cast<int>(::getpid()) * 2 + attempt * 262) % 20000);
      reservation_ = Reserve(port_);
      if (reservation_.valid() && PortIsFree(port_) && PortIsFree(static_cast<std::uint16_t>(port_ + 1)) &&
          Spawn()) {
        return;
      }
    }
    FAIL() << "swtpm did not start";
  }

  bool Spawn() {
    const std::string state = "dir=" + (folder_.path() / "state").string();
    const std::string server = "type=tcp,bindaddr=127.0.0.1,port=" + std::to_string(port_);
    const std::string control = "type=tcp,bindaddr=127.0.0.1,port=" + std::to_string(port_ + 1);
    // Goes down with this process, also when a check ends it.
    std::vector<std::string> argv{
        "setpriv", "--pdeathsig", "TERM", "swtpm",  "socket", "--tpm2",  "--tpmstate",
        state,     "--server",    server, "--ctrl", control,  "--flags", "startup-clear,not-need-init"};
    std::vector<char*> pointers;
    for (std::string& word : argv) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const std::string log = (folder_.path() / "swtpm.log").string();
    posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    const int spawned = ::posix_spawnp(&pid_, "setpriv", &actions, nullptr, pointers.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (spawned != 0) {
      pid_ = -1;
      return false;
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < deadline) {
      if (Answers(static_cast<std::uint16_t>(port_ + 1))) return true;
      if (::waitpid(pid_, nullptr, WNOHANG) == pid_) {
        pid_ = -1;
        return false;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    PowerOff();
    return false;
  }

  void PowerOff() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

  TempDir folder_;
  std::filesystem::path ca_;
  std::uint16_t port_ = 0;
  UniqueFd reservation_;
  pid_t pid_ = -1;
};

}  // namespace sealift::test
