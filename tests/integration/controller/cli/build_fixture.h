// `sealift build-uki` as a release engineer runs it: a small OS tree, a key set in a SoftHSM2 token.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "shared/base/files.h"
#include "tests/support/os_tree.h"
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift::cli {

inline constexpr char kSealift[] = SEALIFT_BIN_DIR "/sealift";

class BuildFixture : public testing::Test {
 protected:
  // The keys take seconds to make, and are the same for all tests of a suite.
  static void SetUpTestSuite() {
    if (!std::filesystem::exists("/usr/lib/softhsm/libsofthsm2.so")) return;
    shared_ = std::make_unique<Shared>();
    const std::filesystem::path folder = shared_->folder.path();
    ASSERT_TRUE(WriteFileAtomically(folder / "pin", AsBytes("correct-horse-7"), 0600).ok());
    const CommandOutput made = test::RunTool({kSealift, "token", "create", "--store", folder / "store",
                                              "--label", "all", "--pin-file", folder / "pin"});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    shared_->token = made.out.substr(0, made.out.find('\n'));
    const CommandOutput keys =
        test::RunTool({kSealift, "keys", "init", "demo", "--token", shared_->token,
                       "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING", "-o", folder / "keys"});
    ASSERT_EQ(keys.exit_code, 0) << keys.err;
  }
  static void TearDownTestSuite() { shared_.reset(); }
  void SetUp() override {
    if (shared_ != nullptr) return;
    if (test::ToolsAreRequired()) FAIL() << "no softhsm2";
    GTEST_SKIP() << "no softhsm2";
  }

  static std::string Keys() { return shared_->folder.path() / "keys"; }
  std::string Path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::vector<std::string> Command(const std::string& out, const std::vector<std::string>& more) const {
    std::vector<std::string> argv = {kSealift,       "build-uki", "dir:" + os_.path().string(),
                                     "-d",           Path(out),   "-k",
                                     Keys(),         "--token",   shared_->token,
                                     "--zstd-level", "1"};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  // With a fixed time, so that equal inputs give equal bytes.
  CommandOutput Build(const std::string& out, const std::vector<std::string>& more = {}) const {
    const auto output = RunCommand({.argv = Command(out, more),
                                    .environment = {{"SOURCE_DATE_EPOCH", "1767225600"}},
                                    .timeout = std::chrono::seconds(60)});
    return output.ok() ? *output : CommandOutput{.exit_code = -1, .err = Describe(output.status())};
  }
  // Every file below a folder: path -> content.
  std::map<std::string, std::string> Files(const std::string& folder) const {
    std::map<std::string, std::string> files;
    std::error_code error;
    for (const auto& item : std::filesystem::recursive_directory_iterator(Path(folder), error))
      if (item.is_regular_file())
        files[item.path().lexically_relative(Path(folder))] = ToText(ReadFile(item.path()).value());
    return files;
  }
  std::vector<std::string> Names(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& item : std::filesystem::recursive_directory_iterator(Path(folder)))
      if (item.is_regular_file()) names.push_back(item.path().lexically_relative(Path(folder)));
    std::sort(names.begin(), names.end());
    return names;
  }
  // What is in the test's own folder, hidden names too.
  std::vector<std::string> Beside() const {
    std::vector<std::string> names;
    for (const auto& item : std::filesystem::directory_iterator(folder_.path()))
      names.push_back(item.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  void Write(const std::string& name, std::string_view text) const {
    ASSERT_TRUE(MakeDirectories((folder_.path() / name).parent_path()).ok());
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / name, AsBytes(text)).ok());
  }

  test::OsTree os_;

 private:
  struct Shared {
    TempDir folder = TempDir::Create("build-keys").value();
    std::string token;
  };
  static inline std::unique_ptr<Shared> shared_;
  TempDir folder_ = TempDir::Create("build").value();
};

}  // namespace sealift::cli
