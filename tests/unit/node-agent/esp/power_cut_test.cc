// The power goes at every single step of an upgrade, under every idea of what a disk forgets. Whatever is
// left must boot, and repeating the upgrade from there must end well.
#include <gtest/gtest.h>

#include <algorithm>

#include "node-agent/esp/esp_stager.h"
#include "shared/base/ids.h"
#include "tests/unit/node-agent/esp/esp_fixture.h"

namespace sealift::agent {
namespace {

// sd-boot's choice: entries with tries before exhausted ones, then by sort-key, then by version, newest
// first. Returns nullptr where the machine would not boot.
const RoleEntry* BootLoaderChoice(const BootEntries& disk) {
  const RoleEntry* best = nullptr;
  for (const RoleEntry& entry : disk.entries) {
    if (entry.role == BootRole::kUnknown) continue;
    const auto rank = [](const RoleEntry& of) {
      return std::pair(of.exhausted(), static_cast<int>(of.role));
    };
    if (best == nullptr || rank(entry) < rank(*best) ||
        (rank(entry) == rank(*best) && CompareVersions(entry.version, best->version) > 0)) {
      best = &entry;
    }
  }
  return best;
}

// Every entry that the boot loader might choose while it has tries names a whole image.
void ExpectBootable(EspNode& node, const std::string& where) {
  auto disk = LoadBootEntries(node.fs);
  ASSERT_TRUE(disk.ok()) << where << ": " << Describe(disk.status());
  const RoleEntry* choice = BootLoaderChoice(*disk);
  ASSERT_NE(choice, nullptr) << where << ": nothing to boot";
  EXPECT_FALSE(choice->exhausted()) << where;
  for (const RoleEntry& entry : disk->entries) {
    auto measured = node.fs.Measure(RelativePath(entry.image_path));
    ASSERT_TRUE(measured.ok()) << where << ": " << entry.file_name << " names a missing image";
    EXPECT_EQ(measured->digest, Sha256(ImageBytes(entry.version))) << where << ": " << entry.file_name;
  }
  EXPECT_TRUE(disk->unreadable.empty()) << where << ": " << disk->unreadable.front();
}

Status Upgrade(EspNode& node) {
  EspStager stager = node.Stager();
  SEALIFT_ASSIGN_OR_RETURN(const StagedImage staged, stager.Stage(node.Fetched("2.0")));
  return stager.Activate(staged, 3);
}

struct Scenario {
  const char* name;
  // Brings a fresh node into the state before; sets its boot.
  void (*prepare)(EspNode&);
  Status (*act)(EspNode&);
};

void FromActive(EspNode&) {}
void FromPassive(EspNode& node) {
  node.PutImage("1.9");
  node.PutEntry("active+0-3.conf", BootRole::kActive, "1.9");
  node.PutEntry("passive.conf", BootRole::kPassive, "1.0");
  EXPECT_TRUE(node.fs.Remove("loader/entries/active.conf").ok());
  EXPECT_TRUE(node.fs.SyncDirectory("loader/entries").ok());
  node.Boot("passive.conf", "1.0");
}
void FromRecovery(EspNode& node) {
  node.PutEntry("passive.conf", BootRole::kPassive, "1.0");
  node.Boot("recovery.conf", "0.9");
}
void OnTrial(EspNode& node) {
  EXPECT_TRUE(Upgrade(node).ok());
  node.CountDown("active+3.conf", "active+2-1.conf");
  node.Boot("active+3-0.conf", "2.0");
}
Status BlessRunning(EspNode& node) {
  EspStager stager = node.Stager();
  return stager.Bless();
}
void TightAfterAFailedUpgrade(EspNode& node) {
  FromPassive(node);
  const std::uint64_t image = ImageBytes("2.0").size();
  node.fs.SetCapacity(3 * image + image / 2 + (1u << 20));
}
void LeftOnTrial(EspNode& node) {
  EXPECT_TRUE(Upgrade(node).ok());
  node.CountDown("active+3.conf", "active+2-1.conf");
  node.Boot("passive.conf", "1.0");
}
Status DisarmOther(EspNode& node) {
  EspStager stager = node.Stager();
  return stager.Disarm();
}
void WithGarbage(EspNode& node) { node.PutImage("0.1"); }
Status Clean(EspNode& node) {
  EspStager stager = node.Stager();
  return stager.CollectGarbage().status();
}

constexpr Scenario kScenarios[] = {{"UpgradeFromActive", FromActive, Upgrade},
                                   {"UpgradeFromPassive", FromPassive, Upgrade},
                                   {"UpgradeFromRecovery", FromRecovery, Upgrade},
                                   {"Bless", OnTrial, BlessRunning},
                                   {"UpgradeWhereThereIsNoRoom", TightAfterAFailedUpgrade, Upgrade},
                                   {"Disarm", LeftOnTrial, DisarmOther},
                                   {"CollectGarbage", WithGarbage, Clean}};

class PowerCut : public testing::TestWithParam<Scenario> {};

TEST_P(PowerCut, AtEveryStepLeavesAMachineThatBootsAndCanGoOn) {
  const Scenario& scenario = GetParam();
  std::size_t steps = 0;
  {
    EspNode node;
    scenario.prepare(node);
    const std::size_t before = node.fs.steps();
    ASSERT_TRUE(scenario.act(node).ok());
    steps = node.fs.steps() - before;
    ExpectBootable(node, "uncut");
  }
  ASSERT_GT(steps, 1u);
  for (const CutMode mode : kAllCutModes) {
    for (std::size_t step = 0; step < steps; ++step) {
      const std::string where =
          fmt::format("{} cut at step {} of {}, mode {}", scenario.name, step, steps, static_cast<int>(mode));
      EspNode node;
      scenario.prepare(node);
      node.fs.CutPowerAt(step);
      EXPECT_FALSE(scenario.act(node).ok()) << where;
      EXPECT_FALSE(node.fs.powered()) << where;
      node.fs.PowerOn(mode);
      ExpectBootable(node, where);
      // The machine boots what the boot loader chooses and the agent upgrades again from there.
      auto disk = LoadBootEntries(node.fs);
      ASSERT_TRUE(disk.ok());
      const RoleEntry choice = *BootLoaderChoice(*disk);
      node.Boot(choice.file_name, choice.version);
      EspStager stager = node.Stager();
      ASSERT_TRUE(stager.Inspect().ok()) << where << ": " << Describe(stager.Inspect().status());
      if (choice.version != "2.0") {
        const Status again = Upgrade(node);
        EXPECT_TRUE(again.ok()) << where << ": " << Describe(again);
        EXPECT_EQ(node.VersionOf("active+3.conf"), "2.0") << where;
        EXPECT_EQ(node.VersionOf("passive.conf"), choice.version) << where;
      } else {
        EXPECT_TRUE(stager.Bless().ok()) << where;
        EXPECT_EQ(node.VersionOf("active.conf"), "2.0") << where;
      }
      ExpectBootable(node, where + ", repeated");
    }
  }
}

// A disk error instead of a cut: the machine goes on running and tries again.
TEST_P(PowerCut, AnErrorAtEveryStepLeavesAMachineThatBootsAndCanGoOn) {
  const Scenario& scenario = GetParam();
  for (std::size_t step = 0;; ++step) {
    EspNode node;
    scenario.prepare(node);
    node.fs.FailAt(step);
    const Status first = scenario.act(node);
    const std::string where = fmt::format("{} failed at step {}", scenario.name, step);
    ExpectBootable(node, where);
    if (first.ok()) {
      EXPECT_GT(step, 1u);
      break;
    }
    EXPECT_TRUE(scenario.act(node).ok()) << where;
    ExpectBootable(node, where + ", repeated");
  }
}

INSTANTIATE_TEST_SUITE_P(Scenarios, PowerCut, testing::ValuesIn(kScenarios),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace sealift::agent
