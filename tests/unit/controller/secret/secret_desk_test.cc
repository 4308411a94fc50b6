// Who gets a secret, who does not, and what of it lies in the database. That a TPM opens what leaves is shown
// with swtpm (integration:controller/app SecretsTest, integration:node-agent/tpm EsysImporterTest).
#include "controller/secret/secret_desk.h"

#include <gtest/gtest.h>

#include "controller/store/sqlite_stores.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/release/manifest.h"
#include "tests/support/secret_keys.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

using test::ReasonIdFrom;

class SecretDeskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Manifest manifest{.channel = "stable", .version = "1.2", .hardware_class = "generic-x86_64"};
    manifest.minimum_agent_version = "0.1";
    manifest.stub_version = "252.39";
    manifest.files.push_back({.path = "EFI/kairos/norole.efi", .digest = Sha256({}), .size = 1});
    manifest.pcr11.push_back({.phase = "", .pcr11 = Sha256({})});
    manifest.pcr_keys = {policy_key_->public_key().key_id()};
    const std::string json = SerializeManifest(manifest);
    ASSERT_TRUE(stores_->releases()
                    .Put({.channel = "stable",
                          .version = "1.2",
                          .release_id = ReleaseIdOf(json),
                          .manifest_json = json})
                    .ok());
    verdict_ = {.trust = Trust::kTrusted, .release_version = "1.2", .release_id = ReleaseIdOf(json)};
    node_.ek_digest = ek_->public_key().key_id();
    node_.admission = Admission::kAdmitted;
    node_.labels = {{"site", "lab"}};
    for (const std::uint32_t pcr : {4u, 7u, 11u, 12u, 13u})
      pcrs_[pcr] = Sha256(Bytes(1, static_cast<std::uint8_t>(pcr)));
  }

  Result<SecretRecord> Put(const std::string& name, const std::string& selector = "site=lab",
                           const std::string& releases = "stable:1.0..2.0", bool boot_only = false) {
    return desk_.Put({.name = name,
                      .id = {},
                      .selector = selector,
                      .node = std::nullopt,
                      .releases = releases,
                      .boot_only = boot_only,
                      .note = "a note",
                      .created_by = "anna"},
                     SecretBytes(AsBytes(kValue)));
  }
  SecretAsk Ask(const std::string& name) {
    return {.name = name,
            .node = node_,
            .verdict = verdict_,
            .pcrs = pcrs_,
            .quote_digest = Sha256(AsBytes("quote")),
            .ek_public = test::Sized(test::PublicAreaOf(ek_->public_key(), test::kEkAttributes)),
            .policy_key = policy_key_->public_key().spki_der()};
  }
  std::string Refusal(const SecretAsk& ask) { return ReasonIdFrom(desk_.Deliver(ask)); }

  static constexpr std::string_view kValue = "the value that nobody else may see";
  const TempDir dir_ = TempDir::Create("secrets").value();
  std::unique_ptr<SqliteStores> stores_ = SqliteStores::Open(dir_.path()).value();
  std::unique_ptr<SoftwareSigner> policy_key_ = SoftwareSigner::Generate(KeyType::kRsa).value();
  std::unique_ptr<SoftwareSigner> ek_ = SoftwareSigner::Generate(KeyType::kEcP256).value();
  test::SoftwareSecretKeys keys_;
  FakeClock clock_{FromUnixMs(1'700'000'000'000)};
  SecretDesk desk_{
      {.secrets = stores_->secrets(), .releases = stores_->releases(), .keys = &keys_, .clock = clock_}};
  Node node_{.id = NodeId::Parse("01890000-0000-7000-8000-000000000001").value()};
  Verdict verdict_;
  tpm::PcrValues pcrs_;
};

TEST_F(SecretDeskTest, GivesItToANodeThatProvedAListedReleaseAndWritesThatDown) {
  const auto put = Put("site-key");
  ASSERT_TRUE(put.ok()) << Describe(put.status());
  const auto given = desk_.Deliver(Ask("site-key"));
  ASSERT_TRUE(given.ok()) << Describe(given.status());
  EXPECT_EQ(given->id, put->id);
  EXPECT_EQ(given->policy.fixed, (tpm::PcrValues{{7, pcrs_.at(7)}}));
  ASSERT_TRUE(given->policy.running);
  EXPECT_EQ(*given->policy.running,
            (tpm::PcrValues{{7, pcrs_.at(7)}, {11, pcrs_.at(11)}, {12, pcrs_.at(12)}, {13, pcrs_.at(13)}}));
  EXPECT_TRUE(tpm::CheckDuplicate(given->object, tpm::DigestReleasePolicy(given->policy).value().whole).ok());
  EXPECT_EQ(ToText(given->ciphertext).find("nobody"), std::string::npos);
  const auto deliveries = stores_->secrets().Deliveries("site-key", 10).value();
  ASSERT_EQ(deliveries.size(), 1u);
  EXPECT_EQ(deliveries.front(), (SecretDelivery{.name = "site-key",
                                                .id = put->id,
                                                .node = node_.id,
                                                .release = *verdict_.release_id,
                                                .channel = "stable",
                                                .version = "1.2",
                                                .quote = Sha256(AsBytes("quote")),
                                                .at = clock_.Now()}));
  ASSERT_EQ(keys_.intents.size(), 1u);
  EXPECT_EQ(keys_.intents.front(), "secret site-key " + put->id + " for node " + node_.id.text());
}

TEST_F(SecretDeskTest, ABootOnlySecretHasNoOtherBranch) {
  ASSERT_TRUE(Put("disk", "site=lab", "stable:*", true).ok());
  EXPECT_FALSE(desk_.Deliver(Ask("disk"))->policy.running);
}

TEST_F(SecretDeskTest, UnknownWhetherItIsAnothersRevokedOrNotThere) {
  ASSERT_TRUE(Put("theirs", "site=plant").ok());
  ASSERT_TRUE(Put("gone").ok());
  ASSERT_TRUE(stores_->secrets().Revoke("gone", clock_.Now()).ok());
  for (const char* name : {"theirs", "gone", "never", "", "../etc", "NAME"})
    EXPECT_EQ(Refusal(Ask(name)), "SECRET_UNKNOWN") << name;
  // One node's own, by id.
  SecretRecord own{.name = "own", .node = node_.id, .releases = "stable:*"};
  ASSERT_TRUE(desk_.Put(own, SecretBytes(AsBytes(kValue))).ok());
  EXPECT_TRUE(desk_.Deliver(Ask("own")).ok());
  own.node = NodeId::Parse("01890000-0000-7000-8000-000000000002").value();
  ASSERT_TRUE(desk_.Put(own, SecretBytes(AsBytes(kValue))).ok());
  EXPECT_EQ(Refusal(Ask("own")), "SECRET_UNKNOWN");
  EXPECT_TRUE(keys_.intents.size() == 1);
}

TEST_F(SecretDeskTest, WithheldFromWhoDidNotProveAListedRelease) {
  ASSERT_TRUE(Put("site-key").ok());
  const Verdict good = verdict_;
  for (const Trust trust : {Trust::kUntrusted, Trust::kUnknown, Trust::kUnspecified}) {
    verdict_.trust = trust;
    EXPECT_EQ(Refusal(Ask("site-key")), "SECRET_WITHHELD");
  }
  verdict_ = good;
  verdict_.release_id.reset();
  EXPECT_EQ(Refusal(Ask("site-key")), "SECRET_WITHHELD");
  verdict_.release_id = ReleaseId{Sha256(AsBytes("no release"))};
  EXPECT_EQ(Refusal(Ask("site-key")), "SECRET_WITHHELD");
  verdict_ = good;
  ASSERT_TRUE(Put("site-key", "site=lab", "stable:1.3..,edge:*").ok());
  EXPECT_EQ(Refusal(Ask("site-key")), "SECRET_WITHHELD");
  ASSERT_TRUE(Put("site-key").ok());
  // A policy key that the release does not name: anybody could sign for it.
  SecretAsk ask = Ask("site-key");
  ask.policy_key = SoftwareSigner::Generate(KeyType::kRsa).value()->public_key().spki_der();
  EXPECT_EQ(Refusal(ask), "SECRET_WITHHELD");
  pcrs_.erase(13);
  EXPECT_EQ(Refusal(Ask("site-key")), "SECRET_WITHHELD");
  EXPECT_TRUE(keys_.intents.empty());
  EXPECT_TRUE(stores_->secrets().Deliveries("site-key", 10)->empty());
}

TEST_F(SecretDeskTest, OnlyTheNodesOwnEndorsementKeyAndOnlyAnAdmittedNode) {
  ASSERT_TRUE(Put("site-key").ok());
  SecretAsk ask = Ask("site-key");
  const auto other = SoftwareSigner::Generate(KeyType::kEcP256).value();
  ask.ek_public = test::Sized(test::PublicAreaOf(other->public_key(), test::kEkAttributes));
  EXPECT_EQ(Refusal(ask), "EK_UNSUITABLE");
  ask.ek_public = test::Sized(test::PublicAreaOf(ek_->public_key(), test::kAkAttributes));
  EXPECT_EQ(Refusal(ask), "EK_UNSUITABLE");
  ask.ek_public.pop_back();
  EXPECT_EQ(Refusal(ask), "TPM_KEY_MALFORMED");
  for (const Admission admission : {Admission::kPending, Admission::kQuarantined, Admission::kRevoked}) {
    node_.admission = admission;
    EXPECT_EQ(Refusal(Ask("site-key")), "NODE_NOT_ADMITTED");
  }
  EXPECT_TRUE(keys_.intents.empty());
}

TEST_F(SecretDeskTest, WhoWritesTheDatabaseReadsNothingAndLoosensNothing) {
  const auto put = Put("site-key").value();
  EXPECT_EQ(put.sealed.find("nobody"), std::string::npos);
  const auto changed = [&](auto change) {
    SecretRecord record = put;
    change(record);
    EXPECT_TRUE(stores_->secrets().Put(record).ok());
    return Refusal(Ask(record.name));
  };
  EXPECT_EQ(changed([](SecretRecord& record) { record.selector = ""; }), "STORE_FAILED");
  EXPECT_EQ(changed([](SecretRecord& record) { record.releases = "stable:*"; }), "STORE_FAILED");
  EXPECT_EQ(changed([&](SecretRecord& record) { record.node = node_.id; }), "STORE_FAILED");
  EXPECT_EQ(changed([](SecretRecord& record) { record.boot_only = true; }), "STORE_FAILED");
  EXPECT_EQ(changed([](SecretRecord& record) { record.id = "0123456789abcdef"; }), "STORE_FAILED");
  EXPECT_EQ(changed([](SecretRecord& record) { record.name = "another"; }), "STORE_FAILED");
  EXPECT_EQ(changed([](SecretRecord& record) { record.sealed = "{}"; }), "STORE_FAILED");
  EXPECT_EQ(changed([](SecretRecord& record) { record.sealed[record.sealed.size() - 8] ^= 1; }),
            "STORE_FAILED");
  EXPECT_EQ(changed([](SecretRecord&) {}), "NONE");
  // Revoked, its value is gone.
  EXPECT_EQ(stores_->secrets().Revoke("site-key", clock_.Now())->sealed, "");
}

TEST_F(SecretDeskTest, TakesOnlyWhatItCanKeep) {
  EXPECT_EQ(ReasonIdFrom(Put("Bad Name")), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonIdFrom(Put("site-key", "no selector")), "SELECTOR_INVALID");
  EXPECT_EQ(ReasonIdFrom(Put("site-key", "site=lab", "")), "INVALID_ARGUMENT");
  SecretRecord record{.name = "a", .releases = "stable:*"};
  EXPECT_EQ(ReasonIdFrom(desk_.Put(record, SecretBytes())), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonIdFrom(desk_.Put(record, SecretBytes(Bytes(kMaxSecretBytes + 1, 1)))), "INVALID_ARGUMENT");
  EXPECT_TRUE(desk_.Put(record, SecretBytes(Bytes(kMaxSecretBytes, 1))).ok());
  SecretDesk without({.secrets = stores_->secrets(), .releases = stores_->releases(), .clock = clock_});
  EXPECT_EQ(ReasonIdFrom(without.Put(record, SecretBytes(AsBytes(kValue)))), "HSM_KEY_MISSING");
}

TEST_F(SecretDeskTest, TheStoreKeepsRecordsAndRefusesToChangeDeliveries) {
  const auto one = Put("b").value();
  const auto two = Put("a").value();
  EXPECT_EQ(stores_->secrets().List().value(), (std::vector<SecretRecord>{two, one}));
  EXPECT_EQ(stores_->secrets().Get("b").value(), one);
  EXPECT_EQ(ReasonIdFrom(stores_->secrets().Get("c")), "SECRET_UNKNOWN");
  EXPECT_EQ(ReasonIdFrom(stores_->secrets().Revoke("c", clock_.Now())), "SECRET_UNKNOWN");
  const auto revoked = stores_->secrets().Revoke("b", FromUnixMs(5)).value();
  EXPECT_EQ(revoked.revoked, FromUnixMs(5));
  EXPECT_EQ(stores_->secrets().Revoke("b", FromUnixMs(6)).value(), revoked);
  // Put again it is in force again, with another id.
  EXPECT_FALSE(Put("b")->revoked);
  EXPECT_NE(stores_->secrets().Get("b")->id, one.id);
  ASSERT_TRUE(desk_.Deliver(Ask("b")).ok());
  for (const char* sql : {"DELETE FROM secret_deliveries", "UPDATE secret_deliveries SET version = 'x'"}) {
    EXPECT_FALSE(
        stores_->db().Write([&](SqliteConnection& connection) { return connection.Script(sql); }).ok());
  }
  EXPECT_EQ(stores_->secrets().Deliveries("b", 10)->size(), 1u);
}

}  // namespace
}  // namespace sealift::controller
