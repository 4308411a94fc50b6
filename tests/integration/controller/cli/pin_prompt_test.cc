// The PIN prompt as a person sees it: on a pseudo-terminal.
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "shared/base/files.h"
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift::cli {
namespace {

using test::RunTool;

constexpr char kSealift[] = SEALIFT_BIN_DIR "/sealift";
constexpr char kPin[] = "correct-horse-7";
constexpr int kPatienceMs = 30'000;

// A program with a terminal of its own. Killed, by its id, if it still runs at the end.
class OnTerminal {
 public:
  explicit OnTerminal(std::vector<std::string> argv) {
    std::vector<char*> arguments;
    for (std::string& argument : argv) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    pid_ = forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (pid_ != 0) return;
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  OnTerminal(const OnTerminal&) = delete;
  OnTerminal& operator=(const OnTerminal&) = delete;
  ~OnTerminal() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    if (terminal_ >= 0) close(terminal_);
  }
  // Until the screen shows `text`; false when the program ends or takes too long.
  bool WaitFor(const std::string& text) {
    while (screen_.find(text) == std::string::npos)
      if (!ReadMore()) return false;
    return true;
  }
  void Type(const std::string& line) {
    EXPECT_EQ(write(terminal_, line.data(), line.size()), static_cast<ssize_t>(line.size()));
  }
  bool Echoes() const {
    termios settings{};
    EXPECT_EQ(tcgetattr(terminal_, &settings), 0);
    return (settings.c_lflag & static_cast<tcflag_t>(ECHO)) != 0;
  }
  int ExitCode() {
    while (ReadMore()) {
    }
    int status = 0;
    if (waitpid(pid_, &status, 0) != pid_) return -1;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  const std::string& screen() const { return screen_; }
  std::size_t Count(const std::string& text) const {
    std::size_t count = 0;
    for (auto at = screen_.find(text); at != std::string::npos; at = screen_.find(text, at + 1)) ++count;
    return count;
  }

 private:
  // The terminal's end reads as an error (EIO) once the program is gone.
  bool ReadMore() {
    pollfd ready{.fd = terminal_, .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, kPatienceMs) != 1) return false;
    std::array<char, 4096> piece{};
    const ssize_t got = read(terminal_, piece.data(), piece.size());
    if (got <= 0) return false;
    screen_.append(piece.data(), static_cast<std::size_t>(got));
    return true;
  }

  pid_t pid_ = -1;
  int terminal_ = -1;
  std::string screen_;
};

class PinPromptTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists("/usr/lib/softhsm/libsofthsm2.so")) {
      if (test::ToolsAreRequired()) FAIL() << "no softhsm2";
      GTEST_SKIP() << "no softhsm2";
    }
    ASSERT_TRUE(WriteFileAtomically(Path("pin"), AsBytes(kPin), 0600).ok());
    const CommandOutput made = RunTool({kSealift, "token", "create", "--store", Path("store"), "--label",
                                        "all", "--pin-file", Path("pin"), "-o", "json"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    const std::string uri = nlohmann::json::parse(made.out)["uri"];
    const CommandOutput init = RunTool({kSealift, "keys", "init", "demo", "--token", uri, "-o", Path("keys"),
                                        "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING"});
    ASSERT_EQ(init.exit_code, 0) << init.err;
    silent_ = "pkcs11:token=all?x-softhsm-store=" + Path("store");
  }
  std::string Path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::vector<std::string> List() const {
    return {kSealift, "keys", "list", "--keys", Path("keys"), "--token", silent_};
  }

  TempDir folder_ = TempDir::Create("prompt").value();
  // Names no PIN file.
  std::string silent_;
};

TEST_F(PinPromptTest, AsksOnceAndDoesNotShowWhatIsTyped) {
  OnTerminal sealift(List());
  ASSERT_TRUE(sealift.WaitFor("PIN of token 'all': ")) << sealift.screen();
  EXPECT_FALSE(sealift.Echoes());
  sealift.Type(std::string(kPin) + "\n");
  EXPECT_EQ(sealift.ExitCode(), 0) << sealift.screen();
  EXPECT_EQ(sealift.Count("PIN of token"), 1u) << "one token serves all groups: " << sealift.screen();
  EXPECT_EQ(sealift.Count(kPin), 0u);
  EXPECT_EQ(sealift.Count("tuf-targets"), 1u);
}

TEST_F(PinPromptTest, AWrongPinIsAskedForOnceOnly) {
  {
    OnTerminal sealift(List());
    ASSERT_TRUE(sealift.WaitFor("PIN of token"));
    sealift.Type("wrong-battery-8\n");
    EXPECT_EQ(sealift.ExitCode(), 1);
    EXPECT_EQ(sealift.Count("PIN of token"), 1u) << sealift.screen();
    EXPECT_EQ(sealift.Count("HSM_PIN_INCORRECT"), 1u) << sealift.screen();
    EXPECT_EQ(sealift.Count("wrong-battery-8"), 0u);
  }
  OnTerminal again(List());
  ASSERT_TRUE(again.WaitFor("PIN of token"));
  again.Type(std::string(kPin) + "\n");
  EXPECT_EQ(again.ExitCode(), 0) << again.screen();
}

TEST_F(PinPromptTest, WithoutATerminalItSaysHowToGiveThePin) {
  const CommandOutput refused = RunTool(List());
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find("sealift.pin.all"), std::string::npos) << refused.err;
}

}  // namespace
}  // namespace sealift::cli
