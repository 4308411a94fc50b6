#include "controller/attest/enrolment_session.h"

#include "controller/attest/rate_limit.h"
#include "shared/crypto/hash.h"
#include "tests/contract/enrolment_sessions_contract.h"

namespace sealift::controller {
namespace {

INSTANTIATE_TEST_SUITE_P(Memory, EnrolmentSessionsContract, ::testing::Values(&MakeMemoryEnrolmentSessions));

TEST(RateLimiter, GivesABurstThenOnePerInterval) {
  FakeClock clock(FromUnixMs(0));
  RateLimiter limiter({.burst = 3, .refill = std::chrono::seconds(10)}, clock);
  const Sha256Digest a = Sha256(AsBytes("a"));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limiter.Allow(a));
  EXPECT_FALSE(limiter.Allow(a));
  EXPECT_TRUE(limiter.Allow(Sha256(AsBytes("b"))));
  clock.Advance(std::chrono::milliseconds(9999));
  EXPECT_FALSE(limiter.Allow(a));
  clock.Advance(std::chrono::milliseconds(1));
  EXPECT_TRUE(limiter.Allow(a));
  EXPECT_FALSE(limiter.Allow(a));
  clock.Advance(std::chrono::hours(100000));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(limiter.Allow(a));
  EXPECT_FALSE(limiter.Allow(a));
}

TEST(RateLimiter, AFloodOfKeysDoesNotGrowIt) {
  FakeClock clock(FromUnixMs(0));
  RateLimiter limiter({.burst = 1, .refill = std::chrono::seconds(10)}, clock, 4);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(limiter.Allow(Sha256(AsBytes(std::to_string(i)))));
}

}  // namespace
}  // namespace sealift::controller
