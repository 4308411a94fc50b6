// Kernel command lines: their words as the kernel splits them, and the words that open a back door.
//
// Thread-safe functions over plain values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace sealift::build {

// COMMAND_LINE_SIZE of the kernel on x86, less the final NUL.
inline constexpr std::size_t kMaxCommandLine = 2047;

// Errors: INVALID_ARGUMENT/COMMAND_LINE_INVALID: longer, or not one line of printable UTF-8. `what` names it
// in the message.
Status CheckCommandLine(std::string_view command_line, std::string_view what);

// Words as next_arg() of the kernel sees them: spaces inside double quotes do not split, the quotes around a
// word or its value are dropped.
std::vector<std::string> CommandLineWords(std::string_view command_line);

// A word that gives whoever holds the machine more than a login prompt.
struct RiskyWord {
  // Stable: "cmdline-init", "cmdline-debug-shell", ...
  std::string finding;
  std::string word;
};
// As the kernel splits them, and then what only systemd's splitting shows, which knows single quotes too. As
// both do, '-' and '_' in names count as equal.
std::vector<RiskyWord> FindRiskyWords(std::string_view command_line);

}  // namespace sealift::build
