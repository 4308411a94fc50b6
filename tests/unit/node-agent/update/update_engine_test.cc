// The update machine up to the reboot, on a whole node in memory.
#include "node-agent/update/update_engine.h"

#include <gtest/gtest.h>

#include "tests/unit/node-agent/update/node_fixture.h"

namespace sealift::agent {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

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

// A stream that ends at its deadline, again and again: slow, and no reason to wait or to complain.
TEST(UpdateEngine, GetsOnOverALinkThatBreaksOffAllTheTime) {
  for (const Code code : {Code::kDeadlineExceeded, Code::kUnavailable}) {
    UpdateNode node;
    node.content.breaks_after = 2048;
    node.content.breaks_with = MakeError(code, Reason::kTimeout, "broke off");
    Wish(node, "2.0");
    node.Settle();
    EXPECT_TRUE(node.rebooter.requested) << node.engine->status().problem;
    EXPECT_EQ(node.content.transfers, 5);
  }
}

TEST(UpdateEngine, WaitsForALinkOverWhichNothingMoves) {
  UpdateNode node;
  node.content.breaks_after = 0;
  node.content.breaks_with = MakeError(Code::kDeadlineExceeded, Reason::kTimeout, "broke off");
  Wish(node, "2.0");
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kFetching);
  EXPECT_EQ(node.content.transfers, 1);
  EXPECT_EQ(ReasonOf(node.engine->status().problem), Reason::kTimeout);
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

// A version is remembered by its number alone: another channel's must not stand in for this one's.
TEST(UpdateEngine, HoldsNothingAgainstAVersionThatIsWishedFromAnotherChannel) {
  UpdateNode node;
  node.engine->OnDesired({.channel = "beta", .version = "2.0"});
  node.Settle();
  EXPECT_EQ(node.catalog.resolutions, 0);
  EXPECT_TRUE(node.engine->status().failures.empty());
  const auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->reason, "RELEASE_NOT_FOR_NODE");
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(node.esp.running_version, "2.0");
}

TEST(UpdateEngine, DropsARecordOfAnotherChannel) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kStaged);
  node.place.disk->state.record.channel = "beta";
  node.Start();
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_TRUE(node.engine->status().failures.empty());
  EXPECT_FALSE(node.rebooter.requested);
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

// A download of days must not end in arming what metadata no longer vouches for.
TEST(UpdateEngine, AsksForMetadataAgainOnceItHasExpired) {
  UpdateNode node;
  node.catalog.expires = kTestNow + std::chrono::hours(1);
  Wish(node, "2.0");
  StepTo(node, UpdateState::kFetching);
  node.engine->Tick();
  ASSERT_EQ(node.catalog.resolutions, 1);
  node.clock.Advance(std::chrono::hours(1));
  node.catalog.fail = MakeError(Code::kFailedPrecondition, Reason::kTufExpired, "expired");
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kFetching);
  EXPECT_EQ(ReasonOf(node.engine->status().problem), Reason::kTufExpired);
}

TEST(UpdateEngine, ArmsByTheMetadataOfNow) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kStaged);
  const int verifications = node.stager->verifications;
  node.catalog.fail = MakeError(Code::kNotFound, Reason::kTufTargetUnknown, "no longer listed");
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kStaged);
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "1.0");
  node.catalog.fail = OkStatus();
  node.Pass(minutes(15));
  StepTo(node, UpdateState::kArmed);
  EXPECT_EQ(node.stager->verifications, verifications + 1) << "checked again after the wait";
}

TEST(UpdateEngine, ChecksAnImageOnceOnItsWayWithoutAWait) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kArmed);
  EXPECT_EQ(node.stager->verifications, 1);
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

// A version is not at fault for a full disk: told, waited for, and taken up once there is room.
TEST(UpdateEngine, WaitsForRoomOnAFullEspAndReportsIt) {
  for (Status TestStager::*failing : {&TestStager::fail_stage, &TestStager::fail_activate}) {
    UpdateNode node;
    (*node.stager).*failing = MakeError(Code::kResourceExhausted, Reason::kEspFull, "no room");
    Wish(node, "2.0");
    for (int i = 0; i < 5; ++i) {
      node.Settle();
      node.Pass(minutes(15));
    }
    EXPECT_TRUE(node.engine->status().failures.empty());
    EXPECT_FALSE(node.rebooter.requested);
    // The state itself is told first.
    for (auto report = node.engine->DueReport(); report && report->reason.empty();
         report = node.engine->DueReport()) {
      node.engine->OnReportAccepted(*report);
    }
    const auto report = node.engine->DueReport();
    ASSERT_TRUE(report.has_value());
    EXPECT_EQ(report->reason, "ESP_FULL");
    EXPECT_EQ(report->version, "2.0");
    node.engine->OnReportAccepted(*report);
    EXPECT_FALSE(node.engine->DueReport().has_value());
    node.Reboot();
    EXPECT_EQ(node.esp.running_version, "1.0");
    for (int i = 0; i < 6; ++i) node.Round("2.0");
    EXPECT_EQ(node.esp.running_version, "2.0");
  }
}

TEST(UpdateEngine, WaitsForRoomOnTheStatePartition) {
  UpdateNode node;
  node.fetcher = std::make_unique<ContentFetcher>(
      node.content, node.temp() / "content",
      ContentFetcherOptions{.slice_bytes = 4096, .reserve_bytes = std::uint64_t{1} << 60});
  node.Start();
  Wish(node, "2.0");
  for (int i = 0; i < 5; ++i) {
    node.Settle();
    node.Pass(minutes(15));
  }
  EXPECT_EQ(node.state(), UpdateState::kFetching);
  EXPECT_TRUE(node.engine->status().failures.empty());
  const auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->reason, "DISK_FULL");
}

// A disk of this machine is no connection that comes back by itself: the rollout must not wait for it
// silently.
TEST(UpdateEngine, CountsAndReportsTroubleWithItsOwnDisks) {
  for (const Reason reason : {Reason::kEspIo, Reason::kFileUnwritable, Reason::kStateIo}) {
    for (Status TestStager::*failing : {&TestStager::fail_stage, &TestStager::fail_activate}) {
      UpdateNode node;
      (*node.stager).*failing = MakeError(Code::kUnavailable, reason, "read-only file system");
      Wish(node, "2.0");
      for (int i = 0; i < 5; ++i) {
        node.Settle();
        node.Pass(minutes(15));
      }
      EXPECT_EQ(node.state(), UpdateState::kIdle);
      const auto report = node.engine->DueReport();
      ASSERT_TRUE(report.has_value());
      EXPECT_EQ(report->reason, ReasonId(reason));
      EXPECT_EQ(report->version, "2.0");
    }
  }
}

TEST(UpdateEngine, ReportsATrialThatItCannotEnd) {
  UpdateNode node;
  for (int i = 0; i < 1; ++i) node.Round("2.0");
  node.stager->fail_bless = MakeError(Code::kUnavailable, Reason::kEspIo, "read-only file system");
  node.Settle();
  auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  node.engine->OnReportAccepted(*report);
  node.Settle();
  ASSERT_EQ(node.state(), UpdateState::kBlessed);
  node.Pass(minutes(1));
  node.Settle();
  report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->reason, "ESP_IO");
}

TEST(UpdateEngine, GivesUpArmingThatNeverWorks) {
  UpdateNode node;
  node.stager->fail_activate = MakeError(Code::kUnavailable, Reason::kEspIo, "disk away");
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

// Answers for a disk; remembers what it was asked about.
class ScriptedUnlock final : public UnlockCheck {
 public:
  Status WillUnlock(const StagedImage& image, const NextEvents&) override {
    asked.push_back(image.version());
    return answer;
  }
  Status answer;
  std::vector<std::string> asked;
};

TEST(UpdateEngine, AnImageThatWouldLeaveTheDiskClosedIsNeverArmed) {
  UpdateNode node;
  ScriptedUnlock unlock;
  unlock.answer = MakeError(Code::kFailedPrecondition, Reason::kVolumeWouldStayLocked,
                            "prove that the image unlocks: no");
  node.unlock = &unlock;
  node.Start();
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(unlock.asked, std::vector<std::string>{"2.0"});
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures.front().reason, "VOLUME_WOULD_STAY_LOCKED");
  EXPECT_EQ(node.esp.running_version, "1.0");
  EXPECT_FALSE(node.rebooter.requested);
}

TEST(UpdateEngine, ProvesOnceAProcessThatTheStagedImageUnlocksAndWaitsWhereItCannotTell) {
  UpdateNode node;
  ScriptedUnlock unlock;
  unlock.answer = MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "read PCRs: no TPM");
  node.unlock = &unlock;
  node.Start();
  Wish(node, "2.0");
  StepTo(node, UpdateState::kStaged);
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kStaged);
  unlock.answer = OkStatus();
  unlock.asked.clear();
  node.Pass(minutes(15));
  for (int i = 0; i < 6; ++i) node.Round("2.0");
  EXPECT_EQ(node.esp.running_version, "2.0");
  EXPECT_EQ(unlock.asked, std::vector<std::string>{"2.0"});
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

// dbx may have grown while an image waited.
TEST(UpdateEngine, ChecksAStagedImageAgainInANewProcess) {
  UpdateNode node;
  Wish(node, "2.0");
  StepTo(node, UpdateState::kStaged);
  node.Start();
  node.stager->fail_verify = MakeError(Code::kUnauthenticated, Reason::kImageRevoked, "in dbx now");
  Wish(node, "2.0");
  node.Settle();
  EXPECT_EQ(node.state(), UpdateState::kIdle);
  EXPECT_FALSE(node.rebooter.requested);
  EXPECT_EQ(node.esp.VersionOf("active.conf"), "1.0");
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures[0].reason, "IMAGE_REVOKED");
}

TEST(UpdateEngine, ChecksAStagedImageAgainAfterItWasHeldUp) {
  for (const UpdateState state : {UpdateState::kStaged, UpdateState::kArmed}) {
    UpdateNode node;
    Wish(node, "2.0");
    StepTo(node, UpdateState::kStaged);
    if (state == UpdateState::kStaged) {
      node.place.disk->fail_next = MakeError(Code::kUnavailable, Reason::kStateIo, "disk away");
    } else {
      node.stager->fail_activate = MakeError(Code::kUnavailable, Reason::kEspIo, "disk away");
    }
    EXPECT_FALSE(node.engine->Tick().busy);
    ASSERT_EQ(node.state(), state);
    node.stager->fail_activate = OkStatus();
    node.stager->fail_verify = MakeError(Code::kUnauthenticated, Reason::kImageRevoked, "in dbx now");
    node.Pass(minutes(15));
    node.Settle();
    EXPECT_EQ(node.state(), UpdateState::kIdle) << UpdateStateName(state);
    EXPECT_FALSE(node.rebooter.requested);
    EXPECT_EQ(node.esp.VersionOf("active.conf"), "1.0");
  }
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
    // The record is dropped; the version, which is a good one, is not held against it.
    EXPECT_TRUE(node.engine->status().failures.empty());
    for (int i = 0; i < 6; ++i) node.Round("2.0");
    EXPECT_EQ(node.esp.running_version, "2.0");
  }
}

TEST(UpdateEngine, TakesNoVerdictOnAVersionFromASource) {
  for (const Reason reason : {Reason::kImageRevoked, Reason::kReleaseMixed, Reason::kEspFull}) {
    UpdateNode node;
    node.content.fail = FromWire(Code::kInvalidArgument, ReasonId(reason), "so I say");
    Wish(node, "2.0");
    for (int i = 0; i < 5; ++i) {
      node.Settle();
      node.Pass(minutes(15));
    }
    EXPECT_EQ(node.state(), UpdateState::kFetching);
    EXPECT_TRUE(node.engine->status().failures.empty());
    const auto report = node.engine->DueReport();
    ASSERT_TRUE(report.has_value());
    EXPECT_EQ(report->reason, ReasonId(reason));
  }
}

TEST(UpdateEngine, GivesUpAReleaseThatIsUnusableInItself) {
  UpdateNode node;
  node.catalog.unusable = MakeError(Code::kInvalidArgument, Reason::kReleaseMixed, "two images");
  Wish(node, "2.0");
  node.Settle();
  ASSERT_EQ(node.engine->status().failures.size(), 1u);
  EXPECT_EQ(node.engine->status().failures[0].reason, "RELEASE_MIXED");
}

TEST(UpdateEngine, HoldsWhileTheControllerNamesAnotherReleaseIdThanTheSignedOne) {
  UpdateNode node;
  node.catalog.fail = MakeError(Code::kInvalidArgument, Reason::kReleaseMixed, "another release id");
  Wish(node, "2.0");
  node.Settle();
  EXPECT_TRUE(node.engine->status().failures.empty());
  const auto report = node.engine->DueReport();
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->reason, "RELEASE_MIXED");
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

}  // namespace
}  // namespace sealift::agent
