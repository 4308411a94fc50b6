#include "controller/attest/admission_policy.h"

#include <gtest/gtest.h>

#include <vector>

namespace sealift::controller {
namespace {

using Words = std::vector<std::string>;

TEST(AdmissionPolicyTest, SaysWhichProofsCount) {
  EXPECT_EQ(ParseAdmissionPolicy(Words{"ek-list"}, false).value(), (AdmissionPolicy{.ek_list = true}));
  EXPECT_EQ(ParseAdmissionPolicy(Words{"join-token", "approval"}, true).value(),
            (AdmissionPolicy{.ek_list = false, .join_token = true, .approval = true}));
  EXPECT_EQ(DefaultAdmissionPolicy(true),
            (AdmissionPolicy{.ek_list = true, .join_token = true, .approval = true}));
  EXPECT_EQ(DefaultAdmissionPolicy(false), (AdmissionPolicy{.ek_list = true}));
}

TEST(AdmissionPolicyTest, WhatCannotBeKeptIsRefusedNotWeakened) {
  for (const Words& words : {Words{}, Words{"everybody"}, Words{"ek-list", "EK-LIST"}}) {
    EXPECT_EQ(ReasonOf(ParseAdmissionPolicy(words, true).status()), Reason::kPolicyUnenforceable);
  }
  for (const char* word : {"join-token", "approval"}) {
    EXPECT_TRUE(ParseAdmissionPolicy(Words{"ek-list", word}, true).ok());
    EXPECT_EQ(ReasonOf(ParseAdmissionPolicy(Words{"ek-list", word}, false).status()),
              Reason::kPolicyUnenforceable)
        << word;
  }
}

}  // namespace
}  // namespace sealift::controller
