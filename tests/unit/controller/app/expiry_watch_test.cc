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
  EXPECT_TRUE(watch.CheckIfDue().empty());
  clock.Advance(hours(23));
  EXPECT_TRUE(watch.CheckIfDue().empty());
  clock.Advance(hours(2));
  ASSERT_EQ(watch.CheckIfDue().size(), 1u);
  EXPECT_TRUE(watch.CheckIfDue().empty());
  clock.Advance(hours(24 * 91));
  const auto ended = watch.CheckIfDue();
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_TRUE(ended[0].expired);
  clock.SetWall(end);
  EXPECT_EQ(watch.CheckIfDue().size(), 1u);
}

}  // namespace
}  // namespace sealift::controller
