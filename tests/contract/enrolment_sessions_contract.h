// What every EnrolmentSessions does. Instantiate with a factory:
//
//   INSTANTIATE_TEST_SUITE_P(Memory, EnrolmentSessionsContract, ::testing::Values(&MakeThem));
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "controller/attest/enrolment_session.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {

// Makes an empty store for `capacity` sessions.
using EnrolmentSessionsFactory = std::unique_ptr<EnrolmentSessions> (*)(std::size_t capacity);

class EnrolmentSessionsContract : public ::testing::TestWithParam<EnrolmentSessionsFactory> {
 protected:
  static constexpr UnixMillis kStart{std::chrono::milliseconds(1'000'000)};
  static EnrolmentSession Session(const std::string& id, const std::string& origin = "") {
    return {.id = id,
            .ek_digest = {},
            .certified = true,
            .origin = origin,
            .ak_public = {1},
            .tls_public = {2},
            .secret = SecretBytes(Bytes{3}),
            .nonce = {4},
            .expires = kStart + std::chrono::minutes(5)};
  }
};

TEST_P(EnrolmentSessionsContract, OneCallerHoldsASessionUntilItIsReleasedOrFinished) {
  const auto sessions = GetParam()(10);
  ASSERT_TRUE(sessions->Open(Session("a")).ok());
  const auto first = sessions->Claim("a", kStart);
  ASSERT_TRUE(first.ok());
  ASSERT_NE(first->session, nullptr);
  EXPECT_EQ(first->session->nonce, Bytes{4});
  EXPECT_TRUE(first->session->secret.Equals(Bytes{3}));
  EXPECT_EQ(sessions->Claim("a", kStart).status().code(), Code::kAborted);
  ASSERT_TRUE(sessions->Release("a").ok());
  EXPECT_TRUE(sessions->Claim("a", kStart).ok());
  EnrolmentAnswer answer;
  answer.state = EnrolmentState::kIssued;
  answer.certificate_chain = {{9, 9}};
  ASSERT_TRUE(sessions->Finish("a", answer).ok());
  for (int i = 0; i < 2; ++i) {
    const auto again = sessions->Claim("a", kStart);
    ASSERT_TRUE(again.ok());
    ASSERT_TRUE(again->answer.has_value());
    EXPECT_EQ(again->answer->certificate_chain, answer.certificate_chain);
    EXPECT_EQ(again->session, nullptr);
  }
}

TEST_P(EnrolmentSessionsContract, AFloodFromOneAddressPushesOutItsOwn) {
  const auto sessions = GetParam()(4);
  ASSERT_TRUE(sessions->Open(Session("honest", "192.0.2.1")).ok());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(sessions->Open(Session("flood " + std::to_string(i), "192.0.2.66")).ok());
  }
  EXPECT_TRUE(sessions->Claim("honest", kStart).ok());
  EXPECT_FALSE(sessions->Claim("flood 0", kStart).ok());
  EXPECT_TRUE(sessions->Claim("flood 19", kStart).ok());
}

TEST_P(EnrolmentSessionsContract, UnknownAndExpiredSessionsAreTheSame) {
  const auto sessions = GetParam()(10);
  ASSERT_TRUE(sessions->Open(Session("a")).ok());
  EXPECT_EQ(test::ReasonIdFrom(sessions->Claim("b", kStart)), "ENROLMENT_SESSION_UNKNOWN");
  EXPECT_EQ(test::ReasonIdFrom(sessions->Claim("a", kStart + std::chrono::minutes(5))),
            "ENROLMENT_SESSION_UNKNOWN");
  EXPECT_EQ(sessions->Claim("a", kStart + std::chrono::minutes(5)).status().code(), Code::kNotFound);
}

TEST_P(EnrolmentSessionsContract, TheOldestGoWhenThereAreTooMany) {
  const auto sessions = GetParam()(2);
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(sessions->Open(Session(id)).ok());
  EXPECT_FALSE(sessions->Claim("a", kStart).ok());
  EXPECT_TRUE(sessions->Claim("b", kStart).ok());
  EXPECT_TRUE(sessions->Claim("c", kStart).ok());
  // Ending one that is gone is no error: nobody waits for it.
  EXPECT_TRUE(sessions->Finish("a", {}).ok());
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(EnrolmentSessionsContract);

}  // namespace sealift::controller
