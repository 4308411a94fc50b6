#include "controller/fleet/check_in_policy.h"

#include <gtest/gtest.h>

namespace sealift::controller {
namespace {

const UnixMillis kDecided = FromUnixMs(1'000'000);

CheckInView Trusted() {
  CheckInView view;
  view.last_trust = Trust::kTrusted;
  view.last_decided = kDecided;
  view.last_verdict_boot_id = "b1";
  return view;
}

NodeStatus Settled() { return {.state = UpdateState::kIdle, .running = {.version = "1", .boot_id = "b1"}}; }

TEST(QuoteDueTest, AfterEachBootAndAtTheInterval) {
  const CheckInPolicy policy;
  const UnixMillis soon = kDecided + std::chrono::seconds(1);
  EXPECT_FALSE(QuoteDue(Trusted(), Settled(), soon, policy));
  EXPECT_FALSE(QuoteDue(Trusted(), Settled(), kDecided + policy.quote_interval - std::chrono::milliseconds(1),
                        policy));
  EXPECT_TRUE(QuoteDue(Trusted(), Settled(), kDecided + policy.quote_interval, policy));
  EXPECT_TRUE(QuoteDue({}, Settled(), soon, policy));
  NodeStatus rebooted = Settled();
  rebooted.running.boot_id = "b2";
  EXPECT_TRUE(QuoteDue(Trusted(), rebooted, soon, policy));
  CheckInView untrusted = Trusted();
  untrusted.last_trust = Trust::kUntrusted;
  EXPECT_FALSE(QuoteDue(untrusted, Settled(), soon, policy));
  EXPECT_TRUE(QuoteDue(untrusted, Settled(), kDecided + policy.quote_retry, policy));
}

TEST(QuoteDueTest, WhenItsEpochIsAboveTheCertifiedOne) {
  const CheckInPolicy policy;
  NodeStatus raised = Settled();
  raised.epoch = EpochStatus{.lowest = 3};
  CheckInView view = Trusted();
  const UnixMillis later = kDecided + policy.quote_retry;
  EXPECT_FALSE(QuoteDue(view, raised, later, policy)) << "its TPM certifies none";
  view.certified_epoch = 3;
  EXPECT_FALSE(QuoteDue(view, raised, later, policy));
  view.certified_epoch = 2;
  EXPECT_TRUE(QuoteDue(view, raised, later, policy));
  EXPECT_FALSE(QuoteDue(view, raised, later - std::chrono::milliseconds(1), policy))
      << "it may be one that cannot";
  EXPECT_FALSE(QuoteDue(view, Settled(), later, policy));
}

TEST(QuoteDueTest, BeforeAnUpdateBegins) {
  CheckInPolicy policy;
  CheckInView view = Trusted();
  view.desired = Desired{.channel = "stable", .version = "2", .release_id = {}};
  const UnixMillis before = kDecided + policy.before_update - std::chrono::milliseconds(1);
  EXPECT_FALSE(QuoteDue(view, Settled(), before, policy));
  EXPECT_TRUE(QuoteDue(view, Settled(), kDecided + policy.before_update, policy));
  // Once it is under way the next one comes with the reboot; and there is nothing to begin where it runs
  // already.
  NodeStatus under_way = Settled();
  under_way.state = UpdateState::kFetching;
  EXPECT_FALSE(QuoteDue(view, under_way, kDecided + policy.before_update, policy));
  view.desired->version = "1";
  EXPECT_FALSE(QuoteDue(view, Settled(), kDecided + policy.before_update, policy));
  // Never more seldom than otherwise.
  view.desired->version = "2";
  policy.quote_interval = std::chrono::minutes(2);
  EXPECT_TRUE(QuoteDue(view, Settled(), kDecided + policy.quote_interval, policy));
}

TEST(CureDueTest, OfAnAdmittedTrustedNodeInTheDegradedBootOnly) {
  CheckInView view = Trusted();
  view.admission = Admission::kAdmitted;
  EXPECT_FALSE(CureDue(view, Settled()));
  view.last_degraded = true;
  EXPECT_TRUE(CureDue(view, Settled()));
  NodeStatus rebooted = Settled();
  rebooted.running.boot_id = "b2";
  EXPECT_FALSE(CureDue(view, rebooted));
  for (const Admission admission : {Admission::kPending, Admission::kQuarantined, Admission::kRevoked}) {
    view.admission = admission;
    EXPECT_FALSE(CureDue(view, Settled()));
  }
  view.admission = Admission::kAdmitted;
  view.last_trust = Trust::kUntrusted;
  EXPECT_FALSE(CureDue(view, Settled()));
}

TEST(PollAfterTest, IsShortWhileThereIsSomethingToDoAndSpread) {
  const CheckInPolicy policy;
  EXPECT_EQ(PollAfter(Trusted(), Settled(), policy, 20), policy.poll);
  EXPECT_EQ(PollAfter(Trusted(), Settled(), policy, 0), policy.poll * 80 / 100);
  EXPECT_EQ(PollAfter(Trusted(), Settled(), policy, 40), policy.poll * 120 / 100);
  for (std::uint32_t spread = 0; spread < 300; ++spread) {
    EXPECT_LE(PollAfter(Trusted(), Settled(), policy, spread), policy.poll * 120 / 100);
  }
  CheckInView ordered = Trusted();
  ordered.desired = Desired{"stable", "2", {}};
  EXPECT_EQ(PollAfter(ordered, Settled(), policy, 20), policy.busy_poll);
  ordered.desired->version = "1";
  EXPECT_EQ(PollAfter(ordered, Settled(), policy, 20), policy.poll);
  NodeStatus assessing = Settled();
  assessing.state = UpdateState::kAssessing;
  EXPECT_EQ(PollAfter(Trusted(), assessing, policy, 20), policy.busy_poll);
}

}  // namespace
}  // namespace sealift::controller
