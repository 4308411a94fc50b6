#include "controller/fleet/rollout_engine.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

namespace sealift::controller {
namespace {

NodeId Id(int number) {
  auto id = NodeId::Parse("01890000-0000-7000-8000-00000000000" + std::to_string(number));
  SEALIFT_CHECK(id.ok());
  return *id;
}

Status Away() { return MakeError(Code::kUnavailable, Reason::kStoreFailed, "read: disk is away"); }

// Nodes on an old version. Some cannot be read.
class FakeNodes final : public NodeStore {
 public:
  Status Enrol(const Node&) override { return OkStatus(); }
  Result<Node> Get(const NodeId& id) override {
    if (broken.contains(id)) return Away();
    Node node{.id = id};
    node.admission = Admission::kAdmitted;
    return node;
  }
  Result<std::optional<Node>> FindByEk(const Sha256Digest&) override { return std::optional<Node>(); }
  Result<std::vector<Node>> List(const NodeQuery&) override { return std::vector<Node>(); }
  Status SetLabels(const NodeId&, const std::map<std::string, std::string>&) override { return OkStatus(); }
  Result<std::vector<std::string>> AdoptLabels(const NodeId&,
                                               const std::map<std::string, std::string>&) override {
    return std::vector<std::string>();
  }
  Status RecordEpoch(const NodeId&, const CertifiedEpoch&) override { return OkStatus(); }
  Status SetAdmission(const NodeId&, Admission) override { return OkStatus(); }
  Result<Admission> AdmitPending(const NodeId&, const std::map<std::string, std::string>&) override {
    return Admission::kAdmitted;
  }

  std::set<NodeId> broken;
};

// Fails the first `failures` times it is asked what there is.
class FakeRollouts final : public RolloutStore {
 public:
  Result<Rollout> Create(const Rollout& rollout) override {
    const std::lock_guard lock(mutex_);
    rollouts_[rollout.id] = rollout;
    return rollout;
  }
  Result<Rollout> Get(const std::string& id) override {
    const std::lock_guard lock(mutex_);
    return rollouts_.at(id);
  }
  Result<std::vector<Rollout>> ListActive() override {
    const std::lock_guard lock(mutex_);
    ++listed_;
    changed_.notify_all();
    if (listed_ <= failures) return Away();
    std::vector<Rollout> all;
    for (const auto& [id, rollout] : rollouts_) all.push_back(rollout);
    return all;
  }
  Result<std::size_t> CountActive() override { return std::size_t{0}; }
  Result<std::uint64_t> Revision(const std::string& id) override { return Get(id)->revision; }
  Result<std::vector<RolloutSummary>> ListNewest(std::size_t) override {
    return std::vector<RolloutSummary>();
  }
  Status Save(const Rollout& rollout, const std::vector<DesiredChange>& desired) override {
    const std::lock_guard lock(mutex_);
    rollouts_[rollout.id] = rollout;
    told_ += desired.size();
    changed_.notify_all();
    return OkStatus();
  }

  // Waits, within reason.
  bool WaitUntilTold(std::size_t nodes) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return told_ >= nodes; });
  }
  bool WaitUntilListed() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return listed_ > 0; });
  }

  int failures = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Rollout> rollouts_;
  int listed_ = 0;
  std::size_t told_ = 0;
};

// Sleeps no time, and remembers how long it was asked to.
class PatientClock final : public Clock {
 public:
  UnixMillis Now() const override { return FromUnixMs(1'000'000); }
  std::chrono::steady_clock::time_point Steady() const override { return {}; }
  bool SleepFor(std::chrono::milliseconds duration, std::stop_token stop) override {
    slept.push_back(duration);
    return !stop.stop_requested();
  }
  std::vector<std::chrono::milliseconds> slept;
};

class RolloutEngineTest : public ::testing::Test {
 protected:
  void Add(const std::string& id, int node) {
    Rollout rollout{.id = id, .channel = "stable", .version = "2"};
    rollout.waves = CutWaves({"100%"}, {Id(node)}).value();
    ASSERT_TRUE(rollouts_.Create(rollout).ok());
  }
  Progress ProgressIn(const std::string& id) { return rollouts_.Get(id)->waves.at(0).nodes.at(0).progress; }

  FakeNodes nodes_;
  FakeRollouts rollouts_;
};

TEST_F(RolloutEngineTest, PassThatFailedIsTriedAgainThoughNobodyPokes) {
  Add("r1", 1);
  rollouts_.failures = 2;
  PatientClock clock;
  RolloutEngine engine(nodes_, rollouts_, clock);
  std::jthread runner([&](std::stop_token stop) { engine.Run(stop); });
  EXPECT_TRUE(rollouts_.WaitUntilTold(1));
  runner.request_stop();
  runner.join();
  EXPECT_EQ(clock.slept, std::vector<std::chrono::milliseconds>(2, std::chrono::seconds(1)));
}

TEST_F(RolloutEngineTest, StopsWhileItWaitsToTryAgain) {
  rollouts_.failures = 1'000'000;
  FakeClock clock(FromUnixMs(1));
  RolloutEngine engine(nodes_, rollouts_, clock);
  std::jthread runner([&](std::stop_token stop) { engine.Run(stop); });
  EXPECT_TRUE(rollouts_.WaitUntilListed());
  runner.request_stop();
  runner.join();
}

TEST_F(RolloutEngineTest, OrderIsNoFailureBecauseAnotherRolloutCannotBeEvaluated) {
  Add("r1", 1);
  Add("r2", 2);
  nodes_.broken.insert(Id(1));
  PatientClock clock;
  RolloutEngine engine(nodes_, rollouts_, clock);
  EXPECT_FALSE(engine.EvaluateAll().ok());
  EXPECT_EQ(ProgressIn("r2"), Progress::kUpdating);
  const auto paused = engine.Order("r2", RolloutState::kPaused);
  ASSERT_TRUE(paused.ok()) << Describe(paused.status());
  EXPECT_EQ(paused->state, RolloutState::kPaused);
}

}  // namespace
}  // namespace sealift::controller
