#include "controller/fleet/rollout.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

namespace sealift::controller {
namespace {

const UnixMillis kStart = FromUnixMs(1'000'000);
const ReleaseId kV2{Sha256Digest{{2}}};
const ReleaseId kOther{Sha256Digest{{9}}};

NodeId Id(int number) {
  auto id = NodeId::Parse(fmt::format("01890000-0000-7000-8000-{:012}", number));
  SEALIFT_CHECK(id.ok());
  return *id;
}

Node NodeOnV1(int number) {
  Node node{.id = Id(number)};
  node.admission = Admission::kAdmitted;
  node.status = {.state = UpdateState::kIdle, .running = {.version = "1", .boot_id = "b1"}, .healthy = true};
  node.last_verdict =
      Verdict{.trust = Trust::kTrusted, .release_version = "1", .decided = kStart, .boot_id = "b1"};
  return node;
}

Node NodeDoneOnV2(int number) {
  Node node = NodeOnV1(number);
  node.status.state = UpdateState::kBlessed;
  node.status.running = {.version = "2", .boot_id = "b2"};
  node.last_verdict = Verdict{.trust = Trust::kTrusted,
                              .release_version = "2",
                              .release_id = kV2,
                              .decided = kStart + std::chrono::seconds(9),
                              .boot_id = "b2"};
  return node;
}

Node NodeFailedOnV2(int number) {
  Node node = NodeOnV1(number);
  node.status.state = UpdateState::kFellBack;
  node.status.failures = {{"2", "FELL_BACK", "three boots failed", kStart}};
  return node;
}

std::map<NodeId, Node> Fleet(std::vector<Node> nodes) {
  std::map<NodeId, Node> fleet;
  for (Node& node : nodes) {
    const NodeId id = node.id;
    fleet.emplace(id, std::move(node));
  }
  return fleet;
}

Evaluation Evaluate(const Rollout& rollout, const std::map<NodeId, Node>& fleet, UnixMillis now) {
  return Evaluate(
      rollout,
      [&](const NodeId& id) {
        const auto found = fleet.find(id);
        return found == fleet.end() ? nullptr : &found->second;
      },
      now);
}

Rollout ToV2(std::vector<std::string> sizes, int nodes) {
  std::vector<NodeId> ids;
  for (int i = nodes; i >= 1; --i) ids.push_back(Id(i));
  Rollout rollout{.id = "r1", .channel = "stable", .version = "2", .release_id = kV2};
  auto waves = CutWaves(sizes, std::move(ids));
  SEALIFT_CHECK(waves.ok());
  rollout.waves = *waves;
  return rollout;
}

Rollout Step(const Rollout& rollout, const std::map<NodeId, Node>& fleet) {
  Evaluation evaluation = Evaluate(rollout, fleet, kStart);
  // Idempotent, whatever the table below does.
  EXPECT_FALSE(Evaluate(evaluation.next, fleet, kStart + std::chrono::hours(1)).changed());
  return evaluation.next;
}

std::string Shape(const Rollout& rollout) {
  std::string out = fmt::format("{}:{}:", RolloutStateName(rollout.state), rollout.current_wave);
  for (const Wave& wave : rollout.waves) {
    out += "[";
    for (const RolloutNode& node : wave.nodes) out += ProgressName(node.progress).front();
    out += "]";
  }
  return out;
}

TEST(WavesTest, AreCumulativeAndOrderedByNodeId) {
  const Rollout rollout = ToV2({"1", "50%", "100%"}, 5);
  ASSERT_EQ(rollout.waves.size(), 3u);
  EXPECT_EQ(rollout.waves[0].nodes.size(), 1u);
  EXPECT_EQ(rollout.waves[1].nodes.size(), 2u);
  EXPECT_EQ(rollout.waves[2].nodes.size(), 2u);
  EXPECT_EQ(rollout.waves[0].nodes[0].node_id, Id(1));
  EXPECT_EQ(rollout.waves[2].nodes[1].node_id, Id(5));
}

TEST(WavesTest, OneNodeLeavesLaterWavesEmpty) {
  const Rollout rollout = ToV2({"1", "50%", "100%"}, 1);
  EXPECT_EQ(rollout.waves[0].nodes.size(), 1u);
  EXPECT_TRUE(rollout.waves[1].nodes.empty());
  EXPECT_TRUE(rollout.waves[2].nodes.empty());
}

TEST(WavesTest, NonsenseIsRefused) {
  const std::vector<NodeId> nodes = {Id(1), Id(2), Id(3), Id(4)};
  for (const auto& sizes : std::vector<std::vector<std::string>>{{},
                                                                 {""},
                                                                 {"%"},
                                                                 {"0"},
                                                                 {"-1"},
                                                                 {"1.5"},
                                                                 {"101%"},
                                                                 {"1x", "100%"},
                                                                 {"99999999999999999999"},
                                                                 {"50%", "1", "100%"},
                                                                 {"50%"},
                                                                 std::vector<std::string>(33, "100%")}) {
    EXPECT_EQ(ReasonOf(CutWaves(sizes, nodes).status()), Reason::kWavesInvalid);
  }
}

// One node, one difference each: what it takes to be done, and what makes a failure.
struct ProgressCase {
  const char* what;
  Progress expected;
  std::function<void(Node&)> change;
};

TEST(ProgressTest, NodeIsDoneOnlyWhenEverythingIsProven) {
  const UnixMillis after = kStart + std::chrono::seconds(10);
  const std::vector<ProgressCase> cases = {
      {"everything proven", Progress::kDone, [](Node&) {}},
      {"idle after blessing", Progress::kDone, [](Node& n) { n.status.state = UpdateState::kIdle; }},
      {"no verdict", Progress::kUpdating, [](Node& n) { n.last_verdict.reset(); }},
      {"verdict of the old version", Progress::kUpdating,
       [](Node& n) { n.last_verdict->release_version = "1"; }},
      {"verdict of another release with this version", Progress::kUpdating,
       [](Node& n) { n.last_verdict->release_id = kOther; }},
      {"verdict without a release", Progress::kUpdating, [](Node& n) { n.last_verdict->release_id.reset(); }},
      {"verdict unknown", Progress::kFailed, [](Node& n) { n.last_verdict->trust = Trust::kUnknown; }},
      {"unknown in an earlier boot", Progress::kUpdating,
       [](Node& n) {
         n.last_verdict->trust = Trust::kUnknown;
         n.last_verdict->boot_id = "b1";
       }},
      {"trusted in an earlier boot", Progress::kUpdating, [](Node& n) { n.last_verdict->boot_id = "b1"; }},
      {"trusted at enrolment only", Progress::kUpdating, [](Node& n) { n.last_verdict->boot_id.clear(); }},
      {"trusted at enrolment, and it does not name its boot", Progress::kUpdating,
       [](Node& n) {
         n.last_verdict->boot_id.clear();
         n.status.running.boot_id.clear();
       }},
      {"not healthy", Progress::kUpdating, [](Node& n) { n.status.healthy = false; }},
      {"still assessing", Progress::kUpdating, [](Node& n) { n.status.state = UpdateState::kAssessing; }},
      {"idle on another version", Progress::kUpdating, [](Node& n) { n.status.running.version = "1"; }},
      {"untrusted", Progress::kFailed,
       [=](Node& n) {
         n.last_verdict = Verdict{.trust = Trust::kUntrusted, .decided = after, .boot_id = "b2"};
       }},
      {"untrusted before it was told to update", Progress::kUpdating,
       [](Node& n) {
         n.last_verdict = Verdict{.trust = Trust::kUntrusted, .decided = FromUnixMs(1), .boot_id = "b2"};
       }},
      {"untrusted in an earlier boot", Progress::kUpdating,
       [=](Node& n) {
         n.last_verdict = Verdict{.trust = Trust::kUntrusted, .decided = after, .boot_id = "b1"};
       }},
      {"version failed here", Progress::kFailed,
       [](Node& n) {
         n.status.failures = {{"2", "IMAGE_SIGNATURE_INVALID", "x", FromUnixMs(1)}};
       }},
      {"another version failed here", Progress::kDone,
       [](Node& n) {
         n.status.failures = {{"1.5", "FELL_BACK", "x", FromUnixMs(1)}};
       }},
      {"quarantined", Progress::kFailed, [](Node& n) { n.admission = Admission::kQuarantined; }},
  };
  const Rollout rollout = ToV2({"100%"}, 1);
  for (const ProgressCase& c : cases) {
    Node node = NodeDoneOnV2(1);
    c.change(node);
    EXPECT_EQ(ProgressOf(rollout, kStart, &node).progress, c.expected) << c.what;
  }
  EXPECT_EQ(ProgressOf(rollout, kStart, nullptr).progress, Progress::kFailed);
}

TEST(EvaluateTest, StoryOfThreeWaves) {
  Rollout rollout = ToV2({"1", "50%", "100%"}, 4);
  rollout = Step(rollout, Fleet({NodeOnV1(1), NodeOnV1(2), NodeOnV1(3), NodeOnV1(4)}));
  EXPECT_EQ(Shape(rollout), "running:0:[u][w][ww]");
  rollout = Step(rollout, Fleet({NodeDoneOnV2(1), NodeOnV1(2), NodeOnV1(3), NodeOnV1(4)}));
  EXPECT_EQ(Shape(rollout), "running:1:[d][u][ww]");
  rollout = Step(rollout, Fleet({NodeDoneOnV2(1), NodeDoneOnV2(2), NodeOnV1(3), NodeOnV1(4)}));
  EXPECT_EQ(Shape(rollout), "running:2:[d][d][uu]");
  rollout = Step(rollout, Fleet({NodeDoneOnV2(1), NodeDoneOnV2(2), NodeDoneOnV2(3), NodeDoneOnV2(4)}));
  EXPECT_EQ(Shape(rollout), "done:2:[d][d][dd]");
}

TEST(EvaluateTest, FailedNodeHaltsAndResumeAcknowledges) {
  Rollout rollout = ToV2({"2", "100%"}, 3);
  rollout = Step(rollout, Fleet({NodeOnV1(1), NodeOnV1(2), NodeOnV1(3)}));
  rollout = Step(rollout, Fleet({NodeFailedOnV2(1), NodeOnV1(2), NodeOnV1(3)}));
  EXPECT_EQ(Shape(rollout), "halted:0:[fu][w]");
  EXPECT_NE(rollout.halted_reason.find(Id(1).text()), std::string::npos);
  EXPECT_NE(rollout.halted_reason.find("FELL_BACK"), std::string::npos);
  // The other node of the wave finishes; the next wave does not start.
  const auto fleet = Fleet({NodeFailedOnV2(1), NodeDoneOnV2(2), NodeOnV1(3)});
  rollout = Step(rollout, fleet);
  EXPECT_EQ(Shape(rollout), "halted:0:[fd][w]");
  auto resumed = SetState(rollout, RolloutState::kRunning);
  ASSERT_TRUE(resumed.ok());
  rollout = Step(resumed->next, fleet);
  EXPECT_EQ(Shape(rollout), "running:1:[fd][u]");
  rollout = Step(rollout, Fleet({NodeFailedOnV2(1), NodeDoneOnV2(2), NodeDoneOnV2(3)}));
  EXPECT_EQ(Shape(rollout), "done:1:[fd][d]");
}

TEST(EvaluateTest, NodeThatFallsBackAfterItWasDoneHaltsToo) {
  Rollout rollout = ToV2({"1", "100%"}, 2);
  rollout = Step(rollout, Fleet({NodeDoneOnV2(1), NodeOnV1(2)}));
  EXPECT_EQ(Shape(rollout), "running:1:[d][u]");
  rollout = Step(rollout, Fleet({NodeFailedOnV2(1), NodeOnV1(2)}));
  EXPECT_EQ(Shape(rollout), "halted:1:[f][u]");
}

TEST(EvaluateTest, DoneNodeThatRebootsStaysDone) {
  Rollout rollout = ToV2({"1", "100%"}, 2);
  rollout = Step(rollout, Fleet({NodeDoneOnV2(1), NodeOnV1(2)}));
  Node rebooting = NodeDoneOnV2(1);
  rebooting.status.healthy = false;
  rebooting.status.running.boot_id = "b3";
  EXPECT_EQ(Shape(Step(rollout, Fleet({rebooting, NodeOnV1(2)}))), "running:1:[d][u]");
}

TEST(EvaluateTest, NodeKnownToFailIsNeverToldToUpdate) {
  const Evaluation evaluation = Evaluate(ToV2({"100%"}, 2), Fleet({NodeFailedOnV2(1), NodeOnV1(2)}), kStart);
  EXPECT_EQ(evaluation.next.state, RolloutState::kHalted);
  ASSERT_EQ(evaluation.desired.size(), 1u);
  EXPECT_EQ(evaluation.desired[0].node_id, Id(2));
}

TEST(EvaluateTest, DesiredFollowsProgress) {
  Evaluation first = Evaluate(ToV2({"1", "100%"}, 2), Fleet({NodeOnV1(1), NodeOnV1(2)}), kStart);
  ASSERT_EQ(first.desired.size(), 1u);
  EXPECT_EQ(first.desired[0], (DesiredChange{Id(1), Desired{"stable", "2", kV2}}));
  const Evaluation second = Evaluate(first.next, Fleet({NodeFailedOnV2(1), NodeOnV1(2)}), kStart);
  ASSERT_EQ(second.desired.size(), 1u);
  EXPECT_EQ(second.desired[0], (DesiredChange{Id(1), std::nullopt}));
}

TEST(EvaluateTest, PausedStartsNothing) {
  auto paused = SetState(ToV2({"100%"}, 1), RolloutState::kPaused);
  ASSERT_TRUE(paused.ok());
  EXPECT_EQ(Shape(Step(paused->next, Fleet({NodeOnV1(1)}))), "paused:0:[w]");
}

TEST(EvaluateTest, FailureWhilePausedHaltsAfterTheResume) {
  Rollout rollout = Step(ToV2({"1", "100%"}, 2), Fleet({NodeOnV1(1), NodeOnV1(2)}));
  rollout = SetState(rollout, RolloutState::kPaused)->next;
  const auto fleet = Fleet({NodeFailedOnV2(1), NodeOnV1(2)});
  rollout = Step(rollout, fleet);
  EXPECT_EQ(Shape(rollout), "paused:0:[f][w]");
  rollout = Step(SetState(rollout, RolloutState::kRunning)->next, fleet);
  EXPECT_EQ(Shape(rollout), "halted:0:[f][w]");
}

TEST(SetStateTest, MatrixOfWhatAnOperatorMayDo) {
  using enum RolloutState;
  const std::map<RolloutState, std::vector<RolloutState>> allowed = {{kRunning, {kPaused, kAborted}},
                                                                     {kPaused, {kRunning, kAborted}},
                                                                     {kHalted, {kRunning, kAborted}},
                                                                     {kDone, {}},
                                                                     {kAborted, {}}};
  for (const auto& [from, targets] : allowed) {
    for (const RolloutState to : {kRunning, kPaused, kHalted, kDone, kAborted}) {
      Rollout rollout = ToV2({"100%"}, 1);
      rollout.state = from;
      const bool expected = std::count(targets.begin(), targets.end(), to) > 0;
      EXPECT_EQ(SetState(rollout, to).ok(), expected)
          << RolloutStateName(from) << " " << RolloutStateName(to);
    }
  }
}

TEST(SetStateTest, AbortTakesTheOrderBackFromNodesInTheMiddle) {
  Rollout rollout = Step(ToV2({"100%"}, 2), Fleet({NodeDoneOnV2(1), NodeOnV1(2)}));
  const auto aborted = SetState(rollout, RolloutState::kAborted);
  ASSERT_TRUE(aborted.ok());
  ASSERT_EQ(aborted->desired.size(), 1u);
  EXPECT_EQ(aborted->desired[0], (DesiredChange{Id(2), std::nullopt}));
}

}  // namespace
}  // namespace sealift::controller
