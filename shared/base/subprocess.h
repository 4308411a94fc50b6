// Runs a program: argument vector, no shell, bounded time and output.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift {

struct Command {
  // argv[0] is looked up in PATH.
  std::vector<std::string> argv;
  // Added to this process's environment.
  std::map<std::string, std::string> environment;
  std::string stdin_text;
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  std::size_t max_output_bytes = 16u << 20;
};

struct CommandOutput {
  int exit_code = 0;
  std::string out;
  std::string err;
};

// Any exit code is success here; RunCommandChecked is for callers that need 0.
// Returns when the program ends, whoever still holds its output, and at `timeout` at the latest. Errors:
// NOT_FOUND/TOOL_MISSING; DEADLINE_EXCEEDED/TIMEOUT (it and its process group are killed); TOOL_FAILED when a
// signal ended it.
Result<CommandOutput> RunCommand(const Command& command);
// Errors: as RunCommand, and FAILED_PRECONDITION/TOOL_FAILED with the last line of stderr.
Result<CommandOutput> RunCommandChecked(const Command& command);

}  // namespace sealift
