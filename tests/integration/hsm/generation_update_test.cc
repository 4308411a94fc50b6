// What a new generation leaves to machines and programs that have not taken it yet, or only a part of it.
#include <gtest/gtest.h>

#include <set>

#include "hsm/secure_boot.h"
#include "hsm/set_marker.h"
#include "tests/integration/hsm/generation_fixture.h"

namespace sealift::hsm {
namespace {

using ListSet = std::tuple<Bytes, Bytes, Bytes>;

class GenerationUpdateTest : public GenerationTest {
 protected:
  Bytes At(const std::filesystem::path& folder, const char* name) const {
    return ReadFile(folder / name).value();
  }
  ListSet ListsAt(const std::filesystem::path& folder) const {
    return {At(folder, "PK.esl"), At(folder, "KEK.esl"), At(folder, "db.esl")};
  }
  // What the controller predicts PCR 7 from.
  std::set<ListSet> Predicted() const {
    std::set<ListSet> sets = {ListsAt(keys_)};
    for (const auto& one : std::filesystem::directory_iterator(keys_ / "earlier"))
      sets.insert(ListsAt(one.path()));
    return sets;
  }
};

TEST_F(GenerationUpdateTest, ANewGenerationInTheSameTokenSignsNothingUntilItIsChosen) {
  ASSERT_TRUE(WriteFileAtomically(keys_ / "KEK-old.esl", Content("KEK.esl")).ok());
  ASSERT_TRUE(Add({"kek"}, {old_[0]}).ok());
  ASSERT_TRUE(Add({"node-ca", "controller-tls"}, {old_[2]}).ok());
  // A machine that took nothing new takes the next db, and revocations.
  ASSERT_TRUE(Add({"db"}, {old_[1]}).ok());
  EXPECT_TRUE(Accepts("db.auth", "db", efi::kReplaceAttributes, "KEK-old.esl").ok());
  EXPECT_TRUE(Accepts("updates/db-2.auth", "db", efi::kAppendAttributes, "KEK-old.esl").ok());
  const Bytes revoked = efi::SerializeSignatureLists(
      efi::SignatureLists{efi::Sha256SignatureList(efi::kLoaderVendor, std::vector<Sha256Digest>(1))});
  const auto dbx = efi::SecureBootVariable("dbx", efi::kAppendAttributes).value();
  for (const bool chosen : {false, true}) {
    const auto ring =
        Ring(old_, chosen ? std::vector<std::string>{"kek=2", "node-ca=2"} : std::vector<std::string>{});
    const auto update =
        SignVariableUpdate(*ring, {.variable = "dbx", .content = revoked, .append = true, .now = now_});
    ASSERT_TRUE(update.ok()) << Describe(update.status());
    EXPECT_EQ(efi::VerifyAuthenticatedVariable(update->auth, dbx, Lists("KEK-old.esl")).ok(), !chosen);
    // So does the controller's certificate, for nodes that know the first node CA alone.
    EXPECT_EQ(ring->KeyFor("node-ca").value()->generation, chosen ? 2u : 1u);
    EXPECT_EQ(ring->CertificateFor("node-ca")->Pem(),
              ToText(Content(chosen ? "node-ca-2.pem" : "node-ca.pem")));
  }
}

TEST_F(GenerationUpdateTest, MachinesBetweenTwoUpdatesAreKnown) {
  const auto [pk, kek, db] = ListsAt(keys_);
  ASSERT_TRUE(Add({"kek", "db"}, {new_[0], new_[1]}).ok());
  const auto [same_pk, kek2, db2] = ListsAt(keys_);
  EXPECT_EQ(same_pk, pk);
  EXPECT_EQ(Predicted(), (std::set<ListSet>{{pk, kek, db}, {pk, kek2, db}, {pk, kek, db2}, {pk, kek2, db2}}));
  // The next one alone, while some hold none of the last two.
  ASSERT_TRUE(Add({"db"}, {new_[1]}).ok());
  const Bytes db3 = Content("db.esl");
  std::set<ListSet> sets;
  for (const Bytes& one_kek : {kek, kek2}) {
    for (const Bytes& one_db : {db, db2, db3}) sets.insert({pk, one_kek, one_db});
  }
  EXPECT_EQ(Predicted(), sets);
}

TEST_F(GenerationUpdateTest, MachinesAreKnownBeforeAndAfterThePkIsHandedOver) {
  const auto [pk, kek, db] = ListsAt(keys_);
  ASSERT_TRUE(Add({"pk"}, {new_[0]}).ok());
  const Bytes pk2 = Content("updates/PK-2.esl");
  ASSERT_NE(pk2, pk);
  const std::set<ListSet> both = {{pk, kek, db}, {pk2, kek, db}};
  EXPECT_EQ(Predicted(), both);
  // The custodian puts the new one into the folder, and some machines still hold the old one.
  ASSERT_TRUE(WriteFileAtomically(keys_ / "PK.esl", Content("updates/pk-2/PK.esl")).ok());
  EXPECT_EQ(Predicted(), both);
}

TEST_F(GenerationUpdateTest, WhatStandsReadyFollowsACertificateOfAnotherCa) {
  ASSERT_TRUE(Add({"pk", "kek", "db"}, {new_[0], new_[1]}).ok());
  for (const auto& [role, variable] : {std::pair{"pk", "PK"}, {"kek", "KEK"}, {"db", "db"}}) {
    const std::string name = variable;
    const auto ring = Ring({old_[0], old_[1], new_[0], new_[1]});
    const std::string own = ToText(Content(name + ".der"));
    const InventoryKey* key = ring->inventory().Newest(role);
    const auto certificate = IssueSelfSigned({.common_name = "of a private CA",
                                              .not_before = now_,
                                              .not_after = now_ + std::chrono::hours(48)},
                                             ring->SignerFor(*key).value(), "test")
                                 .value();
    const auto imported = ImportCertificate(*ring, role, certificate, now_, false);
    ASSERT_TRUE(imported.ok()) << role << " " << Describe(imported.status());
    EXPECT_EQ(Content(name + "-2.der"), certificate.der());
    EXPECT_EQ(ToText(Content(name + ".der")), own) << "the first generation's stays";
    EXPECT_EQ(Lists("updates/" + name + "-2.esl").at(0).entries.at(0).data, certificate.der());
    if (name == "PK") continue;
    EXPECT_EQ(Lists(name + ".esl").back().entries.at(0).data, certificate.der());
  }
  const auto carries = [&](const std::string& auth, const std::string& list) {
    EXPECT_EQ(efi::ParseAuthenticatedVariable(Content(auth))->payload, Content(list)) << auth;
  };
  EXPECT_TRUE(Accepts("updates/PK-2.auth", "PK", efi::kReplaceAttributes, "PK.esl").ok());
  EXPECT_TRUE(Accepts("updates/pk-2/PK.auth", "PK", efi::kReplaceAttributes, "updates/PK-2.esl").ok());
  EXPECT_TRUE(Accepts("updates/KEK-2.auth", "KEK", efi::kAppendAttributes, "PK.esl").ok());
  carries("updates/PK-2.auth", "updates/PK-2.esl");
  carries("updates/pk-2/PK.auth", "updates/pk-2/PK.esl");
  carries("updates/KEK-2.auth", "updates/KEK-2.esl");
  carries("updates/db-2.auth", "updates/db-2.esl");
  // Signed anew by the PK that waits, after each change of KEK.
  for (const bool third : {false, true}) {
    if (third) {
      ASSERT_TRUE(Add({"kek"}, {new_[0]}).ok());
    }
    EXPECT_TRUE(Accepts("updates/pk-2/KEK.auth", "KEK", efi::kReplaceAttributes, "updates/PK-2.esl").ok());
    carries("updates/pk-2/KEK.auth", "KEK.esl");
  }
}

CK_C_DestroyObject real_destroy = nullptr;
int destroyed = 0;
CK_RV CountDestroyed(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object) {
  ++destroyed;
  return real_destroy(session, object);
}

TEST_F(GenerationUpdateTest, NoKeyIsDestroyedOnceAFileSpeaksOfIt) {
  // It cannot be replaced, which is found when others are in place.
  const Bytes good = Content("db.auth");
  std::filesystem::remove(keys_ / "db.auth");
  std::filesystem::create_directories(keys_ / "db.auth/in-the-way");
  const std::string before = ToText(Content("inventory.json"));
  const auto token = OpenTokens({new_[1]})->at(Group::kRelease);
  CK_FUNCTION_LIST& api = token->pool()->api();
  real_destroy = std::exchange(api.C_DestroyObject, CountDestroyed);
  destroyed = 0;
  const Status failed = Add({"db", "pcr"}, {new_[1]}).status();
  api.C_DestroyObject = real_destroy;
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(MessageOf(failed).find("some files are written"), std::string::npos) << MessageOf(failed);
  EXPECT_EQ(destroyed, 0);
  EXPECT_EQ(ToText(Content("inventory.json")), before);
  EXPECT_EQ(Lists("db.esl").size(), 2u) << "it names the new certificate";
  EXPECT_TRUE(HasSetMarker(*token->pool(), "demo:generation").value());
  // The controller starts meanwhile: each set in earlier/ is whole.
  EXPECT_FALSE(Predicted().empty());
  const Bytes certificate = Content("db-2.der");
  std::filesystem::remove_all(keys_ / "db.auth");
  ASSERT_TRUE(WriteFileAtomically(keys_ / "db.auth", good).ok());
  const auto again = Add({"db", "pcr"}, {new_[1]});
  ASSERT_TRUE(again.ok()) << Describe(again.status());
  EXPECT_EQ(token->keys().List()->size(), 2u) << "the same keys";
  EXPECT_EQ(Certificate::FromDer(certificate)->public_key().key_id(), again->inventory.Newest("db")->key_id);
  EXPECT_EQ(Lists("db.esl").size(), 2u);
}

}  // namespace
}  // namespace sealift::hsm
