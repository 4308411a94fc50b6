#include "hsm/pin.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "shared/base/files.h"

namespace sealift::hsm {
namespace {

constexpr std::size_t kMaxPinBytes = 255;

Status PinError(std::string_view what) {
  return MakeError(Code::kFailedPrecondition, Reason::kHsmPinMissing, fmt::format("read PIN: {}", what));
}

// Reads into one fixed buffer, so that no copy is left behind by a growing one.
Result<SecretBytes> ReadLine(int fd, std::string_view from) {
  std::array<std::uint8_t, kMaxPinBytes + 3> buffer{};
  std::size_t size = 0;
  while (size < buffer.size()) {
    const ssize_t got = read(fd, buffer.data() + size, buffer.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return ErrnoError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                        fmt::format("read PIN from {}", from), "read", errno);
    }
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (isatty(fd) == 1 && buffer.at(size - 1) == '\n') break;
  }
  if (size > 0 && buffer.at(size - 1) == '\n') --size;
  if (size > 0 && buffer.at(size - 1) == '\r') --size;
  const auto end = buffer.begin() + static_cast<std::ptrdiff_t>(size);
  const bool one_line = std::none_of(buffer.begin(), end, [](std::uint8_t c) { return c < 0x20; });
  SecretBytes pin(ByteView(buffer.data(), size));
  WipeMemory(buffer.data(), buffer.size());
  if (size == 0 || size > kMaxPinBytes || !one_line) {
    return PinError(fmt::format("{} holds no single line of 1 to {} bytes", from, kMaxPinBytes));
  }
  return pin;
}

// Echo off for as long as this lives.
class QuietTerminal {
 public:
  explicit QuietTerminal(int fd) : fd_(fd), known_(tcgetattr(fd, &before_) == 0) {
    if (!known_) return;
    termios quiet = before_;
    quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    tcsetattr(fd_, TCSAFLUSH, &quiet);
  }
  QuietTerminal(const QuietTerminal&) = delete;
  QuietTerminal& operator=(const QuietTerminal&) = delete;
  ~QuietTerminal() {
    if (known_) tcsetattr(fd_, TCSAFLUSH, &before_);
  }
  bool ready() const { return known_; }

 private:
  int fd_;
  termios before_{};
  bool known_;
};

Result<SecretBytes> Prompt(const TokenUri& uri) {
  const UniqueFd terminal(open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY));
  if (!terminal.valid() || isatty(STDIN_FILENO) != 1) {
    return PinError(
        fmt::format("token {} has no pin-source=file:PATH in its URI, there is no credential "
                    "'sealift.pin.{}', and no terminal to ask on",
                    uri.Name(), uri.token));
  }
  const QuietTerminal quiet(terminal.get());
  if (!quiet.ready()) return PinError("the terminal's echo cannot be turned off");
  const std::string question = fmt::format("PIN of token {}: ", uri.Name());
  if (write(terminal.get(), question.data(), question.size()) < 0) return PinError("the terminal is gone");
  auto pin = ReadLine(terminal.get(), "the terminal");
  if (write(terminal.get(), "\n", 1) < 0) return PinError("the terminal is gone");
  return pin;
}

std::optional<std::string> CredentialFile(const TokenUri& uri) {
  const char* folder = std::getenv("CREDENTIALS_DIRECTORY");
  if (folder == nullptr || uri.token.empty() || uri.token.find('/') != std::string::npos) return std::nullopt;
  std::string path = fmt::format("{}/sealift.pin.{}", folder, uri.token);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  return path;
}

}  // namespace

Result<SecretBytes> ReadPinFile(const std::string& path) {
  SEALIFT_RETURN_IF_ERROR(CheckSecretFile(path));
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.valid()) {
    return ErrnoError(Code::kNotFound, Reason::kFileUnreadable, fmt::format("read PIN file '{}'", path),
                      "open", errno);
  }
  return ReadLine(file.get(), fmt::format("'{}'", path));
}

Result<SecretBytes> ReadPin(const TokenUri& uri) {
  if (!uri.pin_file.empty()) return ReadPinFile(uri.pin_file);
  if (const auto credential = CredentialFile(uri)) return ReadPinFile(*credential);
  return Prompt(uri);
}

}  // namespace sealift::hsm
