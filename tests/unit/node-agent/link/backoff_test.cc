#include "node-agent/link/backoff.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "node-agent/update/state_table.h"
#include "sealift/v1/node.pb.h"

namespace sealift::agent {
namespace {

using std::chrono::milliseconds;

TEST(Backoff, DoublesUpToItsBoundAndStartsAnew) {
  Backoff backoff(milliseconds(100), milliseconds(1000), [] { return 0.999999; });
  std::vector<std::int64_t> waits;
  for (int i = 0; i < 6; ++i) waits.push_back(backoff.Next().count());
  EXPECT_EQ(waits, (std::vector<std::int64_t>{99, 199, 399, 799, 999, 999}));
  backoff.Reset();
  EXPECT_EQ(backoff.Next().count(), 99);
}

TEST(Backoff, SpreadsOverHalfOfTheStep) {
  Backoff backoff(milliseconds(100), milliseconds(1000), [] { return 0.0; });
  EXPECT_EQ(backoff.Next().count(), 50);
  EXPECT_EQ(Spread(milliseconds(1000), [] { return 0.0; }).count(), 900);
  EXPECT_EQ(Spread(milliseconds(1000), [] { return 0.5; }).count(), 1000);
}

TEST(Backoff, TheSystemsFractionsLieInTheirRangeAndDiffer) {
  const RandomFraction random = SystemRandom();
  double least = 1;
  double most = 0;
  for (int i = 0; i < 1000; ++i) {
    const double fraction = random();
    EXPECT_GE(fraction, 0.0);
    EXPECT_LT(fraction, 1.0);
    least = std::min(least, fraction);
    most = std::max(most, fraction);
  }
  EXPECT_LT(least, 0.1);
  EXPECT_GT(most, 0.9);
}

TEST(Patiently, WaitsAsLongAsItWasAskedToAndNeverShorterThanByItself) {
  const auto wait = [](int own, int asked, double fraction) {
    return Patiently(milliseconds(own), milliseconds(asked), [=] { return fraction; }).count();
  };
  EXPECT_EQ(wait(700, 0, 0.9), 700);
  EXPECT_EQ(wait(700, 300, 0.9), 700);
  EXPECT_EQ(wait(700, 10'000, 0.0), 10'000);
  EXPECT_EQ(wait(700, 10'000, 0.5), 11'250);
  // Those who were asked together come back apart.
  std::set<long> waits;
  const RandomFraction random = SystemRandom();
  for (int i = 0; i < 100; ++i) {
    const auto one = Patiently(milliseconds(1), milliseconds(600'000), random).count();
    EXPECT_GE(one, 600'000);
    EXPECT_LT(one, 750'000);
    waits.insert(one);
  }
  EXPECT_GT(waits.size(), 90u);
}

// The numbers travel as they are stored.
TEST(UpdateStateOnTheWire, HasTheNumbersOfTheContract) {
  for (int number = 1; number <= 10; ++number) {
    ASSERT_TRUE(v1::UpdateState_IsValid(number));
    EXPECT_EQ(v1::UpdateState_Name(static_cast<v1::UpdateState>(number)),
              std::string(UpdateStateName(static_cast<UpdateState>(number))));
  }
  EXPECT_FALSE(v1::UpdateState_IsValid(11));
}

}  // namespace
}  // namespace sealift::agent
