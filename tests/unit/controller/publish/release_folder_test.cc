#include "controller/publish/release_folder.h"

#include <algorithm>
#include <fstream>

#include "shared/delta/content_list.h"
#include "tests/unit/controller/publish/publish_fixture.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class ReleaseFolderTest : public PublishTest {
 protected:
  ReleaseFolderTest() {
    // A second controller with the same root of trust and its own place.
    far_content_ = ContentStore::Open(folder_.path() / "far-content").value();
    far_ = TufRepository::Open({.directory = folder_.path() / "far-tuf"}, root_json_,
                               {signers_[tuf::Role::kSnapshot], signers_[tuf::Role::kTimestamp]},
                               *far_content_, clock_)
               .value();
  }
  fs::path Export(const std::string& version) {
    const fs::path place = folder_.path() / ("export-" + version + "-" + std::to_string(++exports_));
    LocalUploader here(*repository_, *content_);
    const auto exported =
        ExportRelease({.channel = "stable", .version = version, .folder = place}, root_json_, here, clock_);
    EXPECT_TRUE(exported.ok()) << Describe(exported.status());
    return place;
  }
  Status Import(const fs::path& place) {
    SEALIFT_ASSIGN_OR_RETURN(const ReleaseFolder release, OpenReleaseFolder(place, root_json_));
    LocalUploader there(*far_, *far_content_);
    return ImportReleaseFolder(release, there, {}).status();
  }
  static std::vector<fs::path> FilesOf(const fs::path& place) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(place))
      if (entry.is_regular_file()) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    return files;
  }
  // What nodes of the second controller see.
  Result<tuf::VerifiedTargets> FarTargets() {
    LocalUploader there(*far_, *far_content_);
    tuf::MemoryStore none;
    return tuf::TufClient(root_json_, there.metadata(), none, clock_).Refresh();
  }

  tuf::VerifiedTargets Far() {
    auto seen = FarTargets();
    SEALIFT_CHECK(seen.ok());
    return *std::move(seen);
  }
  tuf::VerifiedTargets Seen() {
    auto seen = Refresh();
    SEALIFT_CHECK(seen.ok());
    return *std::move(seen);
  }

  std::unique_ptr<ContentStore> far_content_;
  std::unique_ptr<TufRepository> far_;
  int exports_ = 0;
};

TEST_F(ReleaseFolderTest, TravelsWithTheSignaturesOfWhoMadeIt) {
  ASSERT_TRUE(Publish("1.0").ok());
  ASSERT_TRUE(Publish("1.1").ok());
  const fs::path place = Export("1.1");
  // Timestamps are old when they arrive.
  clock_.Advance(72h);
  ASSERT_TRUE(repository_->RefreshIfDue().ok());
  ASSERT_TRUE(Import(place).ok()) << Describe(Import(place));
  const auto seen = FarTargets();
  ASSERT_TRUE(seen.ok()) << Describe(seen.status());
  EXPECT_EQ(FindRelease(seen->targets(), "stable", "1.1")->id,
            FindRelease(Seen().targets(), "stable", "1.1")->id);
  EXPECT_TRUE(far_content_->Read(seen->Find("stable/1.1/EFI/kairos/norole.efi")->sha256).ok());
  EXPECT_TRUE(far_->CheckComplete("stable", "1.1").ok());
  // The other one is listed, too; its files did not come.
  EXPECT_TRUE(far_->LoadRelease("stable", "1.0").ok());
  EXPECT_EQ(ReasonOf(far_->CheckComplete("stable", "1.0")), Reason::kContentUnknown);
  // They may come later, from the same targets; and again.
  ASSERT_TRUE(Import(Export("1.0")).ok());
  EXPECT_TRUE(far_->CheckComplete("stable", "1.0").ok());
  EXPECT_TRUE(Import(place).ok());
}

TEST_F(ReleaseFolderTest, OlderExportsAndWithdrawnReleases) {
  ASSERT_TRUE(Publish("1.0").ok());
  const fs::path first = Export("1.0");
  ASSERT_TRUE(Publish("1.1").ok());
  ASSERT_TRUE(Import(Export("1.1")).ok());
  const std::uint32_t version = Far().targets().version;
  // Nothing goes back: the present targets list it, its files come.
  EXPECT_TRUE(Import(first).ok());
  EXPECT_EQ(Far().targets().version, version);
  LocalUploader here(*repository_, *content_);
  ASSERT_TRUE(PublishWithdrawal({.channel = "stable", .version = "1.0", .because = "test"}, root_json_,
                                state_, *signers_[tuf::Role::kTargets], here, clock_)
                  .ok());
  EXPECT_EQ(ReasonOf(ExportRelease({.channel = "stable", .version = "1.0", .folder = folder_.path() / "no"},
                                   root_json_, here, clock_)
                         .status()),
            Reason::kReleaseWithdrawn);
  // The withdrawal travels with the next export, and what was exported before is refused.
  ASSERT_TRUE(Import(Export("1.1")).ok());
  EXPECT_TRUE(FindRelease(Far().targets(), "stable", "1.0")->withdrawn.has_value());
  EXPECT_EQ(ReasonOf(Import(first)), Reason::kReleaseWithdrawn);
}

TEST_F(ReleaseFolderTest, ContentListsTravelWithWhatTheyName) {
  const std::string delta = "a delta";
  delta::ContentList list;
  list.images[{}].deltas[{}] = {.digest = Sha256(AsBytes(delta)), .size = delta.size()};
  const std::string json = SerializeContentList(list);
  for (const std::string& text : {delta, json})
    ASSERT_TRUE(content_->Put(Sha256(AsBytes(text)), AsBytes(text)).ok());
  ASSERT_TRUE(Publish("1.0").ok());
  tuf::Targets targets = Seen().targets();
  ++targets.version;
  targets.targets["stable/1.0/content.json"] = {
      .length = json.size(), .sha256 = Sha256(AsBytes(json)), .custom = {}};
  tuf::Envelope envelope = tuf::MakeEnvelope(targets);
  ASSERT_TRUE(tuf::SignMetadata(tuf::Role::kTargets, envelope, *signers_[tuf::Role::kTargets], "test").ok());
  ASSERT_TRUE(repository_->PublishTargets(envelope.Serialize()).ok());
  const fs::path place = Export("1.0");
  ASSERT_TRUE(Import(place).ok());
  EXPECT_TRUE(far_content_->Read(Sha256(AsBytes(delta))).ok());
  fs::remove(place / "objects" / Sha256(AsBytes(delta)).hex());
  EXPECT_EQ(ReasonOf(OpenReleaseFolder(place, root_json_).status()), Reason::kReleaseArchiveInvalid);
}

TEST_F(ReleaseFolderTest, EveryFlippedByteIsRefusedAndNothingIsStored) {
  ASSERT_TRUE(Publish("1.0").ok());
  const fs::path place = Export("1.0");
  std::size_t tried = 0;
  for (const fs::path& file : FilesOf(place)) {
    const Bytes good = ReadFile(file).value();
    for (std::size_t at = 0; at < good.size(); ++at) {
      Bytes bad = good;
      bad[at] ^= static_cast<std::uint8_t>(1u << (at % 8));
      std::ofstream(file, std::ios::binary) << AsText(bad);
      const Status status = Import(place);
      EXPECT_FALSE(status.ok()) << file << " byte " << at;
      ++tried;
    }
    ASSERT_TRUE(WriteFileAtomically(file, good).ok());
  }
  EXPECT_GT(tried, 3000u);
  EXPECT_TRUE(FilesOf(folder_.path() / "far-content").empty());
  EXPECT_EQ(FarTargets().status().code(), Code::kNotFound);
  EXPECT_TRUE(Import(place).ok());
}

TEST_F(ReleaseFolderTest, MissingAndForeignFilesAreRefused) {
  ASSERT_TRUE(Publish("1.0").ok());
  const fs::path place = Export("1.0");
  for (const fs::path& file : FilesOf(place)) {
    const Bytes good = ReadFile(file).value();
    fs::remove(file);
    EXPECT_EQ(ReasonOf(Import(place)), Reason::kReleaseArchiveInvalid) << file;
    fs::create_symlink("/etc/hostname", file);
    EXPECT_EQ(ReasonOf(Import(place)), Reason::kReleaseArchiveInvalid) << file;
    fs::remove(file);
    ASSERT_TRUE(WriteFileAtomically(file, ByteView(good).first(good.size() - 1)).ok());
    EXPECT_EQ(ReasonOf(Import(place)), Reason::kReleaseArchiveInvalid) << file;
    ASSERT_TRUE(WriteFileAtomically(file, good).ok());
  }
  for (const char* more : {"more", "metadata/2.root.json", "objects/00"}) {
    ASSERT_TRUE(WriteFileAtomically(place / more, AsBytes("x")).ok());
    EXPECT_EQ(ReasonOf(Import(place)), Reason::kReleaseArchiveInvalid) << more;
    fs::remove(place / more);
  }
  EXPECT_TRUE(Import(place).ok());
}

TEST_F(ReleaseFolderTest, AnotherRootTrustsNoneOfIt) {
  ASSERT_TRUE(Publish("1.0").ok());
  const fs::path place = Export("1.0");
  for (const tuf::Role role :
       {tuf::Role::kTargets, tuf::Role::kSnapshot, tuf::Role::kTimestamp, tuf::Role::kRoot})
    signers_[role] = SoftwareSigner::Generate(KeyType::kEcP256).value();
  EXPECT_EQ(ReasonOf(OpenReleaseFolder(place, SignedRoot(1, *signers_[tuf::Role::kRoot])).status()),
            Reason::kTufSignatureThreshold);
}

TEST_F(ReleaseFolderTest, RootsThatFollowedTravel) {
  ASSERT_TRUE(Publish("1.0").ok());
  ASSERT_TRUE(repository_->AddRoot(SignedRoot(2, *signers_[tuf::Role::kRoot])).ok());
  ASSERT_TRUE(Publish("1.1").ok());
  ASSERT_TRUE(Import(Export("1.1")).ok());
  const auto seen = FarTargets();
  ASSERT_TRUE(seen.ok()) << Describe(seen.status());
  EXPECT_EQ(seen->root_version(), 2u);
}

}  // namespace
}  // namespace sealift::controller
