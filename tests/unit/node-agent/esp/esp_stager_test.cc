#include "node-agent/esp/esp_stager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/unit/node-agent/esp/esp_fixture.h"

namespace sealift::agent {
namespace {

using testing::ElementsAre;

TEST(EspStager, SeesWhatRuns) {
  EspNode node;
  auto inventory = node.Stager().Inspect();
  ASSERT_TRUE(inventory.ok()) << Describe(inventory.status());
  EXPECT_EQ(inventory->running_role, BootRole::kActive);
  EXPECT_EQ(inventory->running_version, "1.0");
  EXPECT_EQ(inventory->running_image_path, ImagePath("1.0"));
  EXPECT_EQ(inventory->running_digest, Sha256(ImageBytes("1.0")));
  EXPECT_FALSE(inventory->running_on_trial);
  EXPECT_TRUE(inventory->secure_boot);
  EXPECT_EQ(inventory->entries.size(), 3u);
  EXPECT_TRUE(inventory->entries[0].image_present);
  EXPECT_EQ(inventory->Trial(), nullptr);
}

TEST(EspStager, StagesActivatesAndBlesses) {
  EspNode node;
  EspStager stager = node.Stager();
  auto staged = stager.Stage(node.Fetched("2.0"));
  ASSERT_TRUE(staged.ok()) << Describe(staged.status());
  EXPECT_EQ(staged->image_path(), ImagePath("2.0"));
  ASSERT_TRUE(stager.Activate(*staged, 3).ok());
  EXPECT_THAT(node.EntryNames(), ElementsAre("active+3.conf", "passive.conf", "recovery.conf"));
  EXPECT_EQ(node.VersionOf("active+3.conf"), "2.0");
  EXPECT_EQ(node.VersionOf("passive.conf"), "1.0");

  // Still this boot: what runs has not changed though no active entry names it any more.
  auto before = node.Stager().Inspect();
  ASSERT_TRUE(before.ok());
  EXPECT_EQ(before->running_version, "1.0");
  EXPECT_EQ(before->running_image_path, ImagePath("1.0"));
  EXPECT_FALSE(before->running_on_trial);

  node.CountDown("active+3.conf", "active+2-1.conf");
  node.Boot("active+3-0.conf", "2.0");
  EspStager next = node.Stager();
  auto trial = next.Inspect();
  ASSERT_TRUE(trial.ok()) << Describe(trial.status());
  EXPECT_TRUE(trial->running_on_trial);
  ASSERT_NE(trial->Trial(), nullptr);
  EXPECT_EQ(trial->Trial()->tries_left, 2u);
  EXPECT_EQ(trial->Trial()->tries_done, 1u);
  ASSERT_TRUE(next.Bless().ok());
  EXPECT_THAT(node.EntryNames(), ElementsAre("active.conf", "passive.conf", "recovery.conf"));
  EXPECT_EQ(node.VersionOf("active.conf"), "2.0");
  EXPECT_TRUE(next.Bless().ok()) << "blessing twice is no error";
  EXPECT_FALSE(next.FellBack()->has_value());
}

TEST(EspStager, TheNewEntryBootsBeforeTheOthers) {
  EspNode node;
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Activate(*stager.Stage(node.Fetched("2.0")), 3).ok());
  const auto text = [&](const char* name) {
    return ToText(*node.fs.Read(fmt::format("{}/{}", kEntriesDirectory, name), 4096));
  };
  EXPECT_EQ(text("active+3.conf"),
            fmt::format("title Test OS\nsort-key 1active\nversion 2.0\nefi {}\n", ImagePath("2.0")));
  EXPECT_EQ(
      text("passive.conf"),
      fmt::format("title Test OS (previous)\nsort-key 2passive\nversion 1.0\nefi {}\n", ImagePath("1.0")));
}

TEST(EspStager, NoticesAFallbackAndUpgradesFromPassiveWithoutTouchingIt) {
  EspNode node;
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Activate(*stager.Stage(node.Fetched("2.0")), 3).ok());
  node.CountDown("active+3.conf", "active+0-3.conf");
  node.Boot("passive.conf", "1.0");
  EspStager passive = node.Stager();
  auto fallback = passive.FellBack();
  ASSERT_TRUE(fallback.ok());
  ASSERT_TRUE(fallback->has_value());
  EXPECT_EQ((*fallback)->failed_version, "2.0");
  EXPECT_EQ((*fallback)->failed_image_path, ImagePath("2.0"));
  EXPECT_EQ((*fallback)->running_role, BootRole::kPassive);
  EXPECT_EQ(ReasonOf(passive.Bless()), Reason::kBootNotActive);

  const std::size_t before = node.fs.steps();
  ASSERT_TRUE(passive.Activate(*passive.Stage(node.Fetched("2.1")), 3).ok());
  EXPECT_GT(node.fs.steps(), before);
  EXPECT_THAT(node.EntryNames(), ElementsAre("active+3.conf", "passive.conf", "recovery.conf"));
  EXPECT_EQ(node.VersionOf("active+3.conf"), "2.1");
  EXPECT_EQ(node.VersionOf("passive.conf"), "1.0");
  EXPECT_FALSE(passive.FellBack()->has_value());
}

TEST(EspStager, DoesNotCallAnImageOnItsLastTryAFallback) {
  EspNode node;
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Activate(*stager.Stage(node.Fetched("2.0")), 1).ok());
  node.CountDown("active+1.conf", "active+0-1.conf");
  node.Boot("active+1-0.conf", "2.0");
  EspStager last_try = node.Stager();
  EXPECT_FALSE(last_try.FellBack()->has_value());
  EXPECT_TRUE(last_try.Inspect()->running_on_trial);
  EXPECT_TRUE(last_try.Bless().ok());
  EXPECT_EQ(node.VersionOf("active.conf"), "2.0");
}

TEST(EspStager, KeepsTheGoodPassiveWhileTheRunningImageIsOnTrial) {
  EspNode node;
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Activate(*stager.Stage(node.Fetched("2.0")), 3).ok());
  node.CountDown("active+3.conf", "active+2-1.conf");
  node.Boot("active+3-0.conf", "2.0");
  EspStager trial = node.Stager();
  auto staged = trial.Stage(node.Fetched("3.0"));
  ASSERT_TRUE(staged.ok());
  EXPECT_EQ(ReasonOf(trial.Activate(*staged, 3)), Reason::kBootNotBlessed);
  EXPECT_EQ(node.VersionOf("passive.conf"), "1.0");
}

TEST(EspStager, FromRecoveryTheRunningImageBecomesPassive) {
  EspNode node;
  node.Boot("recovery.conf", "0.9");
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Activate(*stager.Stage(node.Fetched("2.0")), 3).ok());
  EXPECT_EQ(node.VersionOf("active+3.conf"), "2.0");
  EXPECT_EQ(node.VersionOf("passive.conf"), "0.9");
}

TEST(EspStager, RefusesToActivateWhatRuns) {
  EspNode node;
  EspStager stager = node.Stager();
  auto staged = stager.Stage(node.Fetched("1.0"));
  ASSERT_TRUE(staged.ok());
  EXPECT_EQ(ReasonOf(stager.Activate(*staged, 3)), Reason::kImageAlreadyRunning);
}

TEST(EspStager, ChangesNothingWhenNoEntryFitsTheRunningVersion) {
  EspNode node;
  node.Boot("active.conf", "7.7");
  EspStager stager = node.Stager();
  EXPECT_EQ(ReasonOf(stager.Inspect().status()), Reason::kBootStateUnknown);
  const std::size_t before = node.fs.steps();
  EXPECT_EQ(ReasonOf(stager.Stage(node.Fetched("2.0")).status()), Reason::kBootStateUnknown);
  EXPECT_EQ(ReasonOf(stager.CollectGarbage().status()), Reason::kBootStateUnknown);
  EXPECT_EQ(node.fs.steps(), before);
}

TEST(EspStager, ChangesNothingOnInstallMedia) {
  EspNode node;
  node.PutEntry("norole.conf", BootRole::kActive, "1.0");
  node.Boot("norole.conf", "1.0");
  EspStager stager = node.Stager();
  auto inventory = stager.Inspect();
  ASSERT_TRUE(inventory.ok()) << Describe(inventory.status());
  EXPECT_EQ(inventory->running_role, BootRole::kMedia);
  EXPECT_EQ(ReasonOf(stager.Stage(node.Fetched("2.0")).status()), Reason::kBootStateUnknown);
  EXPECT_EQ(*stager.CollectGarbage(), 0u);
}

TEST(EspStager, SaysWhenTheEspIsNotThere) {
  EspNode node;
  MemoryFileSystem empty;
  EspStager stager(&empty, &node.variables,
                   {.running_version = "1.0", .boot_id = "x", .runtime_directory = "/nowhere"});
  EXPECT_EQ(ReasonOf(stager.Inspect().status()), Reason::kEspMissing);
}

TEST(EspStager, AFullEspLeavesEverythingAsItWas) {
  EspNode node;
  const auto entries = node.EntryNames();
  auto images = node.fs.List(kImagesDirectory);
  node.fs.SetCapacity(30'000);
  EspStager stager = node.Stager();
  EXPECT_EQ(ReasonOf(stager.Stage(node.Fetched("2.0")).status()), Reason::kEspFull);
  EXPECT_EQ(node.EntryNames(), entries);
  EXPECT_EQ(node.fs.List(kImagesDirectory)->size(), images->size());
}

TEST(EspStager, ADiskThatFillsUpMidwayLeavesNoTemporaryFile) {
  EspNode node;
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Inspect().ok());
  // Fault the write itself: the space check passed, somebody else took the space.
  node.fs.FailAt(2);  // MakeDirectory, Create, Write
  EXPECT_EQ(ReasonOf(stager.Stage(node.Fetched("2.0")).status()), Reason::kEspIo);
  EXPECT_EQ(node.fs.List(kImagesDirectory)->size(), 2u);
  EXPECT_TRUE(stager.Stage(node.Fetched("2.0")).ok());
}

TEST(EspStager, ADiskThatGivesBackOtherBytesIsNoticedBeforeTheNameAppears) {
  EspNode node;
  EspStager stager = node.Stager();
  node.fs.CorruptWrites(true);
  EXPECT_EQ(ReasonOf(stager.Stage(node.Fetched("2.0")).status()), Reason::kEspReadbackMismatch);
  EXPECT_EQ(node.fs.List(kImagesDirectory)->size(), 2u);
}

TEST(EspStager, AFileThatChangedAfterVerificationIsRefused) {
  EspNode node;
  EspStager stager = node.Stager();
  const VerifiedImage verified = node.Fetched("2.0");
  std::ofstream(verified.file(), std::ios::app) << "x";
  EXPECT_EQ(ReasonOf(stager.Stage(verified).status()), Reason::kImageDigestMismatch);
  EXPECT_EQ(node.fs.List(kImagesDirectory)->size(), 2u);
}

TEST(EspStager, DisarmsATrialThatDoesNotRunAndNothingElse) {
  EspNode node;
  EXPECT_TRUE(node.Stager().Disarm().ok());
  EXPECT_EQ(node.VersionOf("active.conf"), "1.0");
  ASSERT_TRUE(node.fs.Remove("loader/entries/active.conf").ok());
  node.PutEntry("passive.conf", BootRole::kPassive, "1.0");
  node.PutImage("2.0");
  node.PutEntry("active+2-1.conf", BootRole::kActive, "2.0");
  // On the trial itself: its tries stay.
  node.Boot("active+3.conf", "2.0");
  EXPECT_TRUE(node.Stager().Disarm().ok());
  EXPECT_EQ(node.VersionOf("active+2-1.conf"), "2.0");
  node.Boot("passive.conf", "1.0");
  EXPECT_TRUE(node.Stager().Disarm().ok());
  EXPECT_EQ(node.VersionOf("active+0-1.conf"), "2.0");
  EXPECT_EQ(node.VersionOf("active+2-1.conf"), "");
  const auto fallback = node.Stager().FellBack();
  ASSERT_TRUE(fallback.ok() && fallback->has_value());
  EXPECT_EQ((*fallback)->failed_version, "2.0");
  const std::size_t before = node.fs.steps();
  EXPECT_TRUE(node.Stager().Disarm().ok());
  EXPECT_EQ(node.fs.steps(), before);
}

TEST(EspStager, DisarmsNothingWhileThereIsNothingElseToBoot) {
  EspNode node;
  for (const char* name : {"active.conf", "passive.conf", "recovery.conf"}) {
    ASSERT_TRUE(node.fs.Remove(std::string("loader/entries/") + name).ok());
  }
  node.PutEntry("passive+1.conf", BootRole::kPassive, "1.0");
  node.PutImage("2.0");
  node.PutEntry("active+2-1.conf", BootRole::kActive, "2.0");
  node.Boot("passive+1.conf", "1.0");
  EXPECT_TRUE(node.Stager().Disarm().ok());
  EXPECT_EQ(node.VersionOf("active+2-1.conf"), "2.0");
}

// Room for three images and no more: the one of the last, failed upgrade has to go.
TEST(EspStager, MakesRoomByRemovingAFailedUpgrade) {
  EspNode node;
  node.PutImage("1.9");
  node.PutEntry("passive.conf", BootRole::kPassive, "1.0");
  ASSERT_TRUE(node.fs.Remove("loader/entries/active.conf").ok());
  node.PutEntry("active+0-3.conf", BootRole::kActive, "1.9");
  node.Boot("passive.conf", "1.0");
  const VerifiedImage next = node.Fetched("2.0");
  const std::uint64_t image = ImageBytes("2.0").size();
  node.fs.SetCapacity(3 * image + image / 2 + (1u << 20));
  EspStager stager = node.Stager();
  const auto staged = stager.Stage(next);
  ASSERT_TRUE(staged.ok()) << staged.status();
  EXPECT_FALSE(node.fs.Exists(RelativePath(ImagePath("1.9"))));
  EXPECT_TRUE(node.fs.Exists(RelativePath(ImagePath("1.0"))));
  EXPECT_TRUE(node.fs.Exists(RelativePath(ImagePath("0.9")))) << "recovery";
  EXPECT_EQ(node.EntryNames(), (std::vector<std::string>{"passive.conf", "recovery.conf"}));
}

TEST(EspStager, StagingAgainWritesNothing) {
  EspNode node;
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Stage(node.Fetched("2.0")).ok());
  const std::size_t before = node.fs.steps();
  ASSERT_TRUE(stager.Stage(node.Fetched("2.0")).ok());
  EXPECT_EQ(node.fs.steps(), before);
}

TEST(EspStager, ReplacesADamagedLeftoverUnlessAnEntryNamesIt) {
  EspNode node;
  EspStager stager = node.Stager();
  node.PutFile(RelativePath(ImagePath("2.0")), AsBytes("half an ima"));
  ASSERT_TRUE(stager.Stage(node.Fetched("2.0")).ok());
  node.PutFile(RelativePath(ImagePath("0.9")), AsBytes("damaged"));
  EXPECT_EQ(ReasonOf(stager.Stage(node.Fetched("0.9")).status()), Reason::kEspReadbackMismatch);
}

TEST(EspStager, CollectsOnlyImagesThatNothingNames) {
  EspNode node;
  node.PutImage("0.1");
  node.PutFile("EFI/kairos/somebody-elses.efi", AsBytes("keep"));
  node.PutFile("EFI/kairos/norole.efi", AsBytes("keep"));
  node.PutFile(fmt::format("EFI/kairos/3.0-0123456789ab.efi{}", kTemporarySuffix), AsBytes("leftover"));
  EspStager stager = node.Stager();
  auto freed = stager.CollectGarbage();
  ASSERT_TRUE(freed.ok());
  EXPECT_EQ(*freed, ImageBytes("0.1").size() + 8);
  EXPECT_TRUE(node.fs.Exists(RelativePath(ImagePath("1.0"))));
  EXPECT_TRUE(node.fs.Exists(RelativePath(ImagePath("0.9"))));
  EXPECT_TRUE(node.fs.Exists("EFI/kairos/somebody-elses.efi"));
  EXPECT_TRUE(node.fs.Exists("EFI/kairos/norole.efi"));
  EXPECT_EQ(node.fs.List(kImagesDirectory)->size(), 4u);
}

TEST(EspStager, CollectsNothingWhileAnEntryDoesNotParse) {
  EspNode node;
  node.PutImage("0.1");
  node.PutFile("loader/entries/other.conf", AsBytes(std::string_view("title x\nefi \x01\n")));
  EspStager stager = node.Stager();
  EXPECT_EQ(ReasonOf(stager.CollectGarbage().status()), Reason::kEspEntryInvalid);
  EXPECT_TRUE(node.fs.Exists(RelativePath(ImagePath("0.1"))));
}

TEST(EspStager, NeverCollectsTheRunningImageThatNoEntryNamesAnyMore) {
  EspNode node;
  EspStager stager = node.Stager();
  ASSERT_TRUE(stager.Inspect().ok());
  ASSERT_TRUE(node.fs.Remove("loader/entries/active.conf").ok());
  ASSERT_TRUE(stager.CollectGarbage().ok());
  EXPECT_TRUE(node.fs.Exists(RelativePath(ImagePath("1.0"))));
}

TEST(EspStager, FollowsPathsWhateverTheirCase) {
  EspNode node;
  node.PutFile("loader/entries/active.conf",
               AsBytes(fmt::format("# comment\n\ntitle x\nversion 1.0\r\nefi\t{}\n", ImagePath("1.0"))));
  std::string shouted = ImagePath("1.0");
  for (char& c : shouted) c = static_cast<char>(std::toupper(c));
  node.PutFile("loader/entries/passive.conf", AsBytes("version 1.0\nefi " + shouted + "\n"));
  EspStager stager = node.Stager();
  auto inventory = stager.Inspect();
  ASSERT_TRUE(inventory.ok()) << Describe(inventory.status());
  EXPECT_EQ(inventory->running_role, BootRole::kActive);
  ASSERT_TRUE(stager.CollectGarbage().ok());
  EXPECT_TRUE(node.fs.Exists(RelativePath(ImagePath("1.0"))));
}

}  // namespace
}  // namespace sealift::agent
