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

TEST(RateLimiter, SaysHowLongToWait) {
  using std::chrono::milliseconds;
  FakeClock clock(FromUnixMs(0));
  RateLimiter limiter({.burst = 2, .refill = std::chrono::microseconds(2500)}, clock);
  const Sha256Digest a = Sha256(AsBytes("a"));
  EXPECT_EQ(limiter.Wait(a), std::nullopt);
  EXPECT_EQ(limiter.Wait(a), std::nullopt);
  // Rounded up: who comes then is served.
  EXPECT_EQ(limiter.Wait(a), milliseconds(3));
  clock.Advance(milliseconds(2));
  EXPECT_EQ(limiter.Wait(a), milliseconds(1));
  clock.Advance(milliseconds(1));
  EXPECT_EQ(limiter.Wait(a), std::nullopt);
  EXPECT_EQ(limiter.Wait(a), milliseconds(2));
}

TEST(RateLimiter, AFloodOfKeysDoesNotGrowIt) {
  FakeClock clock(FromUnixMs(0));
  RateLimiter limiter({.burst = 1, .refill = std::chrono::seconds(10)}, clock, 4);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(limiter.Allow(Sha256(AsBytes(std::to_string(i)))));
}

}  // namespace
}  // namespace sealift::controller
