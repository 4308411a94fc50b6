#include "controller/publish/release_publisher.h"

#include "shared/delta/content_list.h"
#include "tests/unit/controller/publish/publish_fixture.h"

namespace sealift::controller {
namespace {

TEST_F(PublishTest, ReleaseIsPublishedListedAndLoaded) {
  const Result<PublishOutcome> outcome = Publish("1.0");
  ASSERT_TRUE(outcome.ok()) << Describe(outcome.status());
  EXPECT_EQ(outcome->upload.stored, 3u);
  EXPECT_EQ(outcome->versions.targets, 1u);
  const std::vector<ListedRelease> releases = repository_->Releases();
  ASSERT_EQ(releases.size(), 1u);
  EXPECT_EQ(releases[0].id, outcome->id);
  EXPECT_EQ(releases[0].total_bytes, outcome->total_bytes);
  EXPECT_EQ(releases[0].published, clock_.Now());
  const Result<PublishedRelease> loaded = repository_->LoadRelease("stable", "1.0");
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->manifest().channel, "stable");
  EXPECT_EQ(ReasonOf(repository_->LoadRelease("stable", "2.0").status()), Reason::kTufTargetUnknown);
  EXPECT_EQ(Refresh()->Find("stable/1.0/EFI/kairos/norole.efi")->sha256, Sha256(AsBytes("uki 1.0")));
}

TEST_F(PublishTest, AControllerWhoseSigningJournalWasCutIsToldOf) {
  const std::string place =
      R"({"journal":"0123456789abcdef0123456789abcdef","head":")" + Sha256({}).hex() + "\"";
  std::string text = place + R"(,"sequence":9})";
  checkpoint_ = [&text] { return text; };
  repository_.reset();
  repository_ = OpenRepository().value();
  EXPECT_EQ(ReasonIdOf(Publish("1.0")->journal), "NONE");
  text = place + R"(,"sequence":8})";
  EXPECT_EQ(ReasonIdOf(Publish("1.1")->journal), "JOURNAL_SHORT");
  EXPECT_EQ(repository_->Releases().size(), 2u);
}

TEST_F(PublishTest, SecondReleaseKeepsTheFirstAndUploadsOnlyWhatIsNew) {
  ASSERT_TRUE(Publish("1.0").ok());
  const Result<PublishOutcome> outcome = Publish("1.10");
  ASSERT_TRUE(outcome.ok()) << Describe(outcome.status());
  EXPECT_EQ(outcome->upload.known, 1u) << "the boot loader did not change";
  ASSERT_TRUE(Publish("1.9", "beta").ok()) << "channels are ordered each for itself";
  std::vector<std::string> names;
  for (const ListedRelease& release : repository_->Releases())
    names.push_back(release.channel + " " + release.version);
  EXPECT_EQ(names, (std::vector<std::string>{"beta 1.9", "stable 1.0", "stable 1.10"}));
}

TEST_F(PublishTest, WhatChangedIsPublishedBesideTheFiles) {
  std::string more;
  for (int i = 0; i < 5000; ++i) more += std::to_string(i * 7919) + ",";
  const auto first = Build("1.0", more);
  const auto second = Build("1.1", more);
  LocalUploader uploader(*repository_, *content_);
  const auto outcome = PublishRelease(
      {.build_directory = second, .channel = "stable", .progress = {}, .earlier_builds = {first}}, root_json_,
      state_, *signers_[tuf::Role::kTargets], uploader, clock_);
  ASSERT_TRUE(outcome.ok()) << Describe(outcome.status());
  ASSERT_EQ(outcome->delta_bytes.size(), 1u);
  EXPECT_GT(outcome->delta_bytes[0], 0u);
  EXPECT_LT(outcome->delta_bytes[0], 400u);
  const auto targets = Refresh();
  ASSERT_TRUE(targets.ok()) << targets.status();
  const auto list_target = targets->Find("stable/1.1/content.json");
  ASSERT_TRUE(list_target.ok()) << "a node would not find it";
  const auto list =
      delta::ParseContentList(ToText(content_->ReadAll(list_target->sha256, list_target->length).value()));
  ASSERT_TRUE(list.ok());
  const auto& image = list->images.at(Sha256(AsBytes("uki 1.1" + more)));
  EXPECT_TRUE(content_->Has(image.index->digest));
  EXPECT_TRUE(content_->Has(image.deltas.at(Sha256(AsBytes("uki 1.0" + more))).digest));
  // Another image than its release.json says is no start of a delta.
  ASSERT_TRUE(WriteFileAtomically(first / "EFI/kairos/norole.efi", AsBytes("uki 1.x" + more)).ok());
  EXPECT_EQ(ReasonOf(PublishRelease({.build_directory = Build("1.2", more),
                                     .channel = "stable",
                                     .progress = {},
                                     .earlier_builds = {first}},
                                    root_json_, state_, *signers_[tuf::Role::kTargets], uploader, clock_)
                         .status()),
            Reason::kReleaseChanged);
}

TEST_F(PublishTest, VersionsAreUniqueAndOrderedWithinAChannel) {
  ASSERT_TRUE(Publish("1.2").ok());
  EXPECT_EQ(ReasonOf(Publish("1.2").status()), Reason::kReleaseExists);
  EXPECT_EQ(ReasonOf(Publish("1.1").status()), Reason::kReleaseVersionLower);
  EXPECT_EQ(ReasonOf(Publish("1.2~rc1").status()), Reason::kReleaseVersionLower);
  EXPECT_EQ(repository_->Releases().size(), 1u);
}

TEST_F(PublishTest, BuildFolderMustBeWhatItsManifestSays) {
  const auto publish = [&](const std::filesystem::path& out, const std::string& channel = "stable") {
    LocalUploader uploader(*repository_, *content_);
    return ReasonOf(PublishRelease({.build_directory = out, .channel = channel, .progress = {}}, root_json_,
                                   state_, *signers_[tuf::Role::kTargets], uploader, clock_)
                        .status());
  };
  const auto out = Build("1.0");
  EXPECT_EQ(publish(out, "a/b"), Reason::kReleaseManifestInvalid);
  EXPECT_EQ(publish(out, ""), Reason::kInvalidArgument);
  ASSERT_TRUE(WriteFileAtomically(out / "EFI/kairos/norole.efi", AsBytes("uki 1.1")).ok());
  EXPECT_EQ(publish(out), Reason::kReleaseChanged);
  std::filesystem::remove(out / "EFI/kairos/norole.efi");
  EXPECT_EQ(publish(out), Reason::kReleaseFileMissing);
  std::filesystem::remove(out / "release.json");
  EXPECT_EQ(publish(out), Reason::kFileUnreadable);
  EXPECT_TRUE(repository_->Releases().empty());
}

TEST_F(PublishTest, WrongTargetsKeyIsFoundBeforeAnythingIsUploaded) {
  signers_[tuf::Role::kTargets] = SoftwareSigner::Generate(KeyType::kEcP256).value();
  EXPECT_EQ(ReasonOf(Publish("1.0").status()), Reason::kRepositoryKeyUnknown);
  EXPECT_FALSE(content_->Has(Sha256(AsBytes("uki 1.0"))));
}

TEST_F(PublishTest, ControllerThatForgotCannotMakeUsStartOver) {
  ASSERT_TRUE(Publish("1.0").ok());
  std::filesystem::remove_all(folder_.path() / "tuf");
  repository_ = OpenRepository().value();
  EXPECT_EQ(ReasonOf(Publish("1.1").status()), Reason::kTufRollback);
}

TEST_F(PublishTest, WithdrawnReleaseIsMarkedForNodesAndStaysSo) {
  ASSERT_TRUE(Publish("1.0").ok());
  ASSERT_TRUE(Publish("1.1").ok());
  LocalUploader uploader(*repository_, *content_);
  const auto withdraw = [&](const std::string& version, const std::string& because) {
    return PublishWithdrawal({.channel = "stable", .version = version, .because = because}, root_json_,
                             state_, *signers_[tuf::Role::kTargets], uploader, clock_);
  };
  const auto versions = withdraw("1.1", "no network on r7");
  ASSERT_TRUE(versions.ok()) << Describe(versions.status());
  EXPECT_EQ(versions->targets, 3u);
  EXPECT_EQ(FindRelease(Refresh()->targets(), "stable", "1.1")->withdrawn->because, "no network on r7");
  EXPECT_EQ(ReasonOf(withdraw("1.1", "again").status()), Reason::kReleaseWithdrawn);
  EXPECT_EQ(ReasonOf(withdraw("2.0", "unknown").status()), Reason::kTufTargetUnknown);
  EXPECT_EQ(ReasonOf(Publish("1.1").status()), Reason::kReleaseExists);
  // The next publication and a restart of the controller keep it.
  ASSERT_TRUE(Publish("1.2").ok());
  repository_ = OpenRepository().value();
  LocalUploader again(*repository_, *content_);
  const tuf::Targets listed = ListedTargets(again).value();
  EXPECT_TRUE(FindRelease(listed, "stable", "1.1")->withdrawn.has_value());
  EXPECT_FALSE(FindRelease(listed, "stable", "1.2")->withdrawn.has_value());
}

// What targets version 3 said is lost with the controller; its withdrawal is remembered here.
TEST_F(PublishTest, AfterARestoreTheNextTargetsGoBeyondWhatWasSeen) {
  ASSERT_TRUE(Publish("1.0").ok());
  const std::filesystem::path kept = folder_.path() / "kept";
  std::filesystem::copy(folder_.path() / "tuf", kept);
  ASSERT_TRUE(Publish("1.1").ok());
  {
    LocalUploader uploader(*repository_, *content_);
    ASSERT_TRUE(PublishWithdrawal({.channel = "stable", .version = "1.0", .because = "why"}, root_json_,
                                  state_, *signers_[tuf::Role::kTargets], uploader, clock_)
                    .ok());
  }
  ASSERT_TRUE(Refresh().ok());
  std::filesystem::remove_all(folder_.path() / "tuf");
  std::filesystem::rename(kept, folder_.path() / "tuf");
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "tuf" / kLiftFile, AsBytes("1000")).ok());
  repository_ = OpenRepository().value();
  EXPECT_EQ(ReasonOf(Refresh().status()), Reason::kTufRollback) << "the node saw targets 3";
  EXPECT_EQ(ReasonOf(Publish("1.2").status()), Reason::kTufRollback) << "and so did the build host";
  LocalUploader uploader(*repository_, *content_);
  const auto published = PublishRelease(
      {.build_directory = Build("1.2"), .channel = "stable", .progress = {}, .after_restore = true},
      root_json_, state_, *signers_[tuf::Role::kTargets], uploader, clock_);
  ASSERT_TRUE(published.ok()) << Describe(published.status());
  EXPECT_EQ(published->versions.targets, 4u);
  EXPECT_GT(published->versions.timestamp, 1001u);
  const auto seen = Refresh();
  ASSERT_TRUE(seen.ok()) << Describe(seen.status());
  EXPECT_TRUE(FindRelease(seen->targets(), "stable", "1.2").ok());
  EXPECT_TRUE(FindRelease(seen->targets(), "stable", "1.0")->withdrawn.has_value());
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "tuf" / kLiftFile));
  ASSERT_TRUE(Publish("1.3").ok());
}

TEST_F(PublishTest, ForgedPresentTargetsAreNotExtended) {
  ASSERT_TRUE(Publish("1.0").ok());
  // The controller's own keys sign targets that list a planted object.
  class Forger final : public Uploader, private tuf::MetadataSource {
   public:
    explicit Forger(Uploader& honest) : honest_(honest) {}
    Result<UploadResult> Upload(const std::vector<UploadObject>&,
                                const std::function<void(std::uint64_t)>&) override {
      ADD_FAILURE() << "nothing may be uploaded";
      return UploadResult{};
    }
    Result<PublishedVersions> PublishTargets(std::string_view) override { return PublishedVersions{}; }
    Result<PublishedVersions> ImportRelease(const ReleaseImport&) override { return PublishedVersions{}; }
    tuf::MetadataSource& metadata() override { return *this; }
    content::ContentSource& content() override { return honest_.content(); }

   private:
    Result<std::string> Fetch(std::string_view name, std::size_t max_bytes) override {
      SEALIFT_ASSIGN_OR_RETURN(std::string text, honest_.metadata().Fetch(name, max_bytes));
      const std::size_t at = text.find("norole");
      if (at != std::string::npos) text.replace(at, 6, "planted").resize(text.size() - 1);
      return text;
    }
    Uploader& honest_;
  };
  LocalUploader honest(*repository_, *content_);
  Forger forger(honest);
  state_.files.erase("targets.json");
  const auto outcome = PublishRelease({.build_directory = Build("1.1"), .channel = "stable", .progress = {}},
                                      root_json_, state_, *signers_[tuf::Role::kTargets], forger, clock_);
  EXPECT_EQ(ReasonOf(outcome.status()), Reason::kTufMixAndMatch) << Describe(outcome.status());
}

TEST_F(PublishTest, ProgressCountsAllBytes) {
  std::uint64_t last = 0;
  std::uint64_t total = 0;
  LocalUploader uploader(*repository_, *content_);
  const auto outcome =
      PublishRelease({.build_directory = Build("1.0"),
                      .channel = "stable",
                      .progress = [&](std::uint64_t done, std::uint64_t all) { last = done, total = all; }},
                     root_json_, state_, *signers_[tuf::Role::kTargets], uploader, clock_);
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(last, outcome->total_bytes);
  EXPECT_EQ(total, outcome->total_bytes);
}

TEST(ReadObject, RefusesAFileThatGrewOrShrank) {
  const TempDir folder = TempDir::Create("read-object").value();
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "f", AsBytes("12345")).ok());
  const auto read = [&](std::uint64_t size) {
    std::string all;
    const Status status = ReadObject({.digest = {}, .size = size, .file = folder.path() / "f", .bytes = {}},
                                     2, [&](ByteView piece) { return all += AsText(piece), OkStatus(); });
    return status.ok() ? all : ReasonIdOf(status);
  };
  EXPECT_EQ(read(5), "12345");
  EXPECT_EQ(read(4), "RELEASE_CHANGED");
  EXPECT_EQ(read(6), "RELEASE_CHANGED");
}

}  // namespace
}  // namespace sealift::controller
