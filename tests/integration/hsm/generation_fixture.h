// A set with a token for each group, and a second token for each, for tests of generations.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "hsm/ceremony.h"
#include "hsm/generation.h"
#include "hsm/key_ring.h"
#include "shared/efi/auth_variable.h"
#include "tests/integration/hsm/softhsm_fixture.h"

namespace sealift::hsm {

inline const Progress kQuiet = [](const std::string& /*line*/) {};

class GenerationTest : public SoftHsmTest {
 protected:
  void SetUp() override {
    SoftHsmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    old_ = MakeGroupTokens("one");
    new_ = MakeGroupTokens("two");
    const auto made = InitialiseKeySet({.set = "demo",
                                        .folder = keys_,
                                        .tokens = OpenTokens(old_).value(),
                                        .controller_names = {"DNS:controller.lab", "IP:10.0.2.100"},
                                        .now = now_},
                                       kQuiet);
    ASSERT_TRUE(made.ok()) << Describe(made.status());
  }
  // In the tokens of `new_` named by their index; all tokens of the first generation are given.
  Result<AddedGeneration> Add(const std::vector<std::string>& roles, const std::vector<std::string>& into,
                              GenerationOptions options = {}) {
    std::vector<std::string> all = old_;
    for (const std::string& one : into) {
      if (std::ranges::find(all, one) == all.end()) all.push_back(one);
    }
    options.roles = roles;
    SEALIFT_ASSIGN_OR_RETURN(options.tokens, OpenTokens(into));
    options.now = now_;
    SEALIFT_ASSIGN_OR_RETURN(const auto ring, KeyRing::Open(keys_, all));
    return AddGeneration(*ring, options, kQuiet);
  }
  std::unique_ptr<KeyRing> Ring(const std::vector<std::string>& tokens,
                                const std::vector<std::string>& generations = {}) const {
    auto ring = KeyRing::Open(keys_, tokens, {}, generations);
    EXPECT_TRUE(ring.ok()) << Describe(ring.status());
    return *std::move(ring);
  }
  Bytes Content(const std::string& name) const {
    auto content = ReadFile(keys_ / name);
    EXPECT_TRUE(content.ok()) << Describe(content.status());
    return content.ok() ? *content : Bytes{};
  }
  efi::SignatureLists Lists(const std::string& name) const {
    return efi::ParseSignatureLists(Content(name)).value();
  }
  // As firmware in user mode that holds the lists in `trusted`.
  Status Accepts(const std::string& auth, const std::string& variable, std::uint32_t attributes,
                 const std::string& trusted) const {
    return efi::VerifyAuthenticatedVariable(
               Content(auth), efi::SecureBootVariable(variable, attributes).value(), Lists(trusted))
        .status();
  }

  const std::filesystem::path keys_ = folder_.path() / "keys";
  const UnixMillis now_ = std::chrono::floor<std::chrono::seconds>(SystemClock().Now());
  std::vector<std::string> old_;
  std::vector<std::string> new_;
};

}  // namespace sealift::hsm
