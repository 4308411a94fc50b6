// Our metadata read by securesystemslib, and securesystemslib's by us.
#include <gtest/gtest.h>

#include <cstdlib>

#include "shared/base/files.h"
#include "shared/base/subprocess.h"
#include "shared/tuf/client.h"
#include "tests/support/places.h"
#include "tests/unit/shared/tuf/test_repository.h"

namespace sealift::tuf {
namespace {

constexpr char kScript[] = SEALIFT_SOURCE_DIR "/tests/integration/shared/tuf/independent_signer.py";

Result<CommandOutput> Python(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "/usr/bin/python3");
  return RunCommand({.argv = std::move(arguments),
                     .environment = {},
                     .stdin_text = {},
                     .timeout = std::chrono::seconds(60)});
}

class IndependentSigner : public testing::Test {
 protected:
  void SetUp() override {
    const auto found = Python({"-c", "import securesystemslib"});
    if (found.ok() && found->exit_code == 0) return;
    if (std::getenv("SEALIFT_REQUIRE_TOOLS") != nullptr) FAIL() << "python3-securesystemslib is missing";
    GTEST_SKIP() << "python3-securesystemslib is missing";
  }
  void Save(const std::map<std::string, std::string>& files) {
    for (const auto& [name, text] : files) {
      ASSERT_TRUE(WriteFileAtomically(folder_.path() / name, AsBytes(text)).ok());
    }
  }
  std::map<std::string, std::string> Saved() {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      files[entry.path().filename()] = ReadTextFile(entry.path()).value();
    }
    return files;
  }
  Result<CommandOutput> Script(const std::string& verb) { return Python({kScript, verb, folder_.path()}); }

  TempDir folder_ = TempDir::Create("tuf-independent").value();
};

TEST_F(IndependentSigner, MakesARepositoryThatTheClientTakes) {
  const auto made = Script("make");
  ASSERT_TRUE(made.ok());
  ASSERT_EQ(made->exit_code, 0) << made->err;
  MemorySource source;
  source.files = Saved();
  MemoryStore store;
  FakeClock clock(At("2030-01-01T00:00:00Z"));
  const std::string root = source.files.at("1.root.json");
  const Result<VerifiedTargets> verified = TufClient(root, source, store, clock).Refresh();
  ASSERT_TRUE(verified.ok()) << Describe(verified.status());
  EXPECT_EQ(verified->root_version(), 2u);
  EXPECT_EQ(verified->Find("stable/1.0/manifest.json")->length, 2u);
}

TEST_F(IndependentSigner, AcceptsWhatWeSign) {
  TestRepository repository;
  repository.AddTarget("stable/2.0/x", "abc", R"({"note":"line\nend \"quoted\" \\"})");
  repository.PublishNext();
  Save(repository.source.files);
  const auto checked = Script("verify");
  ASSERT_TRUE(checked.ok());
  EXPECT_EQ(checked->exit_code, 0) << checked->err;
}

TEST_F(IndependentSigner, RefusesWhatSomebodyChanged) {
  TestRepository repository;
  std::string& targets = repository.source.files.at("1.targets.json");
  targets.replace(targets.find("stable"), 6, "secret");
  Save(repository.source.files);
  const auto checked = Script("verify");
  ASSERT_TRUE(checked.ok());
  EXPECT_EQ(checked->exit_code, 1) << checked->out;
}

}  // namespace
}  // namespace sealift::tuf
