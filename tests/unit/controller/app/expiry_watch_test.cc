#include "controller/app/expiry_watch.h"

#include <gtest/gtest.h>

namespace sealift::controller {
namespace {

using std::chrono::hours;

TEST(ExpiryWatchTest, TellsAtStartAndOnceADay) {
  const UnixMillis end = ParseRfc3339("2027-01-01T00:00:00Z").value();
  hsm::Inventory inventory;
  inventory.keys = {{.role = "node-ca", .has_certificate = true, .not_after = end}};
  FakeClock clock(end - hours(24 * 91));
  ExpiryWatch watch(inventory, clock);
  const auto first = watch.CheckIfDue();
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->empty());
  clock.Advance(hours(23));
  EXPECT_FALSE(watch.CheckIfDue().has_value());
  clock.Advance(hours(2));
  const auto second = watch.CheckIfDue();
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->size(), 1u);
  EXPECT_FALSE(watch.CheckIfDue().has_value());
  clock.Advance(hours(24 * 91));
  const auto ended = watch.CheckIfDue();
  ASSERT_TRUE(ended.has_value());
  ASSERT_EQ(ended->size(), 1u);
  EXPECT_TRUE(ended->front().expired);
  clock.SetWall(end);
  EXPECT_TRUE(watch.CheckIfDue().has_value());
}

}  // namespace
}  // namespace sealift::controller
