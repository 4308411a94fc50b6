#include "controller/publish/content_keeper.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "shared/delta/content_list.h"
#include "tests/unit/controller/publish/publish_fixture.h"

namespace sealift::controller {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

class KeeperTest : public PublishTest {
 protected:
  Result<Collected> Collect(bool dry_run = false) {
    return ContentKeeper(folder_.path() / "content", folder_.path() / "tuf", *content_, 1h).Collect(dry_run);
  }
  // As if nobody had asked for anything for long.
  void AgeAll() {
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path() / "content/objects")) {
      const timespec old[2] = {{.tv_sec = 1000, .tv_nsec = 0}, {.tv_sec = 1000, .tv_nsec = 0}};
      if (entry.is_regular_file()) {
        ASSERT_EQ(::utimensat(AT_FDCWD, entry.path().c_str(), old, 0), 0);
      }
    }
  }
  Sha256Digest Put(const std::string& text) {
    const Sha256Digest digest = Sha256(AsBytes(text));
    EXPECT_TRUE(content_->Put(digest, AsBytes(text)).ok());
    return digest;
  }
  void ExpectAllHere() {
    const auto seen = Refresh();
    ASSERT_TRUE(seen.ok()) << Describe(seen.status());
    for (const auto& [name, target] : seen->targets().targets)
      EXPECT_TRUE(content_->Read(target.sha256).ok()) << name;
  }
  void FlipByteOf(const fs::path& path) {
    std::string text = ReadTextFile(path).value();
    text[text.find("sha256") + 12] ^= 1;
    ASSERT_TRUE(WriteFileAtomically(path, AsBytes(text)).ok());
  }
};

TEST_F(KeeperTest, KeepsWhatIsPublishedAndNothingElse) {
  ASSERT_TRUE(Publish("1.0").ok());
  ASSERT_TRUE(Publish("1.1").ok());
  const Sha256Digest garbage = Put("of a publication that was given up");
  AgeAll();
  EXPECT_EQ(Collect(true)->objects, 1u);
  EXPECT_TRUE(content_->Size(garbage).ok());
  EXPECT_EQ(Collect()->objects, 1u);
  EXPECT_FALSE(content_->Size(garbage).ok());
  ExpectAllHere();
}

TEST_F(KeeperTest, FilesOfAWithdrawnReleaseGoItsManifestStays) {
  ASSERT_TRUE(Publish("1.0").ok());
  ASSERT_TRUE(Publish("1.1").ok());
  const auto before = Refresh();
  ASSERT_TRUE(before.ok());
  LocalUploader uploader(*repository_, *content_);
  ASSERT_TRUE(PublishWithdrawal({.channel = "stable", .version = "1.1", .because = "test"}, root_json_,
                                state_, *signers_[tuf::Role::kTargets], uploader, clock_)
                  .ok());
  AgeAll();
  // The image; the boot loader is that of 1.0, too.
  EXPECT_EQ(Collect()->objects, 1u);
  EXPECT_FALSE(content_->Size(before->Find("stable/1.1/EFI/kairos/norole.efi")->sha256).ok());
  EXPECT_TRUE(content_->Size(before->Find("stable/1.1/EFI/BOOT/BOOTX64.EFI")->sha256).ok());
  EXPECT_TRUE(repository_->LoadRelease("stable", "1.1").ok());
}

TEST_F(KeeperTest, WithoutMetadataOrWithADamagedFileNothingGoes) {
  const Sha256Digest object = Put("all there is");
  AgeAll();
  EXPECT_EQ(ReasonOf(Collect().status()), Reason::kRepositoryEmpty);
  ASSERT_TRUE(Publish("1.0").ok());
  AgeAll();
  for (const char* name : {"1.targets.json", "1.snapshot.json"}) {
    const fs::path path = folder_.path() / "tuf" / name;
    const std::string good = ReadTextFile(path).value();
    FlipByteOf(path);
    EXPECT_EQ(ReasonOf(Collect().status()), Reason::kRepositoryDamaged) << name;
    fs::remove(path);
    EXPECT_EQ(ReasonOf(Collect().status()), Reason::kRepositoryDamaged) << name;
    ASSERT_TRUE(WriteFileAtomically(path, AsBytes(good)).ok());
  }
  EXPECT_TRUE(content_->Size(object).ok());
  EXPECT_EQ(Collect()->objects, 1u);
}

TEST_F(KeeperTest, PublishedTargetsAreAskedForSoThatACollectionBesideThemWaits) {
  // Everything was uploaded long ago; PublishTargets is called now, a collection has read the metadata
  // before.
  const fs::path build = Build("2.0");
  LocalUploader uploader(*repository_, *content_);
  ASSERT_TRUE(Publish("1.0").ok());
  const std::set<Sha256Digest> old_view =
      ReachableContent({*ServedTargets(folder_.path() / "tuf")}, *content_).value();
  class Late final : public Uploader {
   public:
    Late(LocalUploader& inner, std::function<void()> before) : inner_(inner), before_(std::move(before)) {}
    Result<UploadResult> Upload(const std::vector<UploadObject>& objects,
                                const std::function<void(std::uint64_t)>& progress) override {
      return inner_.Upload(objects, progress);
    }
    Result<PublishedVersions> PublishTargets(std::string_view targets_json) override {
      before_();
      return inner_.PublishTargets(targets_json);
    }
    Result<PublishedVersions> ImportRelease(const ReleaseImport& release) override {
      return inner_.ImportRelease(release);
    }
    tuf::MetadataSource& metadata() override { return inner_.metadata(); }
    content::ContentSource& content() override { return inner_.content(); }

   private:
    LocalUploader& inner_;
    std::function<void()> before_;
  } late(uploader, [this] { AgeAll(); });
  ASSERT_TRUE(PublishRelease({.build_directory = build, .channel = "stable", .progress = {}}, root_json_,
                             state_, *signers_[tuf::Role::kTargets], late, clock_)
                  .ok());
  EXPECT_EQ(CollectContent(folder_.path() / "content", old_view, 1h)->objects, 0u);
  ExpectAllHere();
}

}  // namespace
}  // namespace sealift::controller
