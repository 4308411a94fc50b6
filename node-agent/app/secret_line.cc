#include "node-agent/app/secret_line.h"

#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <iostream>

namespace sealift::agent {

Result<SecretBytes> ReadSecretLine(std::string_view prompt, std::size_t max_bytes) {
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  termios before{};
  if (terminal) {
    std::cerr << prompt << ": " << std::flush;
    if (::tcgetattr(STDIN_FILENO, &before) != 0)
      return ErrnoError(Code::kUnavailable, Reason::kInternal, "read a secret from the terminal", "tcgetattr",
                        errno);
    termios quiet = before;
    quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
  }
  Bytes typed;
  typed.reserve(max_bytes);
  char c = 0;
  while (typed.size() < max_bytes && ::read(STDIN_FILENO, &c, 1) == 1 && c != '\n')
    typed.push_back(static_cast<std::uint8_t>(c));
  c = 0;
  if (terminal) {
    ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
    std::cerr << "\n";
  }
  return SecretBytes(std::move(typed));
}

}  // namespace sealift::agent
