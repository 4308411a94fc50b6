#include "controller/publish/tuf_repository.h"

#include <atomic>
#include <thread>

#include "tests/unit/controller/publish/publish_fixture.h"

namespace sealift::controller {
namespace {

class TufRepositoryTest : public PublishTest {
 protected:
  // Targets of the given version that list one stored object.
  std::string Targets(std::uint32_t version, const std::function<void(tuf::Targets&)>& bend = {}) {
    tuf::Targets targets{.version = version, .expires = tuf::At("2031-01-01T00:00:00Z"), .targets = {}};
    targets.targets["other/object"] = {.length = 3, .sha256 = Sha256(AsBytes("abc")), .custom = {}};
    if (bend) bend(targets);
    tuf::Envelope file = tuf::MakeEnvelope(targets);
    SEALIFT_CHECK(tuf::SignMetadata(tuf::Role::kTargets, file, *signers_[tuf::Role::kTargets], "test").ok());
    return file.Serialize();
  }
  void StoreObject() { ASSERT_TRUE(content_->Put(Sha256(AsBytes("abc")), AsBytes("abc")).ok()); }
};

TEST_F(TufRepositoryTest, IsEmptyBeforeTheFirstPublication) {
  EXPECT_EQ(ReasonOf(repository_->ReadMetadata("timestamp.json").status()), Reason::kRepositoryEmpty);
  EXPECT_EQ(repository_->ReadMetadata("1.root.json").value(), root_json_);
  EXPECT_TRUE(repository_->Releases().empty());
  EXPECT_FALSE(repository_->RefreshIfDue().value());
}

TEST_F(TufRepositoryTest, PublishesTargetsThatAClientTakes) {
  StoreObject();
  const Result<PublishedVersions> versions = repository_->PublishTargets(Targets(1));
  ASSERT_TRUE(versions.ok()) << Describe(versions.status());
  EXPECT_EQ(versions->snapshot, 1u);
  EXPECT_EQ(versions->timestamp, 1u);
  const Result<tuf::VerifiedTargets> seen = Refresh();
  ASSERT_TRUE(seen.ok()) << Describe(seen.status());
  EXPECT_EQ(seen->Find("other/object")->sha256, Sha256(AsBytes("abc")));
  EXPECT_EQ(seen->timestamp().signed_at, clock_.Now());
}

TEST_F(TufRepositoryTest, RefusesTargetsAndKeepsWhatItHad) {
  StoreObject();
  ASSERT_TRUE(repository_->PublishTargets(Targets(2)).ok());
  const std::string before = repository_->ReadMetadata("timestamp.json").value();
  EXPECT_EQ(ReasonOf(repository_->PublishTargets("{}").status()), Reason::kTufMalformed);
  EXPECT_EQ(ReasonOf(repository_->PublishTargets(Targets(2)).status()), Reason::kTufRollback);
  EXPECT_EQ(ReasonOf(repository_->PublishTargets(Targets(1)).status()), Reason::kTufRollback);
  EXPECT_EQ(
      ReasonOf(repository_->PublishTargets(Targets(3, [&](tuf::Targets& t) { t.expires = clock_.Now(); }))
                   .status()),
      Reason::kTufExpired);
  EXPECT_EQ(
      ReasonOf(
          repository_
              ->PublishTargets(Targets(
                  3, [](tuf::Targets& t) { t.targets["new"] = {.length = 1, .sha256 = {}, .custom = {}}; }))
              .status()),
      Reason::kContentUnknown);
  EXPECT_EQ(ReasonOf(repository_
                         ->PublishTargets(Targets(3,
                                                  [](tuf::Targets& t) {
                                                    t.targets["new"] = {.length = 4,
                                                                        .sha256 = Sha256(AsBytes("abc")),
                                                                        .custom = {}};
                                                  }))
                         .status()),
            Reason::kContentUnknown);
  EXPECT_EQ(
      ReasonOf(repository_
                   ->PublishTargets(Targets(3, [](tuf::Targets& t) { t.targets["other/object"].length = 4; }))
                   .status()),
      Reason::kReleaseChanged);
  std::swap(signers_[tuf::Role::kTargets], signers_[tuf::Role::kSnapshot]);
  EXPECT_EQ(ReasonOf(repository_->PublishTargets(Targets(3)).status()), Reason::kTufSignatureThreshold);
  EXPECT_EQ(repository_->ReadMetadata("timestamp.json").value(), before);
}

TEST_F(TufRepositoryTest, RefusesAManifestThatDisagreesWithItsTargets) {
  StoreObject();
  const auto with_manifest = [&](Manifest manifest) {
    const std::string text = SerializeManifest(manifest);
    EXPECT_TRUE(content_->Put(Sha256(AsBytes(text)), AsBytes(text)).ok());
    return Targets(1, [&](tuf::Targets& targets) {
      targets.targets["stable/1.0/manifest.json"] = {
          .length = text.size(), .sha256 = Sha256(AsBytes(text)), .custom = {}};
      targets.targets["stable/1.0/EFI/x.efi"] = {.length = 3, .sha256 = Sha256(AsBytes("abc")), .custom = {}};
    });
  };
  Manifest manifest;
  manifest.channel = "stable";
  manifest.version = "1.1";
  manifest.hardware_class = "generic";
  EXPECT_EQ(ReasonOf(repository_->PublishTargets(with_manifest(manifest)).status()), Reason::kReleaseMixed);
  manifest.version = "1.0";
  manifest.files = {{"EFI/x.efi", FileRole::kUki, Sha256(AsBytes("abd")), 3, std::nullopt}};
  EXPECT_EQ(ReasonOf(repository_->PublishTargets(with_manifest(manifest)).status()), Reason::kReleaseMixed);
  manifest.files[0].digest = Sha256(AsBytes("abc"));
  EXPECT_TRUE(repository_->PublishTargets(with_manifest(manifest)).ok());
}

TEST_F(TufRepositoryTest, GoesOnAfterARestart) {
  StoreObject();
  ASSERT_TRUE(repository_->PublishTargets(Targets(5)).ok());
  repository_ = OpenRepository().value();
  EXPECT_EQ(ReasonOf(repository_->PublishTargets(Targets(5)).status()), Reason::kTufRollback);
  const Result<PublishedVersions> versions = repository_->PublishTargets(Targets(6));
  ASSERT_TRUE(versions.ok());
  EXPECT_EQ(versions->timestamp, 2u);
  EXPECT_TRUE(Refresh().ok());
}

TEST_F(TufRepositoryTest, PublicationCutBeforeItsTimestampIsAsIfNotBegun) {
  StoreObject();
  ASSERT_TRUE(repository_->PublishTargets(Targets(1)).ok());
  const std::string timestamp = repository_->ReadMetadata("timestamp.json").value();
  ASSERT_TRUE(repository_->PublishTargets(Targets(2)).ok());
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "tuf/timestamp.json", AsBytes(timestamp)).ok());
  repository_ = OpenRepository().value();
  EXPECT_EQ(Refresh()->targets().version, 1u);
  ASSERT_TRUE(repository_->PublishTargets(Targets(2)).ok());
  EXPECT_EQ(Refresh()->targets().version, 2u);
}

TEST_F(TufRepositoryTest, DamagedMetadataIsNotServed) {
  StoreObject();
  ASSERT_TRUE(repository_->PublishTargets(Targets(1)).ok());
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "tuf/1.targets.json", AsBytes("{}")).ok());
  EXPECT_EQ(ReasonOf(OpenRepository().status()), Reason::kRepositoryDamaged);
}

TEST_F(TufRepositoryTest, RefreshSignsWhenHalfTheTimeHasPassed) {
  StoreObject();
  ASSERT_TRUE(repository_->PublishTargets(Targets(1)).ok());
  clock_.Advance(std::chrono::hours(11));
  EXPECT_FALSE(repository_->RefreshIfDue().value());
  clock_.Advance(std::chrono::hours(1));
  EXPECT_TRUE(repository_->RefreshIfDue().value());
  EXPECT_FALSE(repository_->RefreshIfDue().value());
  EXPECT_EQ(Refresh()->timestamp().version, 2u);
  EXPECT_EQ(Refresh()->snapshot_version(), 1u);
  clock_.Advance(std::chrono::hours(24 * 30));
  EXPECT_TRUE(repository_->RefreshIfDue().value());
  const Result<tuf::VerifiedTargets> seen = Refresh();
  ASSERT_TRUE(seen.ok()) << Describe(seen.status());
  EXPECT_EQ(seen->snapshot_version(), 2u);
}

TEST_F(TufRepositoryTest, TimestampCarriesTheJournalCheckpoint) {
  checkpoint_ = [] { return std::string(R"({"sequence":7})"); };
  repository_ = OpenRepository().value();
  StoreObject();
  ASSERT_TRUE(repository_->PublishTargets(Targets(1)).ok());
  EXPECT_EQ(Refresh()->timestamp().journal_checkpoint, R"({"sequence":7})");
}

TEST_F(TufRepositoryTest, RefusesKeysThatTheRootDoesNotName) {
  signers_[tuf::Role::kSnapshot] = SoftwareSigner::Generate(KeyType::kEcP256).value();
  EXPECT_EQ(ReasonOf(OpenRepository().status()), Reason::kRepositoryKeyUnknown);
}

TEST_F(TufRepositoryTest, TakesTheNextRootAndServesItToNodes) {
  StoreObject();
  ASSERT_TRUE(repository_->PublishTargets(Targets(1)).ok());
  signers_[tuf::Role::kTargets] = SoftwareSigner::Generate(KeyType::kEcP256).value();
  const std::string second = SignedRoot(2, *signers_[tuf::Role::kRoot]);
  ASSERT_TRUE(repository_->AddRoot(second).ok());
  ASSERT_TRUE(repository_->AddRoot(second).ok()) << "adding again is success";
  EXPECT_EQ(repository_->ReadMetadata("2.root.json").value(), second);
  ASSERT_TRUE(repository_->PublishTargets(Targets(2)).ok());
  EXPECT_EQ(Refresh()->root_version(), 2u);
  repository_ = OpenRepository().value();
  EXPECT_EQ(ReasonOf(repository_->AddRoot(SignedRoot(4, *signers_[tuf::Role::kRoot]))), Reason::kTufRollback);
  const auto stranger = SoftwareSigner::Generate(KeyType::kEcP256).value();
  EXPECT_EQ(ReasonOf(repository_->AddRoot(SignedRoot(3, *stranger))), Reason::kTufSignatureThreshold);
}

TEST_F(TufRepositoryTest, ReadersSeeOnePublicationOrTheNextWhileItIsMade) {
  StoreObject();
  ASSERT_TRUE(repository_->PublishTargets(Targets(1)).ok());
  std::atomic<bool> done = false;
  std::thread reader([&] {
    tuf::MemoryStore state;
    LocalUploader uploader(*repository_, *content_);
    while (!done) {
      const auto seen = tuf::TufClient(root_json_, uploader.metadata(), state, clock_).Refresh();
      EXPECT_TRUE(seen.ok()) << Describe(seen.status());
    }
  });
  for (std::uint32_t version = 2; version < 8; ++version)
    EXPECT_TRUE(repository_->PublishTargets(Targets(version)).ok());
  done = true;
  reader.join();
}

TEST_F(TufRepositoryTest, ServesMetadataNamesOnly) {
  for (const char* name :
       {"", "..", "../1.root.json", "root.json", ".root.json", "01.root.json", "1.root.json/", "1.key.json",
        "x.targets.json", "99999999999.root.json", "/etc/passwd"}) {
    EXPECT_EQ(repository_->ReadMetadata(name).status().code(), Code::kInvalidArgument) << name;
  }
  EXPECT_EQ(repository_->ReadMetadata("2.root.json").status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace sealift::controller
