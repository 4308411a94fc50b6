// `sealift inspect` as a process, on files in a folder of the test's own.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "shared/base/files.h"
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift::cli {

class InspectCommandTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string Write(const std::string& name, ByteView bytes) const {
    EXPECT_TRUE(WriteFileAtomically(folder_.path() / name, bytes, 0600).ok());
    return Path(name);
  }
  // `arguments` as they follow `sealift inspect`.
  static CommandOutput Inspect(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {SEALIFT_BIN_DIR "/sealift", "inspect"});
    return test::RunTool(std::move(arguments));
  }
  // The JSON of an inspection that must end with `exit_code`.
  static nlohmann::json InspectJson(std::vector<std::string> arguments, int exit_code = 0) {
    arguments.insert(arguments.end(), {"-o", "json"});
    const CommandOutput output = Inspect(std::move(arguments));
    EXPECT_EQ(output.exit_code, exit_code) << output.out << output.err;
    return nlohmann::json::parse(output.out, nullptr, false);
  }

  TempDir folder_ = TempDir::Create("inspect").value();
};

}  // namespace sealift::cli
