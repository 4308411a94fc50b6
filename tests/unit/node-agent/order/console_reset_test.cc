#include "node-agent/order/console_reset.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <thread>

#include "shared/base/bytes.h"
#include "shared/base/files.h"
#include "tests/support/status_matchers.h"

namespace sealift::agent {
namespace {

using namespace std::chrono_literals;

class SignedOrders final : public ResetOrders {
 public:
  Result<std::string> Pending() override { return pending; }
  Status Consume(const std::string& id) override {
    consumed.push_back(id);
    return OkStatus();
  }
  std::string pending;
  std::vector<std::string> consumed;
};

// A terminal whose other end is the person.
class ConsoleResetTest : public ::testing::Test {
 protected:
  ConsoleResetTest() {
    EXPECT_TRUE(person_.valid());
    EXPECT_EQ(::grantpt(person_.get()), 0);
    EXPECT_EQ(::unlockpt(person_.get()), 0);
    console_ = ::ptsname(person_.get());
  }
  // Asks, while a person reads up to the end of the question and then types.
  Result<std::string> AskAndType(const std::string& text, ResetOrders* orders = nullptr,
                                 std::chrono::milliseconds patience = 30s) {
    std::jthread person([&] {
      shown_.clear();
      while (!shown_.ends_with("> ")) {
        pollfd waiting{.fd = person_.get(), .events = POLLIN, .revents = 0};
        if (::poll(&waiting, 1, 10'000) != 1) return;
        char c = 0;
        // The other end may not be open yet.
        if (::read(person_.get(), &c, 1) != 1) continue;
        shown_.push_back(c);
      }
      if (text.empty()) return;
      EXPECT_TRUE(WriteAll(person_.get(), console_, AsBytes(text)).ok());
    });
    return ConsoleReset({.orders = orders, .console = console_, .patience = patience, .word = "hkmt"})
        .Pending();
  }

  const UniqueFd person_{::posix_openpt(O_RDWR | O_NOCTTY)};
  std::string console_;
  std::string shown_;
};

TEST_F(ConsoleResetTest, TheWordOfThisBootIsConsent) {
  const auto asked = AskAndType("reset hkmt\n");
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_EQ(*asked, kConsoleResetId);
  EXPECT_THAT(shown_, ::testing::AllOf(::testing::HasSubstr("'persistent' anew"),
                                       ::testing::HasSubstr("'reset hkmt' within 30 s")));
}

TEST_F(ConsoleResetTest, NothingElseIs) {
  for (const std::string text : {"\n", "reset\n", "reset hkmx\n", "yes\n", "hkmt\n", " reset hkmt\n"}) {
    EXPECT_EQ(AskAndType(text).value(), "") << text;
  }
  EXPECT_EQ(AskAndType(std::string(200, 'r') + "\n").value(), "");
  EXPECT_EQ(AskAndType("", nullptr, 50ms).value(), "");
}

TEST_F(ConsoleResetTest, WhatWasTypedBeforeTheQuestionIsNoAnswer) {
  // Kept open, so that what is typed waits for a reader.
  const UniqueFd held(::open(console_.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(held.valid());
  ASSERT_TRUE(WriteAll(person_.get(), console_, AsBytes("reset hkmt\n")).ok());
  pollfd waiting{.fd = held.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&waiting, 1, 10'000), 1);
  EXPECT_EQ(AskAndType("", nullptr, 50ms).value(), "");
}

TEST_F(ConsoleResetTest, ASignedOrderGoesFirstAndIsSpent) {
  SignedOrders orders;
  orders.pending = "abcd";
  ConsoleReset reset({.orders = &orders, .console = console_, .word = "hkmt"});
  EXPECT_EQ(reset.Pending().value(), "abcd");
  EXPECT_TRUE(reset.Consume("abcd").ok());
  EXPECT_TRUE(reset.Consume(std::string(kConsoleResetId)).ok());
  EXPECT_THAT(orders.consumed, ::testing::ElementsAre("abcd"));
}

TEST_F(ConsoleResetTest, WithoutAConsoleNobodyConsents) {
  ConsoleReset reset({.console = "/nonexistent/console", .word = "hkmt"});
  EXPECT_EQ(ReasonOf(reset.Pending().status()), Reason::kFileUnreadable);
}

TEST(ConsoleResetEntry, OnlyTheMenusRecoveryLeadsToTheQuestion) {
  for (const char* entry : {"recovery.conf", "recovery+2-1.conf", "statereset.conf"})
    EXPECT_TRUE(LeadsToConsoleReset(entry)) << entry;
  for (const char* entry : {"active.conf", "passive.conf", "recovery", "", "recoveryx.conf", "norole.conf"})
    EXPECT_FALSE(LeadsToConsoleReset(entry)) << entry;
  EXPECT_EQ(NewConsoleWord().size(), 4u);
  EXPECT_NE(NewConsoleWord() + NewConsoleWord(), NewConsoleWord() + NewConsoleWord());
}

}  // namespace
}  // namespace sealift::agent
