#include "controller/publish/earlier_releases.h"

#include "shared/delta/content_list.h"
#include "tests/unit/controller/publish/publish_fixture.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

class EarlierReleasesTest : public PublishTest {
 protected:
  EarlierReleases Fetch(std::size_t count, const std::set<Sha256Digest>& but = {}) {
    LocalUploader uploader(*repository_, *content_);
    return FetchEarlierReleases(Seen().targets(), "stable", count, but, uploader.content(),
                                folder_.path() / "work");
  }
  tuf::VerifiedTargets Seen() {
    auto seen = Refresh();
    SEALIFT_CHECK(seen.ok());
    return *std::move(seen);
  }
  Sha256Digest ImageOf(const std::string& version) {
    return Seen().Find("stable/" + version + "/EFI/kairos/norole.efi")->sha256;
  }
  Result<PublishOutcome> PublishAgainst(const std::string& version, std::size_t count) {
    LocalUploader uploader(*repository_, *content_);
    return PublishRelease({.build_directory = Build(version), .channel = "stable", .delta_against = count},
                          root_json_, state_, *signers_[tuf::Role::kTargets], uploader, clock_);
  }
};

TEST_F(EarlierReleasesTest, TheNewestOfTheChannelThatAreOffered) {
  for (const char* version : {"1.2", "1.9", "1.10", "1.11"}) ASSERT_TRUE(Publish(version).ok());
  ASSERT_TRUE(Publish("7.0", "testing").ok());
  LocalUploader uploader(*repository_, *content_);
  ASSERT_TRUE(PublishWithdrawal({.channel = "stable", .version = "1.11", .because = "test"}, root_json_,
                                state_, *signers_[tuf::Role::kTargets], uploader, clock_)
                  .ok());
  const EarlierReleases earlier = Fetch(2);
  EXPECT_EQ(earlier.versions, (std::vector<std::string>{"1.10", "1.9"}));
  EXPECT_TRUE(earlier.left_out.empty());
  for (std::size_t i = 0; i < earlier.folders.size(); ++i)
    EXPECT_EQ(ReadTextFile(earlier.folders[i] / "EFI/kairos/norole.efi").value(),
              "uki " + earlier.versions[i]);
  EXPECT_TRUE(Fetch(0).folders.empty());
}

TEST_F(EarlierReleasesTest, OneThatIsAtHandIsNotFetchedAndOneThatIsGoneIsLeftOut) {
  for (const char* version : {"1.0", "1.1", "1.2"}) ASSERT_TRUE(Publish(version).ok());
  const std::string hex = ImageOf("1.1").hex();
  fs::remove(folder_.path() / "content/objects" / hex.substr(0, 2) / hex);
  const EarlierReleases earlier = Fetch(3, {ImageOf("1.0")});
  EXPECT_EQ(earlier.versions, (std::vector<std::string>{"1.2"}));
  ASSERT_EQ(earlier.left_out.size(), 1u);
  EXPECT_EQ(earlier.left_out[0].version, "1.1");
  EXPECT_EQ(ReasonOf(earlier.left_out[0].because), Reason::kContentUnknown);
}

TEST_F(EarlierReleasesTest, APublicationNeedsNoFoldersForItsDeltas) {
  ASSERT_TRUE(PublishAgainst("1.0", 2).ok());
  EXPECT_FALSE(Seen().Find("stable/1.0/content.json").ok());
  for (const char* version : {"1.1", "1.2", "1.3"}) {
    const auto outcome = PublishAgainst(version, 2);
    ASSERT_TRUE(outcome.ok()) << Describe(outcome.status());
    EXPECT_TRUE(outcome->left_out.empty()) << Describe(outcome->left_out.front().because);
  }
  const auto target = Seen().Find("stable/1.3/content.json");
  ASSERT_TRUE(target.ok());
  const auto list = delta::ParseContentList(AsText(content_->ReadAll(target->sha256, 100'000).value()));
  ASSERT_TRUE(list.ok()) << Describe(list.status());
  // These images are too small for a delta to be worth it; that there is an index shows that both were
  // compared.
  EXPECT_TRUE(list->images.at(ImageOf("1.3")).index.has_value());
}

TEST_F(EarlierReleasesTest, WithoutThemThePublicationGoesOn) {
  for (const char* version : {"1.0", "1.1"}) ASSERT_TRUE(Publish(version).ok());
  const std::string hex = ImageOf("1.1").hex();
  // Damaged where it lies.
  const fs::path object = folder_.path() / "content/objects" / hex.substr(0, 2) / hex;
  fs::permissions(object, fs::perms(0644));
  ASSERT_TRUE(WriteFileAtomically(object, AsBytes("uki 6.6")).ok());
  const auto outcome = PublishAgainst("1.2", 1);
  ASSERT_TRUE(outcome.ok()) << Describe(outcome.status());
  ASSERT_EQ(outcome->left_out.size(), 1u);
  EXPECT_EQ(ReasonOf(outcome->left_out[0].because), Reason::kContentDigestMismatch);
  EXPECT_TRUE(FindRelease(Seen().targets(), "stable", "1.2").ok());
}

}  // namespace
}  // namespace sealift::controller
