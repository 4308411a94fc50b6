#include "controller/api/call_limits.h"

#include <gtest/gtest.h>

#include "controller/api/call_order.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

NodeId Id(int number) {
  return *NodeId::Parse("01890000-0000-7000-8000-00000000000" + std::to_string(number));
}

TEST(CallLimits, ANodeThatHammersIsToldToWaitAndTheOthersAreNot) {
  FakeClock clock(FromUnixMs(0));
  CallLimits limits({.per_node = {.burst = 3, .refill = std::chrono::seconds(1)},
                     .total = {.burst = 10, .refill = std::chrono::seconds(1)}},
                    clock);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(limits.Wait(Id(1)));
  // However often: it takes nothing of what is everybody's.
  for (int i = 0; i < 100; ++i) EXPECT_EQ(limits.Wait(Id(1)), std::chrono::seconds(1));
  for (int node = 2; node < 4; ++node)
    for (int i = 0; i < 3; ++i) EXPECT_FALSE(limits.Wait(Id(node))) << node;
  // Nine are gone; the tenth is the last of all.
  EXPECT_FALSE(limits.Wait(Id(5)));
  EXPECT_EQ(limits.Wait(Id(6)), std::chrono::seconds(1));
  clock.Advance(std::chrono::seconds(1));
  EXPECT_FALSE(limits.Wait(Id(6)));
}

TEST(CallOrder, AReportThatWasOvertakenIsNotWritten) {
  CallOrder order;
  int written = 0;
  const auto write = [&] { ++written; };
  const auto report = order.Enter(Id(1));
  EXPECT_TRUE(order.IfLatest(Id(1), report, write).ok());
  const auto late = order.Enter(Id(1));
  order.Enter(Id(1));
  EXPECT_EQ(order.IfLatest(Id(1), late, write).code(), Code::kAborted);
  EXPECT_EQ(written, 1);
  // Another node's calls say nothing of it.
  const auto other = order.Enter(Id(2));
  order.Enter(Id(1));
  EXPECT_TRUE(order.IfLatest(Id(2), other, write).ok());
}

TEST(CallOrder, NorIsOneWhileACheckInBeforeItIsStillBeingWritten) {
  CallOrder order;
  int written = 0;
  order.Enter(Id(1));
  order.Writing(Id(1));
  const auto report = order.Enter(Id(1));
  EXPECT_EQ(test::ReasonIdFrom(order.IfLatest(Id(1), report, [&] { ++written; })), "SERVER_BUSY");
  order.Written(Id(1));
  EXPECT_TRUE(order.IfLatest(Id(1), report, [&] { ++written; }).ok());
  EXPECT_EQ(written, 1);
}

TEST(CallOrder, IsBounded) {
  CallOrder order(2);
  order.Enter(Id(1));
  order.Writing(Id(1));
  for (int node = 2; node < 9; ++node) order.Enter(Id(node));
  // What is being written is not forgotten.
  const auto report = order.Enter(Id(1));
  EXPECT_FALSE(order.IfLatest(Id(1), report, [] {}).ok());
}

}  // namespace
}  // namespace sealift::controller
