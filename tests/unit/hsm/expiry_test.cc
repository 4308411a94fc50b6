#include "hsm/expiry.h"

#include <gtest/gtest.h>

namespace sealift::hsm {
namespace {

using std::chrono::hours;

const UnixMillis kEnd = ParseRfc3339("2027-01-01T00:00:00Z").value();

Inventory WithEnd() {
  Inventory inventory;
  inventory.keys = {{.role = "db", .generation = 1, .has_certificate = true, .not_after = kEnd - hours(9999)},
                    {.role = "db", .generation = 2, .has_certificate = true, .not_after = kEnd},
                    {.role = "pk", .has_certificate = true, .not_after = kEnd + hours(24 * 1000)},
                    {.role = "pcr"}};
  return inventory;
}

TEST(ExpiryTest, AGenerationThatIsStillValidIsWatchedThoughAnotherFollows) {
  Inventory inventory = WithEnd();
  inventory.keys[0].not_after = kEnd - hours(24 * 200);
  inventory.keys[1].not_after = kEnd + hours(24 * 1000);
  const auto soon = ExpiringCertificates(inventory, {}, kEnd - hours(24 * 205));
  ASSERT_EQ(soon.size(), 1u);
  EXPECT_EQ(soon[0].text, "certificate of 'db' ends at 2026-06-15T00:00:00Z, in 5 days");
  // Once it has ended it is history, unless nothing valid follows.
  EXPECT_TRUE(ExpiringCertificates(inventory, {}, kEnd).empty());
  EXPECT_EQ(ExpiringCertificates(inventory, {}, kEnd + hours(24 * 1001)).size(), 3u);
}

TEST(ExpiryTest, WarnsFromNinetyDaysOnOfTheNewestGeneration) {
  const Inventory inventory = WithEnd();
  EXPECT_TRUE(ExpiringCertificates(inventory, {}, kEnd - hours(24 * 90) - hours(1)).empty());
  const auto soon = ExpiringCertificates(inventory, {}, kEnd - hours(24 * 90));
  ASSERT_EQ(soon.size(), 1u);
  EXPECT_EQ(soon[0].text, "certificate of 'db' generation 2 ends at 2027-01-01T00:00:00Z, in 90 days");
  EXPECT_FALSE(soon[0].expired);
  EXPECT_TRUE(ExpiringCertificates(inventory, {"pk"}, kEnd).empty());
}

TEST(ExpiryTest, RefusesAfterTheEnd) {
  const Inventory inventory = WithEnd();
  EXPECT_TRUE(CheckNotExpired(inventory, {"db"}, kEnd).ok());
  const Status after = CheckNotExpired(inventory, {"db"}, kEnd + hours(1));
  EXPECT_EQ(ReasonOf(after), Reason::kSignerCertificateExpired);
  EXPECT_EQ(MessageOf(after), "sign with key 'db': its certificate ended at 2027-01-01T00:00:00Z");
  EXPECT_TRUE(CheckNotExpired(inventory, {"pk", "pcr"}, kEnd + hours(1)).ok());
}

}  // namespace
}  // namespace sealift::hsm
