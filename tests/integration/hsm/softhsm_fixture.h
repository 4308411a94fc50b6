// Real SoftHSM2 tokens in a folder of their own, for tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "hsm/hierarchy.h"
#include "hsm/softhsm.h"
#include "hsm/token.h"
#include "shared/base/files.h"
#include "shared/base/subprocess.h"
#include "shared/crypto/key_reference.h"

namespace sealift::hsm {

inline constexpr char kPin[] = "correct-horse-7";

inline bool HasSoftHsm() {
  return std::filesystem::exists("/usr/lib/softhsm/libsofthsm2.so") ||
         std::filesystem::exists("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so");
}

// Skips without SoftHSM, fails instead when every tool is required.
#define SEALIFT_NEED_SOFTHSM()                                                      \
  do {                                                                              \
    if (!HasSoftHsm()) {                                                            \
      if (std::getenv("SEALIFT_REQUIRE_TOOLS") != nullptr) FAIL() << "no softhsm2"; \
      GTEST_SKIP() << "no softhsm2";                                                \
    }                                                                               \
  } while (false)

class SoftHsmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_SOFTHSM();
    ASSERT_TRUE(InstallKeyProvider().ok());
  }
  std::filesystem::path store() const { return folder_.path() / "store"; }
  std::string PinFile(const std::string& name, const std::string& pin = kPin) {
    const auto path = folder_.path() / (name + ".pin");
    EXPECT_TRUE(WriteFileAtomically(path, AsBytes(pin), 0600).ok());
    return path;
  }
  TokenUri MakeToken(const std::string& label) {
    auto uri = CreateSoftHsmToken({.store = store(), .label = label, .pin_file = PinFile(label)});
    EXPECT_TRUE(uri.ok()) << Describe(uri.status());
    return uri.ok() ? *uri : TokenUri{};
  }
  // A token for each group, labelled PREFIX-GROUP: "GROUP=URI" each.
  std::vector<std::string> MakeGroupTokens(const std::string& prefix) {
    std::vector<std::string> arguments;
    for (const Group group : AllGroups()) {
      const std::string name(GroupName(group));
      arguments.push_back(name + "=" + MakeToken(prefix + "-" + name).Text());
    }
    return arguments;
  }
  // pkcs11-tool on our store, logged in. The PIN is a test's; it is not a secret.
  CommandOutput Pkcs11Tool(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"pkcs11-tool", "--module", "/usr/lib/softhsm/libsofthsm2.so"});
    auto output = RunCommand({.argv = std::move(arguments),
                              .environment = {{"SOFTHSM2_CONF", SoftHsmConfig(store()).string()}},
                              .timeout = std::chrono::seconds(30)});
    EXPECT_TRUE(output.ok()) << Describe(output.status());
    return output.ok() ? *output : CommandOutput{};
  }

  TempDir folder_ = TempDir::Create("softhsm").value();
};

}  // namespace sealift::hsm
