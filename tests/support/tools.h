// Programs others wrote, for differential tests. A missing one skips the test, or fails it where
// SEALIFT_REQUIRE_TOOLS=1 says that a skip would hide a hole.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "shared/base/files.h"
#include "shared/base/subprocess.h"

namespace sealift::test {

inline bool HaveTool(const std::string& name) {
  if (name.find('/') != std::string::npos) return ::access(name.c_str(), X_OK) == 0;
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');)
    if (::access(folder.append("/").append(name).c_str(), X_OK) == 0) return true;
  return false;
}

inline bool ToolsAreRequired() {
  const char* value = std::getenv("SEALIFT_REQUIRE_TOOLS");
  return value != nullptr && std::string(value) == "1";
}

inline CommandOutput RunTool(std::vector<std::string> argv, std::string stdin_text = {}) {
  const auto output = RunCommand(
      {.argv = std::move(argv), .stdin_text = std::move(stdin_text), .timeout = std::chrono::seconds(60)});
  if (!output.ok()) return {.exit_code = -1, .err = Describe(output.status())};
  return *output;
}

}  // namespace sealift::test

#define SEALIFT_NEED_TOOL(name)                                                     \
  if (!::sealift::test::HaveTool(name)) {                                           \
    if (::sealift::test::ToolsAreRequired()) FAIL() << "missing program: " << name; \
    GTEST_SKIP() << "missing program: " << name;                                    \
  }                                                                                 \
  static_assert(true)

// The same for a file that a package ships.
#define SEALIFT_NEED_FILE(path)                                                  \
  if (::access(path, R_OK) != 0) {                                               \
    if (::sealift::test::ToolsAreRequired()) FAIL() << "missing file: " << path; \
    GTEST_SKIP() << "missing file: " << path;                                    \
  }                                                                              \
  static_assert(true)
