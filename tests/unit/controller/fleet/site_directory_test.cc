#include "controller/fleet/site_directory.h"

#include <gtest/gtest.h>

#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

using namespace std::chrono_literals;

class SiteDirectoryTest : public testing::Test {
 protected:
  static NodeId Id(int number) {
    const std::string digits = std::to_string(number);
    return NodeId::Parse("01890000-0000-7000-8000-" + std::string(12 - digits.size(), '0') + digits).value();
  }
  static std::string AddressOf(int number) { return "10.0.0." + std::to_string(number) + ":7445"; }
  SiteAdvice Locate(int who, const std::set<std::string>& failed = {}, const std::string& site = "lab") {
    return directory_.Locate(Id(who), site, object_, failed, now_);
  }
  void Offer(int who, const std::string& site = "lab") {
    directory_.Offer(Id(who), site, object_, AddressOf(who), now_);
  }
  static bool Fetches(const SiteAdvice& advice) { return !advice.holder && advice.wait.count() == 0; }
  static bool Waits(const SiteAdvice& advice) { return !advice.holder && advice.wait.count() > 0; }
  static bool Asks(const SiteAdvice& advice, int whom) {
    return advice.holder && advice.holder->node == Id(whom) && advice.holder->address == AddressOf(whom);
  }

  SiteDirectory directory_;
  const Sha256Digest object_ = Sha256(AsBytes("an object"));
  SiteDirectory::Time now_ = SiteDirectory::Time() + 1h;
};

TEST_F(SiteDirectoryTest, OneFetchesTheOthersWaitAndThenAskIt) {
  EXPECT_TRUE(Fetches(Locate(1)));
  EXPECT_TRUE(Waits(Locate(2)));
  EXPECT_TRUE(Waits(Locate(3)));
  // It asks again while it fetches, so it goes on being the one.
  now_ += 20s;
  EXPECT_TRUE(Fetches(Locate(1)));
  now_ += 20s;
  EXPECT_TRUE(Waits(Locate(2)));
  Offer(1);
  EXPECT_TRUE(Asks(Locate(2), 1));
  // Nobody is sent to himself.
  EXPECT_TRUE(Fetches(Locate(1)));
}

TEST_F(SiteDirectoryTest, WhoFallsSilentLosesHisTurn) {
  EXPECT_TRUE(Fetches(Locate(1)));
  now_ += 31s;
  EXPECT_TRUE(Fetches(Locate(2)));
  EXPECT_TRUE(Waits(Locate(1)));
}

TEST_F(SiteDirectoryTest, WhoGivesUpLeavesHisTurnAtOnce) {
  EXPECT_TRUE(Fetches(Locate(1)));
  EXPECT_TRUE(Waits(Locate(2)));
  directory_.Withdraw(Id(1), "lab", object_);
  EXPECT_TRUE(Fetches(Locate(2)));
}

TEST_F(SiteDirectoryTest, FourAtOnceAskOneHolderTheOthersWait) {
  Offer(1);
  for (int i = 2; i <= 5; ++i) EXPECT_TRUE(Asks(Locate(i), 1)) << i;
  EXPECT_TRUE(Waits(Locate(6)));
  // One that asks again has its turn still.
  EXPECT_TRUE(Asks(Locate(3), 1));
  EXPECT_TRUE(Waits(Locate(6)));
  // One has it now, so that there is one to ask more.
  Offer(3);
  EXPECT_TRUE(Locate(6).holder.has_value());
  // Turns that nobody renews are given to others.
  EXPECT_TRUE(Locate(7).holder.has_value());
  now_ += 31s;
  for (int i = 10; i < 18; ++i) EXPECT_TRUE(Locate(i).holder.has_value()) << i;
  EXPECT_TRUE(Waits(Locate(18)));
}

TEST_F(SiteDirectoryTest, WhoFailedOneIsAskedByOthersWhoFailedTwoIsForgotten) {
  Offer(1);
  EXPECT_TRUE(Fetches(Locate(2, {Id(1).text()})));
  // A node's word alone does not take a holder from the others.
  EXPECT_TRUE(Asks(Locate(3), 1));
  // Saying it twice makes it no truer.
  EXPECT_TRUE(Fetches(Locate(2, {Id(1).text()})));
  EXPECT_TRUE(Asks(Locate(4), 1));
  EXPECT_TRUE(Waits(Locate(3, {Id(1).text()})));
  EXPECT_TRUE(Waits(Locate(4)));
}

TEST_F(SiteDirectoryTest, SitesAndObjectsAreApart) {
  Offer(1);
  EXPECT_TRUE(Fetches(Locate(2, {}, "office")));
  EXPECT_TRUE(Fetches(directory_.Locate(Id(2), "lab", Sha256(AsBytes("another")), {}, now_)));
  EXPECT_TRUE(Asks(Locate(2), 1));
}

TEST_F(SiteDirectoryTest, HoldersAreAskedInTurn) {
  for (int i = 1; i <= 3; ++i) Offer(i);
  std::set<NodeId> asked;
  for (int i = 0; i < 3; ++i) {
    const SiteAdvice advice = Locate(10 + i);
    ASSERT_TRUE(advice.holder.has_value());
    asked.insert(advice.holder->node);
  }
  EXPECT_EQ(asked.size(), 3u);
}

TEST_F(SiteDirectoryTest, AnOfferHoldsForAnHour) {
  Offer(1);
  now_ += 59min;
  EXPECT_TRUE(Asks(Locate(2), 1));
  Offer(1);
  now_ += 59min;
  EXPECT_TRUE(Asks(Locate(2), 1));
  now_ += 2min;
  EXPECT_TRUE(Fetches(Locate(2)));
}

TEST_F(SiteDirectoryTest, ForgetsTheOldestWhenThereIsTooMuch) {
  Offer(1);
  EXPECT_TRUE(Asks(Locate(3), 1));
  for (int i = 0; i < 20'000; ++i) {
    now_ += 1ms;
    static_cast<void>(directory_.Locate(Id(2), "lab", Sha256(AsBytes(std::to_string(i))), {}, now_));
  }
  EXPECT_FALSE(Locate(3).holder.has_value());
}

TEST_F(SiteDirectoryTest, NamesNoMoreThanSoManyHolders) {
  for (int i = 1; i <= 40; ++i) Offer(i);
  int asked = 0;
  for (int i = 100; i < 300; ++i) asked += Locate(i).holder.has_value() ? 1 : 0;
  EXPECT_EQ(asked, 32 * 4);
}

}  // namespace
}  // namespace sealift::controller
