// The update machine after the reboot, and the world around it: trials, fallbacks, a state that comes and
// goes.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/node-agent/update/node_fixture.h"

namespace sealift::agent {
namespace {

using std::chrono::minutes;

TEST(UpdateEngine, AsksForTheRebootAgainAfterAWhile) {
  UpdateNode node;
  Wish(node, "2.0");
  node.Settle();
  EXPECT_EQ(node.rebooter.requests, 1);
  node.engine->Tick();
  EXPECT_EQ(node.rebooter.requests, 1);
  node.Pass(minutes(5));
  node.engine->Tick();
  EXPECT_EQ(node.rebooter.requests, 2);
  node.Start();
  node.Settle();
  EXPECT_EQ(node.rebooter.requests, 3);
  EXPECT_EQ(node.state(), UpdateState::kRebooting);
}

TEST(UpdateEngine, TellsWhatTheBootThatFailedLeftWordOf) {
  UpdateNode node;
  node.broken.insert("2.0");
  int asked = 0;
  node.settings.why_boot_failed = [&] {
    ++asked;
    return std::string("Kernel panic - not syncing: no init");
  };
  node.Start();
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(asked, 1);
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_NE(node.engine->status().failures[0].message.find(
                "the boot before said: Kernel panic - not syncing: no init"),
            std::string::npos)
      << node.engine->status().failures[0].message;
}

TEST(UpdateEngine, MakesTheRunningImageTheRecoveryImageAfterEnoughBlessedBoots) {
  UpdateNode node;
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  ASSERT_EQ(node.esp.VersionOf("active.conf"), "2.0");
  ASSERT_EQ(node.state(), UpdateState::kIdle);
  // That was the first. A new process in the same boot is no new one, and an unhealthy boot counts for
  // nothing.
  for (int i = 0; i < 3; ++i) {
    node.Start();
    node.Round("2.0");
  }
  node.unhealthy.insert("2.0");
  node.Reboot();
  node.Round("2.0");
  node.unhealthy.clear();
  node.Reboot();
  node.Round("2.0");
  EXPECT_EQ(node.place.disk->state.blessed_boots.count, 2u);
  EXPECT_EQ(node.esp.VersionOf("recovery.conf"), "0.9");
  node.Reboot();
  node.Round("2.0");
  EXPECT_EQ(node.esp.VersionOf("recovery.conf"), "2.0");
  // The next image begins anew.
  node.Publish("3.0");
  for (int i = 0; i < 6; ++i) node.Round("3.0");
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "3.0");
  EXPECT_EQ(node.place.disk->state.blessed_boots.count, 1u);
  EXPECT_EQ(node.esp.VersionOf("recovery.conf"), "2.0");
}

TEST(UpdateEngine, MovesTheRecoveryImageByOrderOnlyWhereToldSo) {
  UpdateNode node;
  node.settings.recovery_after = 0;
  node.Start();
  for (int i = 0; i < 5; ++i) {
    node.Reboot();
    node.Round(std::nullopt);
  }
  EXPECT_EQ(node.esp.VersionOf("recovery.conf"), "0.9");
  EXPECT_TRUE(node.engine->OnOrderRecovery().ok());
  EXPECT_EQ(node.esp.VersionOf("recovery.conf"), "1.0");
  // An order that comes next is judged by what is there now.
  const BootInventory now = node.engine->status().running.value();
  const auto recovery = std::ranges::find(now.entries, BootRole::kRecovery, &RoleEntry::role);
  ASSERT_NE(recovery, now.entries.end());
  EXPECT_EQ(recovery->version, "1.0");
  // Not what is on trial, nor what runs because another image failed.
  BootInto(node, "2.0");
  node.Settle();
  EXPECT_EQ(ReasonIdOf(node.engine->OnOrderRecovery()), "BOOT_NOT_BLESSED");
}

TEST(UpdateEngine, BlessesNothingWithoutAnAcceptedReport) {
  UpdateNode node;
  BootInto(node, "2.0");
  for (int i = 0; i < 10; ++i) {
    node.Settle();
    Wish(node, "2.0");  // the controller is there, and does not accept
    node.Pass(minutes(10));
  }
  EXPECT_EQ(node.state(), UpdateState::kAssessing);
  EXPECT_EQ(node.esp.VersionOf("active+2-1.conf"), "2.0");
  EXPECT_FALSE(node.rebooter.requested);
}

TEST(UpdateEngine, TakesNoReportOfAnUnhealthyBootForOne) {
  UpdateNode node;
  BootInto(node, "2.0");
  node.Settle();
  auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  report->healthy = false;
  node.engine->OnReportAccepted(*report);
  report->healthy = true;
  report->version = "1.0";
  node.engine->OnReportAccepted(*report);
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kAssessing);
}

TEST(UpdateEngine, RemembersAnAcceptedReportAcrossAKilledProcess) {
  UpdateNode node;
  BootInto(node, "2.0");
  node.Settle();
  const auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  node.engine->OnReportAccepted(*report);
  node.Start();
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kBlessed);
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "2.0");
}

TEST(UpdateEngine, BlessesOnLocalHealthAfterTheControllerWasAwayForLong) {
  UpdateNode node;
  BootInto(node, "2.0");
  for (int i = 0; i < 5; ++i) {
    node.Settle();
    EXPECT_EQ(node.state(), UpdateState::kAssessing);
    node.Pass(minutes(10));
  }
  node.Pass(minutes(10));
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kBlessed);
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "2.0");
  EXPECT_EQ(node.booted, std::vector<std::string>{"2.0"});
}

TEST(UpdateEngine, LeavesAnUnhealthyImageByRebootsAndRemembersIt) {
  UpdateNode node;
  node.unhealthy.insert("2.0");
  BootInto(node, "2.0");
  int boots = 0;
  for (int i = 0; i < 60 && node.esp.running_version == "2.0"; ++i) {
    node.Settle();
    EXPECT_FALSE(node.engine->DueReport().has_value());
    if (node.rebooter.requested) {
      ++boots;
      node.Reboot();
    }
    node.Pass(minutes(2));
  }
  EXPECT_EQ(boots, 3);
  EXPECT_EQ(node.esp.running_version, "1.0");
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kFellBack);
  const auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->reason, "HEALTH_FAILED");
  EXPECT_NE(report->message.find("database.service"), std::string::npos);
  for (int i = 0; i < 4; ++i) node.Round("2.0");
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_EQ(node.esp.running_version, "1.0");
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
}

TEST(UpdateEngine, WaitsForHealthUntilItsDeadline) {
  UpdateNode node;
  BootInto(node, "2.0");
  node.health.health = {.healthy = false, .problem = "still starting"};
  node.Settle();
  node.Pass(minutes(9));
  node.Settle();
  EXPECT_FALSE(node.rebooter.requested);
  node.health.health = {.healthy = true};
  for (int i = 0; i < 3; ++i) node.Round("2.0");
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "2.0");
}

TEST(UpdateEngine, KeepsTheHealthDeadlineAcrossAKilledProcess) {
  UpdateNode node;
  BootInto(node, "2.0");
  node.health.health = {.healthy = false, .problem = "no"};
  node.Settle();
  for (int i = 0; i < 5; ++i) {
    node.Pass(minutes(2));
    node.Start();
    node.Settle();
  }
  EXPECT_TRUE(node.rebooter.requested);
}

TEST(UpdateEngine, DoesNotRebootAnUnhealthyImageThatHasNothingToGoBackTo) {
  UpdateNode node;
  for (const char* name : {"passive.conf", "recovery.conf", "active.conf"}) {
    ASSERT_TRUE(node.esp.fs.Remove(std::string("loader/entries/") + name).ok());
  }
  node.esp.PutEntry("active+2-1.conf", BootRole::kActive, "1.0");
  node.esp.Boot("active+3.conf", "1.0");
  node.health.health = {.healthy = false, .problem = "no"};
  node.Start();
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(node.engine->Tick().busy && i > 0);
    node.Pass(minutes(10));
  }
  EXPECT_EQ(node.state(), UpdateState::kAssessing);
  EXPECT_FALSE(node.rebooter.requested);
}

TEST(UpdateEngine, AssessesAnUnblessedImageItKnowsNothingOf) {
  UpdateNode node;
  ASSERT_TRUE(node.esp.fs.Remove("loader/entries/active.conf").ok());
  node.esp.PutEntry("active+2-1.conf", BootRole::kActive, "1.0");
  node.esp.Boot("active+3.conf", "1.0");
  node.Start();
  for (int i = 0; i < 4; ++i) node.Round(std::nullopt);
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "1.0");
}

TEST(UpdateEngine, ReportsAFallbackAndRemembersTheVersion) {
  UpdateNode node;
  node.broken.insert("2.0");
  Wish(node, "2.0");
  node.Settle();
  node.Reboot();
  EXPECT_EQ(node.booted, (std::vector<std::string>{"2.0", "2.0", "2.0", "1.0"}));
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kFellBack);
  auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->reason, "FELL_BACK");
  EXPECT_NE(report->message.find("1.0 runs as passive"), std::string::npos) << report->message;
  // Not delivered yet: told again after a restart.
  node.Start();
  node.Settle();
  EXPECT_EQ(node.engine->DueReport(), report);
  for (int i = 0; i < 4; ++i) node.Round("2.0");
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_EQ(node.booted.size(), 4u);
  // From passive, the next version goes its way.
  node.Publish("2.1");
  for (int i = 0; i < 6; ++i) node.Round("2.1");
  EXPECT_EQ(node.esp.running_version, "2.1");
  EXPECT_EQ(node.esp.VersionOf("passive.conf"), "1.0");
}

TEST(UpdateEngine, LearnsAFallbackFromTheEspWhenItsStateIsLost) {
  UpdateNode node;
  node.broken.insert("2.0");
  Wish(node, "2.0");
  node.Settle();
  node.place.disk = std::make_shared<MemoryStateDisk>();
  node.Reboot();
  for (int i = 0; i < 4; ++i) node.Round("2.0");
  EXPECT_EQ(node.booted.size(), 4u) << "it was tried again";
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures[0].version, "2.0");
}

TEST(UpdateEngine, FallsBackFromATrialThatCrashesLater) {
  UpdateNode node;
  BootInto(node, "2.0");
  node.Settle();
  ASSERT_EQ(node.state(), UpdateState::kAssessing);
  node.broken.insert("2.0");
  node.Reboot();
  node.Settle();
  EXPECT_EQ(node.esp.running_version, "1.0");
  EXPECT_EQ(node.state(), UpdateState::kFellBack);
}

// Somebody chose the old image in the boot menu: what counts as failed must not come up at the next boot.
TEST(UpdateEngine, TakesTheTriesFromAnImageThatIsRememberedAsFailed) {
  for (const UpdateState left_in : {UpdateState::kRebooting, UpdateState::kAssessing}) {
    UpdateNode node;
    Wish(node, "2.0");
    node.Settle();
    if (left_in == UpdateState::kAssessing) {
      node.Reboot();
      node.Settle();
    }
    ASSERT_EQ(node.state(), left_in);
    node.engine.reset();
    node.booted.clear();
    node.esp.Boot("passive.conf", "1.0");
    node.Start();
    node.Settle();
    ASSERT_EQ(node.state(), UpdateState::kFellBack);
    ASSERT_EQ(node.engine->status().failures.size(), 1u);
    node.Reboot();
    EXPECT_EQ(node.booted, std::vector<std::string>{"1.0"}) << UpdateStateName(left_in);
    for (int i = 0; i < 4; ++i) node.Round("2.0");
    EXPECT_EQ(node.state(), UpdateState::kIdle);
    EXPECT_EQ(node.esp.running_version, "1.0");
  }
}

TEST(UpdateEngine, TakesTheTriesLaterWhereTheEspCannotBeWrittenAtOnce) {
  for (const bool killed : {false, true}) {
    UpdateNode node;
    Wish(node, "2.0");
    node.Settle();
    node.engine.reset();
    node.rebooter.requested = false;
    node.booted.clear();
    node.esp.Boot("passive.conf", "1.0");
    node.Start();
    const Status away = MakeError(Code::kUnavailable, Reason::kEspIo, "disk away");
    node.stager->fail_disarm = away;
    for (int i = 0; i < 3; ++i) node.Round("2.0");
    EXPECT_EQ(node.state(), UpdateState::kFellBack);
    ASSERT_FALSE(node.reports.empty());
    EXPECT_EQ(node.reports.back().reason, "FELL_BACK");
    EXPECT_FALSE(node.engine->DueReport().has_value()) << "told twice";
    if (killed) node.Start();
    node.stager->fail_disarm = OkStatus();
    node.Pass(minutes(15));
    node.Settle();
    EXPECT_EQ(node.state(), UpdateState::kIdle);
    node.Reboot();
    EXPECT_EQ(node.booted, std::vector<std::string>{"1.0"});
  }
}

// The entries are flipped, and a new process may not vouch for what they name.
TEST(UpdateEngine, DisarmsAnImageThatIsRefusedAfterTheFlip) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kArmed);
  ASSERT_EQ(node.esp.VersionOf("active+3.conf"), "2.0");
  node.Start();
  node.stager->fail_verify = MakeError(Code::kUnauthenticated, Reason::kImageRevoked, "in dbx now");
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_FALSE(node.rebooter.requested);
  node.Reboot();
  EXPECT_EQ(node.booted, std::vector<std::string>{"1.0"});
}

TEST(UpdateEngine, AcceptsThatAnotherImageWasChosenAfterBlessing) {
  UpdateNode node;
  for (int i = 0; i < 2; ++i) node.Round("2.0");
  const auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  node.engine->OnReportAccepted(*report);
  node.Settle();
  ASSERT_EQ(node.state(), UpdateState::kBlessed);
  node.esp.Boot("passive.conf", "1.0");
  node.Start();
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_TRUE(node.engine->status().failures.empty());
}

// ---- the world around ----

TEST(UpdateEngine, ChangesNothingWithoutTheStatePartition) {
  UpdateNode node;
  node.place.mounted = false;
  Wish(node, "2.0");
  const std::size_t before = node.esp.fs.steps();
  for (int i = 0; i < 5; ++i) {
    node.engine->Resume();
    EXPECT_FALSE(node.engine->Tick().busy);
    node.Pass(minutes(1));
  }
  const EngineStatus status = node.engine->status();
  EXPECT_EQ(status.state, UpdateState::kStateMissing);
  ASSERT_TRUE(status.running.has_value());
  EXPECT_EQ(status.running->running_version, "1.0");
  EXPECT_EQ(node.esp.fs.steps(), before);
  EXPECT_FALSE(node.engine->OnOrderRetry("2.0").ok());
  node.place.mounted = true;
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(node.esp.running_version, "2.0");
}

TEST(UpdateEngine, StopsWhenTheStatePartitionGoesAway) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kStaged);
  node.place.mounted = false;
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kStateMissing);
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "1.0");
  node.place.mounted = true;
  StepTo(node, UpdateState::kArmed);
}

TEST(UpdateEngine, StagesNothingWhileItDoesNotKnowWhatRuns) {
  UpdateNode node;
  node.stager->fail_inspect =
      MakeError(Code::kFailedPrecondition, Reason::kBootStateUnknown, "no entry fits");
  Wish(node, "2.0");
  node.Settle();
  EXPECT_EQ(ReasonOf(node.engine->status().problem), Reason::kBootStateUnknown);
  EXPECT_EQ(node.content.transfers, 0);
  node.stager->fail_inspect = OkStatus();
  node.Pass(minutes(15));
  StepTo(node, UpdateState::kFetching);
}

TEST(UpdateEngine, TellsThatItsStateWasPutAside) {
  UpdateNode node;
  node.place.put_aside = MakeError(Code::kDataLoss, Reason::kStateCorrupt, "damaged");
  node.engine->Resume();
  const auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->reason, "STATE_CORRUPT");
}

TEST(UpdateEngine, StaysWhereItIsWhileTheStateCannotBeWritten) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kStaged);
  const std::size_t before = node.esp.fs.steps();
  node.place.disk->fail_next = MakeError(Code::kResourceExhausted, Reason::kDiskFull, "no room");
  EXPECT_FALSE(node.engine->Tick().busy);
  EXPECT_EQ(node.state(), UpdateState::kStaged);
  EXPECT_EQ(node.esp.fs.steps(), before) << "an effect without its transition";
  node.Pass(minutes(1));
  StepTo(node, UpdateState::kArmed);
}

// One forged value must not make all metadata look expired.
TEST(UpdateEngine, BelievesNoTimeThatOnlyTheStateVouchesFor) {
  UpdateNode node;
  node.place.disk->state.time_floor = kTestNow + std::chrono::hours(24 * 365 * 50);
  node.place.disk->state.fresh = false;
  node.catalog.not_before = kTestNow - std::chrono::hours(1);
  node.Start();
  node.engine->Resume();
  EXPECT_EQ(node.agent_clock.Now(), kTestNow);
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(node.esp.running_version, "2.0");
}

TEST(UpdateEngine, KeepsTheTimeThatMetadataProvedAcrossReboots) {
  UpdateNode node;
  node.catalog.not_before = kTestNow + std::chrono::hours(48);
  Wish(node, "2.0");
  StepTo(node, UpdateState::kFetching);
  EXPECT_EQ(node.agent_clock.Now(), kTestNow + std::chrono::hours(48));
  EXPECT_EQ(node.place.disk->state.time_floor, kTestNow + std::chrono::hours(48));

  // The battery is dead: the next boot starts in 1970.
  FakeClock dead(UnixMillis{});
  AgentClock restarted(dead, UnixMillis{});
  TestStager stager(node.esp.Stager(), node.kill, node.power);
  UpdateEngine engine(node.settings, {node.place, node.catalog, *node.fetcher, stager, node.rebooter,
                                      node.health, restarted});
  engine.Resume();
  EXPECT_EQ(restarted.Now(), kTestNow + std::chrono::hours(48));
}

}  // namespace
}  // namespace sealift::agent
