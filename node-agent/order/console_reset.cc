#include "node-agent/order/console_reset.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/efi/boot_entry.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kMaxAnswerBytes = 64;
// Without those that are mistaken for one another; 16, so that a byte picks one without favour.
constexpr std::string_view kLetters = "abcdefhkmnprtwxy";
static_assert(kLetters.size() == 16);

Status ConsoleError(const std::filesystem::path& console, std::string_view call) {
  return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable,
                    fmt::format("ask at the console '{}'", console.string()), call, errno);
}

// One line, without its end; empty when none came in time.
Result<std::string> ReadLine(int fd, const std::filesystem::path& console,
                             std::chrono::milliseconds patience) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + patience;
  std::string line;
  while (line.size() < kMaxAnswerBytes) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = left.count() <= 0 ? 0 : ::poll(&waiting, 1, static_cast<int>(left.count()));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return ConsoleError(console, "poll");
    if (ready == 0) return std::string();
    char c = 0;
    const ssize_t got = ::read(fd, &c, 1);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return ConsoleError(console, "read");
    if (got == 0 || c == '\n' || c == '\r') return line;
    line.push_back(c);
  }
  return std::string();
}

}  // namespace

bool LeadsToConsoleReset(std::string_view entry) {
  const auto name = efi::BootEntryName::Parse(entry);
  return name.ok() && (name->id == "recovery" || name->id == "statereset");
}

std::string NewConsoleWord() {
  std::string word;
  for (const std::uint8_t byte : RandomBytes(4)) word.push_back(kLetters[byte % kLetters.size()]);
  return word;
}

Result<std::string> ConsoleReset::Pending() {
  if (parts_.orders != nullptr) {
    SEALIFT_ASSIGN_OR_RETURN(std::string order, parts_.orders->Pending());
    if (!order.empty()) return order;
  }
  SEALIFT_ASSIGN_OR_RETURN(const bool confirmed, Confirmed());
  if (!confirmed) log::Info("persistent is not made anew: nobody confirmed it at the console", {});
  return std::string(confirmed ? kConsoleResetId : "");
}

Result<bool> ConsoleReset::Confirmed() const {
  const UniqueFd fd(::open(parts_.console.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!fd.valid()) return ConsoleError(parts_.console, "open");
  // What was typed before the question is no answer to it. A console that is no terminal has nothing to drop.
  if (::tcflush(fd.get(), TCIFLUSH) != 0 && errno != ENOTTY) return ConsoleError(parts_.console, "tcflush");
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(parts_.patience).count();
  const std::string question = fmt::format(
      "\r\nThis image lets you make the volume 'persistent' anew. All that it holds is lost for ever.\r\n"
      "Type 'reset {}' within {} s to do that; press Enter to start the machine as it is.\r\n> ",
      parts_.word, seconds);
  SEALIFT_RETURN_IF_ERROR(WriteAll(fd.get(), parts_.console, AsBytes(question)));
  SEALIFT_ASSIGN_OR_RETURN(const std::string answer, ReadLine(fd.get(), parts_.console, parts_.patience));
  return answer == "reset " + parts_.word;
}

Status ConsoleReset::Consume(const std::string& id) {
  // A question is asked in each boot that was chosen for it, so there is nothing to spend.
  if (id == kConsoleResetId) return OkStatus();
  return parts_.orders == nullptr ? OkStatus() : parts_.orders->Consume(id);
}

}  // namespace sealift::agent
