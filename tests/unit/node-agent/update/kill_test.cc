// The agent is killed, or the machine loses its power, before and after every persisted transition and every
// effect, and at every step of the ESP. Whatever is left boots what it booted before until the entries were
// flipped, and comes to the same end.
#include <gtest/gtest.h>

#include "node-agent/update/state_store_sqlite.h"
#include "tests/unit/node-agent/update/node_fixture.h"

namespace sealift::agent {
namespace {

enum class Blow { kProcessKilled, kPowerCut };

struct Scenario {
  const char* name;
  void (*prepare)(UpdateNode&);
  const char* ends_on;
  bool remembered;
};

const Scenario kScenarios[] = {
    {"good", [](UpdateNode&) {}, "2.0", false},
    {"broken", [](UpdateNode& node) { node.broken.insert("2.0"); }, "1.0", true},
    {"extended",
     [](UpdateNode& node) {
       node.extensions = {{"tools.raw", std::string(6000, 't')}, {"debug.raw", "a debugger"}};
       node.Publish("2.0");
     },
     "2.0", false},
    {"unhealthy", [](UpdateNode& node) { node.unhealthy.insert("2.0"); }, "1.0", true},
};

// The way a daemon lives on after a blow.
void Recover(UpdateNode& node, Blow blow, CutMode mode) {
  node.kill.Disarm();
  const UpdateState persisted = node.PersistedState();
  if (blow == Blow::kProcessKilled && node.esp.fs.powered()) {
    node.rebooter.requested ? node.Reboot() : node.Start();
    return;
  }
  node.engine.reset();
  node.esp.fs.PowerOn(mode);
  const std::string ran = node.esp.running_version;
  node.Reboot();
  if (persisted < UpdateState::kArmed) {
    EXPECT_EQ(node.esp.running_version, ran) << "another image boots before the entries were flipped";
  }
}

// True when the blow fell.
bool Live(UpdateNode& node, Blow blow, CutMode mode) {
  bool struck = false;
  for (int i = 0; i < 40; ++i) {
    try {
      node.Round("2.0");
    } catch (const Killed&) {
      struck = true;
      Recover(node, blow, mode);
    }
    if (!node.esp.fs.powered()) {
      struck = true;
      Recover(node, Blow::kPowerCut, mode);
    }
    if (testing::Test::HasFailure()) return struck;
    node.ExpectSafe();
    node.Pass(std::chrono::minutes(4));
  }
  return struck;
}

void ExpectEnd(UpdateNode& node, const Scenario& scenario) {
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_EQ(node.esp.running_version, scenario.ends_on);
  const EngineStatus status = node.engine->status();
  EXPECT_EQ(status.failures.size(), scenario.remembered ? 1u : 0u);
  ASSERT_TRUE(status.running.has_value());
  EXPECT_FALSE(status.running->running_on_trial);
  for (const auto& [name, text] : node.extensions) {
    const std::string path = fmt::format("{}{}/{}", RelativePath(ImagePath("2.0")), kCompanionSuffix, name);
    EXPECT_EQ(ToText(node.esp.fs.Read(path, text.size()).value_or(Bytes())), text) << name;
  }
}

class KillAtEveryPoint : public testing::TestWithParam<Scenario> {};

TEST_P(KillAtEveryPoint, ComesToTheSameEnd) {
  for (const Blow blow : {Blow::kProcessKilled, Blow::kPowerCut}) {
    bool struck = true;
    int points = 0;
    for (int point = 0; struck; ++point) {
      SCOPED_TRACE(testing::Message()
                   << GetParam().name << ", blow " << static_cast<int>(blow) << " at point " << point);
      UpdateNode node;
      GetParam().prepare(node);
      node.kill.Arm(point);
      struck = Live(node, blow, CutMode::kDropUnsynced);
      node.kill.Disarm();
      ExpectEnd(node, GetParam());
      if (HasFailure()) return;
      points = point;
    }
    EXPECT_GT(points, 20);
  }
}

TEST_P(KillAtEveryPoint, ComesToTheSameEndWhenThePowerGoesAtAnyStepOfTheEsp) {
  for (const CutMode mode : kAllCutModes) {
    bool struck = true;
    std::size_t steps = 0;
    for (std::size_t step = 0; struck; ++step) {
      SCOPED_TRACE(testing::Message()
                   << GetParam().name << ", cut mode " << static_cast<int>(mode) << " at step " << step);
      UpdateNode node;
      GetParam().prepare(node);
      node.power.cut_at = step;
      struck = Live(node, Blow::kPowerCut, mode);
      if (!struck) break;
      ExpectEnd(node, GetParam());
      if (HasFailure()) return;
      steps = step;
    }
    EXPECT_GE(steps, 15u);
  }
}

INSTANTIATE_TEST_SUITE_P(UpdateEngine, KillAtEveryPoint, testing::ValuesIn(kScenarios),
                         [](const auto& test) { return std::string(test.param.name); });

// The same with the real database, opened anew by each process.
TEST(UpdateEngine, ComesToTheSameEndOnSqlite) {
  bool struck = true;
  for (int point = 0; struck; ++point) {
    SCOPED_TRACE(testing::Message() << "point " << point);
    UpdateNode node;
    node.place.open_store = [&node]() -> std::unique_ptr<StateStore> {
      auto store = SqliteStateStore::Open(node.temp() / "state.db");
      SEALIFT_CHECK(store.ok());
      return *std::move(store);
    };
    node.kill.Arm(point);
    struck = Live(node, Blow::kProcessKilled, CutMode::kKeepAll);
    node.kill.Disarm();
    ExpectEnd(node, kScenarios[0]);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace sealift::agent
