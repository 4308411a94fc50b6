// Every transition of the update machine, on a whole node in memory.
#include "node-agent/update/update_engine.h"

#include <gtest/gtest.h>

#include "tests/unit/node-agent/update/node_fixture.h"

namespace sealift::agent {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

void Wish(UpdateNode& node, const std::string& version) { node.engine->OnDesired(node.Desired(version)); }

// Steps until the machine is in `state`.
void StepTo(UpdateNode& node, UpdateState state) {
  for (int i = 0; i < 200 && node.state() != state; ++i) node.engine->Tick();
  ASSERT_EQ(node.state(), state) << node.engine->status().problem;
}

TEST(UpdateEngine, UpgradesReportsAndBlesses) {
  UpdateNode node;
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_EQ(node.esp.running_version, "2.0");
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "2.0");
  EXPECT_EQ(node.esp.VersionOf("passive.conf"), "1.0");
  EXPECT_EQ(node.booted, std::vector<std::string>{"2.0"});
  ASSERT_EQ(node.reports.size(), 2u);
  EXPECT_EQ(node.reports[0].state, UpdateState::kAssessing);
  EXPECT_TRUE(node.reports[0].healthy);
  EXPECT_EQ(node.reports[1].state, UpdateState::kBlessed);
  EXPECT_FALSE(std::filesystem::exists(node.temp() / "content" / Sha256(ImageBytes("2.0")).hex()));
}

TEST(UpdateEngine, PassesThroughEveryStateInOrder) {
  UpdateNode node;
  std::vector<UpdateState> seen;
  Wish(node, "2.0");
  for (int i = 0; i < 50 && !node.rebooter.requested; ++i) {
    if (seen.empty() || seen.back() != node.state()) seen.push_back(node.state());
    node.engine->Tick();
  }
  seen.push_back(node.state());
  EXPECT_EQ(seen,
            (std::vector<UpdateState>{UpdateState::kIdle, UpdateState::kFetching, UpdateState::kVerified,
                                      UpdateState::kStaged, UpdateState::kArmed, UpdateState::kRebooting}));
  EXPECT_EQ(node.engine->status().staged_version, "2.0");
  EXPECT_EQ(node.esp.VersionOf("active+3.conf"), "2.0");
}

TEST(UpdateEngine, TouchesTheEspOnlyAfterEverythingWasVerified) {
  UpdateNode node;
  const std::size_t before = node.esp.fs.steps();
  Wish(node, "2.0");
  StepTo(node, UpdateState::kVerified);
  EXPECT_EQ(node.esp.fs.steps(), before);
}

TEST(UpdateEngine, FetchesInSlicesAndGoesOnWhereItStopped) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kFetching);
  EXPECT_TRUE(node.engine->Tick().busy);
  EXPECT_EQ(node.engine->status().fetched_bytes, 4096u);
  EXPECT_EQ(node.engine->status().fetch_size, 9000u);
  node.Start();
  Wish(node, "2.0");
  StepTo(node, UpdateState::kVerified);
  EXPECT_EQ(node.content.bytes_sent, 9000u);
}

TEST(UpdateEngine, WaitsLongerEachTimeForAControllerThatIsAway) {
  UpdateNode node;
  node.content.fail = MakeError(Code::kUnavailable, Reason::kPeerUnreachable, "no route");
  Wish(node, "2.0");
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kFetching);
  const int first = node.content.transfers;
  EXPECT_EQ(node.engine->Tick().wait, seconds(15));
  EXPECT_EQ(node.content.transfers, first);
  node.Pass(seconds(15));
  EXPECT_EQ(node.engine->Tick().wait, seconds(30));
  for (int i = 0; i < 20; ++i) {
    node.Pass(minutes(15));
    EXPECT_LE(node.engine->Tick().wait, minutes(15));
  }
  EXPECT_TRUE(node.engine->status().failures.empty());
  node.content.fail = OkStatus();
  node.Pass(minutes(15));
  StepTo(node, UpdateState::kVerified);
}

TEST(UpdateEngine, DoesNothingWhenTheWishedVersionRuns) {
  UpdateNode node;
  Wish(node, "1.0");
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_EQ(node.catalog.resolutions, 0);
}

// ---- refusals ----

struct Refusal {
  const char* name;
  Status status;
};

class ImageRefusal : public testing::TestWithParam<Reason> {};

TEST_P(ImageRefusal, IsRememberedReportedAndLeavesTheEspAlone) {
  UpdateNode node;
  const std::size_t before = node.esp.fs.steps();
  node.stager->fail_verify = MakeError(Code::kUnauthenticated, GetParam(), "refused");
  Wish(node, "2.0");
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures[0].reason, ReasonId(GetParam()));
  const auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->reason, ReasonId(GetParam()));
  EXPECT_EQ(report->version, "2.0");
  EXPECT_EQ(node.esp.fs.steps(), before) << "the ESP was written to";
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "1.0");
  EXPECT_FALSE(node.rebooter.requested);

  // Not tried again, not by a new process either, until ordered.
  node.engine->OnReportAccepted(*report);
  EXPECT_FALSE(node.engine->DueReport().has_value());
  node.Start();
  node.stager->fail_verify = OkStatus();
  const int resolutions = node.catalog.resolutions;
  for (int i = 0; i < 3; ++i) node.Round("2.0");
  EXPECT_EQ(node.catalog.resolutions, resolutions);
  EXPECT_EQ(ReasonOf(node.engine->status().problem), Reason::kVersionFailedBefore);
  ASSERT_TRUE(node.engine->OnOrderRetry("2.0").ok());
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(node.esp.running_version, "2.0");
}

INSTANTIATE_TEST_SUITE_P(UpdateEngine, ImageRefusal,
                         testing::Values(Reason::kImageTruncated, Reason::kImageMalformed,
                                         Reason::kImageUnsigned, Reason::kImageSignatureInvalid,
                                         Reason::kImageSignerUnknown, Reason::kImageRevoked,
                                         Reason::kImageVersionMismatch, Reason::kImagePcrKeyUnknown),
                         [](const auto& test) { return std::string(ReasonId(test.param)); });

TEST(UpdateEngine, RefusesAReleaseForAnotherMachine) {
  UpdateNode node;
  node.Publish("2.1", [](Manifest& manifest) { manifest.hardware_class = "toaster-arm64"; });
  Wish(node, "2.1");
  node.Settle();
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures[0].reason, "RELEASE_NOT_FOR_NODE");
  EXPECT_EQ(node.content.transfers, 0);
}

TEST(UpdateEngine, RefusesAReleaseThatNeedsANewerAgentUntilAnotherImageRuns) {
  UpdateNode node;
  node.Publish("3.0", [](Manifest& manifest) { manifest.minimum_agent_version = "1.5"; });
  Wish(node, "3.0");
  node.Settle();
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures[0].reason, "AGENT_TOO_OLD");
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  ASSERT_EQ(node.esp.running_version, "2.0");
  EXPECT_TRUE(node.engine->status().failures.empty());
  node.settings.agent_version = "1.5";
  node.Start();
  for (int i = 0; i < 6; ++i) node.Round("3.0");
  EXPECT_EQ(node.esp.running_version, "3.0");
}

TEST(UpdateEngine, RefusesAnOlderVersionUnlessOrdered) {
  UpdateNode node;
  node.Publish("0.8");
  Wish(node, "0.8");
  node.Settle();
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures[0].reason, "ROLLBACK");
  ASSERT_TRUE(node.engine->OnOrderRollback("0.8").ok());
  for (int i = 0; i < 6; ++i) node.Round("0.8");
  EXPECT_EQ(node.esp.running_version, "0.8");
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  // Used up: the next one needs its own order.
  EXPECT_EQ(node.place.disk->state.permitted_rollback, "");
}

TEST(UpdateEngine, RefusesMetadataWithoutBlamingTheVersion) {
  for (const Reason reason : {Reason::kTufExpired, Reason::kTufRollback, Reason::kTufMixAndMatch,
                              Reason::kTufSignatureThreshold, Reason::kTufMalformed}) {
    UpdateNode node;
    node.catalog.fail = MakeError(Code::kFailedPrecondition, reason, "refused");
    Wish(node, "2.0");
    node.Settle();
    EXPECT_EQ(node.state(), UpdateState::kIdle);
    EXPECT_TRUE(node.engine->status().failures.empty());
    const auto report = node.engine->DueReport();
    ASSERT_TRUE(report.has_value());
    EXPECT_EQ(report->reason, ReasonId(reason));
    node.engine->OnReportAccepted(*report);
    node.Pass(minutes(1));
    node.Settle();
    EXPECT_FALSE(node.engine->DueReport().has_value()) << "told twice";
    node.catalog.fail = OkStatus();
    node.Pass(minutes(15));
    for (int i = 0; i < 6; ++i) node.Round("2.0");
    EXPECT_EQ(node.esp.running_version, "2.0");
  }
}

TEST(UpdateEngine, GivesUpContentThatIsNeverWhatWasSigned) {
  UpdateNode node;
  Bytes& object = node.content.objects[Sha256(ImageBytes("2.0"))];
  object[100] ^= 1;
  Wish(node, "2.0");
  for (int i = 0; i < 5; ++i) {
    node.Settle();
    node.Pass(minutes(15));
  }
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures[0].reason, "CONTENT_DIGEST_MISMATCH");
  EXPECT_EQ(node.stager->verifications, 0);
}

TEST(UpdateEngine, FetchesAgainWhatChangedOnTheStatePartition) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kVerified);
  const std::filesystem::path file = node.temp() / "content" / Sha256(ImageBytes("2.0")).hex();
  ASSERT_TRUE(WriteFileAtomically(file, AsBytes("something else")).ok());
  StepTo(node, UpdateState::kFetching);
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(node.esp.running_version, "2.0");
}

TEST(UpdateEngine, GivesUpAFullEspAndBootsWhatItBooted) {
  UpdateNode node;
  node.stager->fail_stage = MakeError(Code::kResourceExhausted, Reason::kEspFull, "no room");
  Wish(node, "2.0");
  for (int i = 0; i < 5; ++i) {
    node.Settle();
    node.Pass(minutes(15));
  }
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures[0].reason, "ESP_FULL");
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  node.Reboot();
  EXPECT_EQ(node.esp.running_version, "1.0");
}

TEST(UpdateEngine, GivesUpArmingThatNeverWorks) {
  UpdateNode node;
  node.stager->fail_activate = MakeError(Code::kResourceExhausted, Reason::kEspFull, "no room");
  Wish(node, "2.0");
  for (int i = 0; i < 5; ++i) {
    node.Settle();
    node.Pass(minutes(15));
  }
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  node.Reboot();
  EXPECT_EQ(node.esp.running_version, "1.0");
}

TEST(UpdateEngine, StagesAgainAnImageThatVanishedFromTheEsp) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kStaged);
  node.Start();
  ASSERT_TRUE(node.esp.fs.Remove(RelativePath(ImagePath("2.0"))).ok());
  Wish(node, "2.0");
  StepTo(node, UpdateState::kVerified);
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(node.esp.running_version, "2.0");
}

// What lies in the state partition is no proof: a record that names another image than the signed metadata.
TEST(UpdateEngine, ArmsNothingThatOnlyTheStateVouchesFor) {
  for (const UpdateState state :
       {UpdateState::kFetching, UpdateState::kVerified, UpdateState::kStaged, UpdateState::kArmed}) {
    UpdateNode node;
    node.esp.PutImage("0.1");
    UpdateRecord forged;
    forged.state = state;
    forged.channel = "stable";
    forged.version = "2.0";
    forged.image_digest = Sha256(ImageBytes("0.1"));
    forged.image_size = ImageBytes("0.1").size();
    forged.boot_id = node.esp.boot_id;
    node.place.disk->state.record = forged;
    node.place.disk->state.fresh = false;
    node.Start();
    node.Settle();
    EXPECT_EQ(node.state(), UpdateState::kIdle) << UpdateStateName(state);
    EXPECT_FALSE(node.rebooter.requested);
    EXPECT_EQ(node.esp.VersionOf("active.conf"), "1.0");
    ASSERT_EQ(node.engine->status().failures.size(), 1u);
    EXPECT_EQ(node.engine->status().failures[0].reason, "RELEASE_MIXED");
  }
}

TEST(UpdateEngine, RefusesAReleaseIdOtherThanTheRecorded) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kFetching);
  DesiredRelease other = node.Desired("2.0");
  other.release_id.bytes[0] = 1;
  node.engine->OnDesired(other);
  EXPECT_EQ(node.state(), UpdateState::kIdle);
}

// ---- take-over ----

TEST(UpdateEngine, ReplacesWhatIsNotArmedYet) {
  for (const UpdateState state : {UpdateState::kFetching, UpdateState::kVerified, UpdateState::kStaged}) {
    UpdateNode node;
    node.Publish("2.1");
    Wish(node, "2.0");
    StepTo(node, state);
    Wish(node, "2.1");
    EXPECT_EQ(node.state(), UpdateState::kIdle);
    for (int i = 0; i < 6; ++i) node.Round("2.1");
    EXPECT_EQ(node.booted, std::vector<std::string>{"2.1"}) << UpdateStateName(state);
    EXPECT_FALSE(node.esp.fs.Exists(RelativePath(ImagePath("2.0"))));
  }
}

TEST(UpdateEngine, DropsWhatIsWithdrawnBeforeItIsArmed) {
  for (const UpdateState state : {UpdateState::kFetching, UpdateState::kVerified, UpdateState::kStaged}) {
    UpdateNode node;
    Wish(node, "2.0");
    StepTo(node, state);
    node.engine->OnNothingDesired();
    node.Settle();
    EXPECT_EQ(node.state(), UpdateState::kIdle);
    EXPECT_FALSE(node.rebooter.requested);
    EXPECT_EQ(node.esp.VersionOf("active.conf"), "1.0");
  }
}

TEST(UpdateEngine, NeverReplacesWhatIsArmed) {
  UpdateNode node;
  node.Publish("2.1");
  Wish(node, "2.0");
  StepTo(node, UpdateState::kArmed);
  Wish(node, "2.1");
  EXPECT_EQ(node.state(), UpdateState::kArmed);
  StepTo(node, UpdateState::kRebooting);
  Wish(node, "2.1");
  EXPECT_EQ(node.state(), UpdateState::kRebooting);
  node.engine->OnNothingDesired();
  EXPECT_EQ(node.state(), UpdateState::kRebooting);
  node.Reboot();
  Wish(node, "2.1");
  node.engine->Tick();
  EXPECT_EQ(node.state(), UpdateState::kAssessing);
  Wish(node, "2.1");
  EXPECT_EQ(node.state(), UpdateState::kAssessing);
  for (int i = 0; i < 8; ++i) node.Round("2.1");
  EXPECT_EQ(node.booted, (std::vector<std::string>{"2.0", "2.1"}));
  EXPECT_EQ(node.esp.VersionOf("passive.conf"), "2.0");
}

TEST(UpdateEngine, EndsATrialBeforeItTakesUpTheNextWish) {
  UpdateNode node;
  node.Publish("2.1");
  for (int i = 0; i < 2; ++i) node.Round("2.0");
  node.stager->fail_bless = MakeError(Code::kUnavailable, Reason::kEspIo, "disk away");
  Wish(node, "2.1");
  node.Settle();
  const auto report = node.engine->DueReport();
  if (report) node.engine->OnReportAccepted(*report);
  node.Settle();
  ASSERT_EQ(node.state(), UpdateState::kBlessed);
  EXPECT_FALSE(node.engine->DueReport().has_value());
  Wish(node, "2.1");
  EXPECT_EQ(node.state(), UpdateState::kBlessed);
  node.stager->fail_bless = OkStatus();
  node.Pass(minutes(15));
  for (int i = 0; i < 8; ++i) node.Round("2.1");
  EXPECT_EQ(node.esp.running_version, "2.1");
}

// ---- after the reboot ----

void BootInto(UpdateNode& node, const std::string& version) {
  Wish(node, version);
  node.Settle();
  ASSERT_TRUE(node.rebooter.requested);
  node.Reboot();
}

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
