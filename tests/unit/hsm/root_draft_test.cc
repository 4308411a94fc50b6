// The next root, from draft to complete, and what no custodian should be made to sign.
#include "hsm/root_draft.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "shared/base/files.h"

namespace sealift::hsm {
namespace {

using tuf::Role;

const UnixMillis kNow = ParseRfc3339("2030-01-01T00:00:00Z").value();

class RootDraftTest : public testing::Test {
 protected:
  RootDraftTest() {
    std::map<Role, PublicKey> keys;
    for (const Role role : {Role::kTargets, Role::kSnapshot, Role::kTimestamp}) {
      keys.emplace(role, SoftwareSigner::Generate(KeyType::kEcP256).value()->public_key());
    }
    keys.emplace(Role::kRoot, first_->public_key());
    const tuf::Root root = tuf::MakeRoot(1, kNow, keys);
    tuf::Envelope file = tuf::MakeEnvelope(root);
    SEALIFT_CHECK(tuf::SignMetadata(Role::kRoot, file, *first_, "test").ok());
    Place(1, file.Serialize());
  }
  void Place(std::uint32_t version, const std::string& json) {
    SEALIFT_CHECK(
        WriteFileAtomically(folder_.path() / fmt::format("{}.root.json", version), AsBytes(json)).ok());
  }
  std::string IdOf(const Signer& signer) const { return tuf::Key::FromPublicKey(signer.public_key()).id; }

  TempDir folder_ = TempDir::Create("root-draft").value();
  std::shared_ptr<SoftwareSigner> first_ = SoftwareSigner::Generate(KeyType::kEcP256).value();
  std::shared_ptr<SoftwareSigner> second_ = SoftwareSigner::Generate(KeyType::kEcP256).value();
};

TEST_F(RootDraftTest, TwoTokensSignOneAfterTheOther) {
  const auto draft = DraftRoot(
      folder_.path(), {.threshold = 2, .added = {second_->public_key()}, .dropped = {}, .expires = kNow});
  ASSERT_TRUE(draft.ok()) << Describe(draft.status());
  EXPECT_EQ(draft->version, 2u);
  EXPECT_EQ(draft->changes.front(), "root: key " + IdOf(*second_).substr(0, 16) + " joins");
  EXPECT_EQ(draft->changes.at(1), "root: threshold 1 becomes 2");
  EXPECT_FALSE(draft->complete());

  const auto once = SignRootDraft(folder_.path(), draft->json, {second_});
  ASSERT_TRUE(once.ok()) << Describe(once.status());
  EXPECT_EQ(std::tie(once->by_present, once->by_next), std::make_tuple(0u, 1u));
  EXPECT_FALSE(once->complete());
  // The same token again is one signature.
  EXPECT_EQ(SignRootDraft(folder_.path(), once->json, {second_})->by_next, 1u);

  const auto twice = SignRootDraft(folder_.path(), once->json, {first_});
  ASSERT_TRUE(twice.ok()) << Describe(twice.status());
  EXPECT_EQ(std::tie(twice->by_present, twice->by_next), std::make_tuple(1u, 2u));
  EXPECT_TRUE(twice->complete());
  Place(2, twice->json);
  // It is the present one now, and asks for both: the first alone no longer completes anything.
  const auto next = DraftRoot(folder_.path(), {.threshold = {}, .added = {}, .dropped = {}, .expires = kNow});
  ASSERT_TRUE(next.ok()) << Describe(next.status());
  EXPECT_EQ(next->version, 3u);
  EXPECT_FALSE(SignRootDraft(folder_.path(), next->json, {first_})->complete());
  EXPECT_TRUE(SignRootDraft(folder_.path(), next->json, {first_, second_})->complete());
}

TEST_F(RootDraftTest, AKeyIsReplacedByAnother) {
  const auto draft = DraftRoot(folder_.path(), {.threshold = {},
                                                .added = {second_->public_key()},
                                                .dropped = {IdOf(*first_).substr(0, 12)},
                                                .expires = kNow});
  ASSERT_TRUE(draft.ok()) << Describe(draft.status());
  EXPECT_FALSE(SignRootDraft(folder_.path(), draft->json, {second_})->complete()) << "the old key must, too";
  EXPECT_FALSE(SignRootDraft(folder_.path(), draft->json, {first_})->complete()) << "and the new one";
  EXPECT_TRUE(SignRootDraft(folder_.path(), draft->json, {first_, second_})->complete());
}

TEST_F(RootDraftTest, RefusesChangesThatLockEverybodyOut) {
  const auto reason = [&](const RootChange& change) {
    return ReasonOf(DraftRoot(folder_.path(), change).status());
  };
  EXPECT_EQ(reason({.threshold = 2, .added = {}, .dropped = {}, .expires = kNow}), Reason::kInvalidArgument);
  EXPECT_EQ(reason({.threshold = 0, .added = {}, .dropped = {}, .expires = kNow}), Reason::kInvalidArgument);
  EXPECT_EQ(reason({.threshold = {}, .added = {}, .dropped = {IdOf(*first_)}, .expires = kNow}),
            Reason::kInvalidArgument);
  EXPECT_EQ(reason({.threshold = {}, .added = {}, .dropped = {"0123"}, .expires = kNow}),
            Reason::kInvalidArgument);
  EXPECT_EQ(reason({.threshold = {}, .added = {}, .dropped = {std::string(64, '0')}, .expires = kNow}),
            Reason::kInvalidArgument);
}

TEST_F(RootDraftTest, StrangersAndOldDraftsAreRefused) {
  const auto draft =
      DraftRoot(folder_.path(), {.threshold = {}, .added = {}, .dropped = {}, .expires = kNow});
  ASSERT_TRUE(draft.ok());
  EXPECT_EQ(ReasonOf(SignRootDraft(folder_.path(), draft->json, {second_}).status()),
            Reason::kRepositoryKeyUnknown);
  Place(2, SignRootDraft(folder_.path(), draft->json, {first_})->json);
  EXPECT_EQ(ReasonOf(DescribeRootDraft(folder_.path(), draft->json).status()), Reason::kTufRollback);
  EXPECT_EQ(ReasonOf(DescribeRootDraft(folder_.path(), "{").status()), Reason::kTufMalformed);
  Place(2, "{}");
  EXPECT_EQ(ReasonOf(DraftRoot(folder_.path(), {.expires = kNow}).status()), Reason::kKeySetInvalid);
}

}  // namespace
}  // namespace sealift::hsm
