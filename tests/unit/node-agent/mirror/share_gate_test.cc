#include "node-agent/mirror/share_gate.h"

#include <gtest/gtest.h>

#include <thread>

namespace sealift::agent {
namespace {

using namespace std::chrono_literals;

class Controller final : public SiteHints {
 public:
  Result<SiteAdvice> Locate(const Sha256Digest&, const std::set<std::string>&) override {
    return SiteAdvice{};
  }
  Status Offer(const std::vector<Sha256Digest>&, const std::string&) override { return OkStatus(); }
  Result<std::string> NodeCas() override {
    if (away) return MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "away");
    return cas;
  }
  Result<bool> Admits(ByteView) override {
    ++asked;
    if (away) return MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "away");
    return admits;
  }
  bool away = false;
  bool admits = true;
  int asked = 0;
  std::string cas = "PEM";
};

const NodePeer kPeer{.node_id = "one", .certificate = {1, 2, 3}};

TEST(ShareGate, AsksTheControllerOnceWithinALife) {
  Controller controller;
  ShareGate gate(controller, {});
  EXPECT_TRUE(gate.Admits(kPeer));
  EXPECT_TRUE(gate.Admits(kPeer));
  EXPECT_EQ(controller.asked, 1);
  EXPECT_TRUE(gate.Admits({.node_id = "one", .certificate = {1, 2, 4}}));
  EXPECT_EQ(controller.asked, 2);
}

TEST(ShareGate, WhoWasRevokedIsLetInNoMoreOnceTheWordIsOld) {
  Controller controller;
  ShareGate gate(controller, {.yes_life = 0ms, .no_life = 1h});
  EXPECT_TRUE(gate.Admits(kPeer));
  controller.admits = false;
  EXPECT_FALSE(gate.Admits(kPeer));
  // The no holds, too.
  controller.admits = true;
  EXPECT_FALSE(gate.Admits(kPeer));
  EXPECT_EQ(controller.asked, 2);
}

TEST(ShareGate, WhileTheControllerIsAwayItsLastYesHoldsForATime) {
  Controller controller;
  ShareGate patient(controller, {.yes_life = 0ms, .unanswered_life = 1h});
  ShareGate strict(controller, {.yes_life = 0ms, .unanswered_life = 0ms});
  EXPECT_TRUE(patient.Admits(kPeer));
  EXPECT_TRUE(strict.Admits(kPeer));
  EXPECT_EQ(patient.NodeCas().value(), "PEM");
  controller.away = true;
  EXPECT_TRUE(patient.Admits(kPeer));
  EXPECT_FALSE(strict.Admits(kPeer));
  EXPECT_FALSE(patient.Admits({.node_id = "two", .certificate = {9}}));
  EXPECT_EQ(patient.NodeCas().value(), "PEM");
  EXPECT_FALSE(strict.NodeCas().ok());
}

TEST(ShareGate, AnAddressHasHalfOfThePlacesANodeTwo) {
  Controller controller;
  ShareGate gate(controller, {.most_connections = 6});
  {
    const auto a = gate.Greet("10.0.0.1"), b = gate.Greet("10.0.0.1"), c = gate.Greet("10.0.0.1");
    EXPECT_TRUE(a.valid() && b.valid() && c.valid());
    EXPECT_FALSE(gate.Greet("10.0.0.1").valid());
    EXPECT_TRUE(gate.Greet("10.0.0.2").valid());
    const auto first = gate.Seat("one"), second = gate.Seat("one");
    EXPECT_TRUE(first.valid() && second.valid());
    EXPECT_FALSE(gate.Seat("one").valid());
    EXPECT_TRUE(gate.Seat("two").valid());
  }
  EXPECT_TRUE(gate.Greet("10.0.0.1").valid());
  EXPECT_TRUE(gate.Seat("one").valid());
  // A place that is given away is free once.
  auto moved = gate.Seat("one");
  moved = {};
  const auto again = gate.Seat("one"), last = gate.Seat("one");
  EXPECT_TRUE(again.valid() && last.valid());
}

TEST(ShareGate, HandshakesAreSpacedAfterABurst) {
  Controller controller;
  ShareGate gate(controller, {.burst = 3, .pause = 50ms});
  std::stop_source stop;
  const auto began = std::chrono::steady_clock::now();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(gate.AwaitHandshake(began + 1h, stop.get_token()));
  EXPECT_LT(std::chrono::steady_clock::now() - began, 45ms);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(gate.AwaitHandshake(began + 1h, stop.get_token()));
  EXPECT_GE(std::chrono::steady_clock::now() - began, 100ms);
  // Whoever would have to wait too long is sent away.
  for (int i = 0; i < 20; ++i)
    static_cast<void>(gate.AwaitHandshake(std::chrono::steady_clock::now() + 10ms, stop.get_token()));
  EXPECT_LT(std::chrono::steady_clock::now() - began, 1s);
  stop.request_stop();
  EXPECT_FALSE(gate.AwaitHandshake(began + 1h, stop.get_token()));
}

}  // namespace
}  // namespace sealift::agent
