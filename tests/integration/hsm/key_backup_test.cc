// Keys of a wrappable set on their way from one token to another.
#include "hsm/key_backup.h"

#include <gtest/gtest.h>

#include <fstream>

#include "hsm/attestation.h"
#include "hsm/ceremony.h"
#include "hsm/journal_verify.h"
#include "shared/crypto/hash.h"
#include "tests/integration/hsm/softhsm_fixture.h"

namespace sealift::hsm {
namespace {

const std::vector<std::string> kRoles = {"pk", "tuf-root", "db", "node-ca", "operator-ca", "escrow"};

class KeyBackupTest : public SoftHsmTest {
 protected:
  void SetUp() override {
    SoftHsmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    from_ = MakeToken("from").Text();
    to_ = MakeToken("to").Text();
  }
  // P-384 among the keys, so that both curves travel.
  void Init(Leaving leaving) {
    const auto made = InitialiseKeySet({.set = "demo",
                                        .folder = keys_,
                                        .tokens = OpenTokens({from_}).value(),
                                        .algorithms = {{"node-ca", KeyAlgorithm::kEcP384}},
                                        .leaving = leaving,
                                        .controller_names = {"DNS:controller.lab"},
                                        .now = SystemClock().Now()},
                                       [](const std::string& /*line*/) {});
    ASSERT_TRUE(made.ok()) << Describe(made.status());
  }
  static std::shared_ptr<Token> Open(const std::string& uri) {
    return Token::Open(TokenUri::Parse(uri).value()).value();
  }
  std::unique_ptr<KeyRing> Ring(const std::string& token) const {
    return KeyRing::Open(keys_, {token}).value();
  }
  Result<KeyBackup> BackUp(const std::vector<std::string>& roles, const PublicKey& transport) const {
    return BackUpKeys(*Ring(from_), roles, transport, SystemClock().Now());
  }
  Result<Inventory> Restore(const KeyBackup& backup, Leaving leaving = Leaving::kNever) const {
    return RestoreKeys(*Ring(to_), Open(to_), backup, leaving);
  }

  const std::filesystem::path keys_ = folder_.path() / "keys";
  std::string from_;
  std::string to_;
};

TEST_F(KeyBackupTest, KeysArriveWholeStayAndAreMarkedForEver) {
  Init(Leaving::kWrapped);
  const PublicKey transport = MakeTransportKey(*Open(to_), "transport").value();
  const auto custody = Open(to_)->keys().ReadCustody(transport.key_id()).value();
  EXPECT_TRUE(custody.born_in_token());
  EXPECT_EQ(custody.unwrap, true);
  EXPECT_EQ(custody.decrypt, false);
  EXPECT_EQ(custody.sign, false);
  const auto backup = BackUp(kRoles, transport);
  ASSERT_TRUE(backup.ok()) << Describe(backup.status());
  const auto read = KeyBackup::Parse(backup->Json());
  ASSERT_TRUE(read.ok()) << Describe(read.status());
  const auto restored = Restore(*read);
  ASSERT_TRUE(restored.ok()) << Describe(restored.status());
  const auto ring = Ring(to_);
  for (const InventoryKey& key : ring->inventory().keys) {
    EXPECT_TRUE(key.wrappable) << key.role;
    EXPECT_FALSE(key.born_in_token) << key.role;
    const bool travelled = std::ranges::find(kRoles, key.role) != kRoles.end();
    EXPECT_EQ(key.copies.size(), travelled ? 1u : 0u) << key.role;
    EXPECT_EQ(Open(to_)->keys().HoldsPrivateKey(key.key_id).value(), travelled) << key.role;
    if (!travelled) continue;
    const auto there = Open(to_)->keys().ReadCustody(key.key_id).value();
    EXPECT_EQ(there.sensitive, true) << key.role;
    EXPECT_EQ(there.extractable, false) << key.role;
    EXPECT_EQ(there.local, false) << key.role;
    EXPECT_EQ(there.sign, key.role != "escrow") << key.role;
    EXPECT_EQ(Open(to_)->keys().ReadPublicHalf(key.key_id)->key_id(), key.key_id);
    if (key.role == "escrow") continue;
    const auto signature = ring->SignerFor(key).value()->SignMessage(AsBytes("x"), "test");
    EXPECT_TRUE(signature.ok()) << key.role << " " << Describe(signature.status());
  }
  // What was restored cannot leave again.
  const auto onward = BackUpKeys(*ring, {"db"}, transport, SystemClock().Now());
  EXPECT_EQ(ReasonOf(onward.status()), Reason::kKeyNotWrappable) << Describe(onward.status());
  // A second restore passes over what is there.
  EXPECT_TRUE(Restore(*read).ok());
  // Inventory, statement and journal tell it.
  const auto accounts = AccountForKeys(ring->inventory(), OpenTokensByGroup({to_}).value(), {}).value();
  const std::string statement = MakeStatement(*ring, accounts, {}, SystemClock().Now(), nullptr).value();
  const auto payload = statement.substr(statement.find("\"payload\": \"") + 12);
  const std::string text = ToText(Base64Decode(payload.substr(0, payload.find('"'))).value());
  EXPECT_NE(text.find("\"wrappable\":true"), std::string::npos);
  EXPECT_NE(text.find("\"copies\":[\"pkcs11:"), std::string::npos);
  std::ifstream file(keys_ / "journal");
  const std::string journal{std::istreambuf_iterator<char>(file), {}};
  for (const char* event :
       {"\"event\":\"backed-up\",\"key\":\"escrow-1\"", "\"event\":\"restored\",\"key\":\"db-1\""})
    EXPECT_NE(journal.find(event), std::string::npos) << event;
  EXPECT_TRUE(VerifyJournal(keys_ / "journal", {})->findings.empty());
}

TEST_F(KeyBackupTest, TheFileHoldsNoKeyThatAnotherCouldUse) {
  Init(Leaving::kWrapped);
  const PublicKey transport = MakeTransportKey(*Open(to_), "transport").value();
  const KeyBackup backup = BackUp({"tuf-root", "db"}, transport).value();
  for (const BackupEntry& entry : backup.entries) {
    const unsigned char* at = entry.wrapped.data();
    const CPtr<PKCS8_PRIV_KEY_INFO, PKCS8_PRIV_KEY_INFO_free> plain(
        d2i_PKCS8_PRIV_KEY_INFO(nullptr, &at, static_cast<long>(entry.wrapped.size())));
    EXPECT_EQ(plain, nullptr) << entry.role;
  }
  // Another token has no key for it.
  const std::string other = MakeToken("other").Text();
  const auto astray = RestoreKeys(*Ring(other), Open(other), backup, Leaving::kNever);
  EXPECT_EQ(ReasonOf(astray.status()), Reason::kHsmKeyMissing);
  // Keys that are not the transport key's do not take it either.
  KeyBackup wrong = backup;
  wrong.transport = MakeTransportKey(*Open(other), "transport").value().key_id();
  EXPECT_EQ(ReasonOf(RestoreKeys(*Ring(other), Open(other), wrong, Leaving::kNever).status()),
            Reason::kKeyBackupInvalid);
  EXPECT_EQ(Open(other)->keys().List()->size(), 1u);
}

TEST_F(KeyBackupTest, DamagedAndForeignFilesAreRefusedBeforeAnythingIsPlaced) {
  Init(Leaving::kWrapped);
  const PublicKey transport = MakeTransportKey(*Open(to_), "transport").value();
  const KeyBackup backup = BackUp({"db", "node-ca"}, transport).value();
  const auto reason = [&](const std::function<void(KeyBackup&)>& change) {
    KeyBackup changed = backup;
    change(changed);
    return ReasonOf(Restore(changed).status());
  };
  EXPECT_EQ(reason([](KeyBackup& b) { b.set = "other"; }), Reason::kKeyBackupInvalid);
  EXPECT_EQ(reason([](KeyBackup& b) { b.entries[0].wrapped[9] ^= 1; }), Reason::kKeyBackupInvalid);
  EXPECT_EQ(reason([](KeyBackup& b) { b.wrapped_aes[9] ^= 1; }), Reason::kKeyBackupInvalid);
  EXPECT_EQ(reason([](KeyBackup& b) { b.entries.pop_back(); }), Reason::kKeyBackupInvalid);
  EXPECT_EQ(reason([](KeyBackup& b) { b.entries[0].key_id = b.entries[1].key_id; }),
            Reason::kKeyBackupInvalid);
  EXPECT_EQ(reason([](KeyBackup& b) { b.signed_by = {}; }), Reason::kKeyBackupInvalid);
  EXPECT_EQ(reason([](KeyBackup& b) { b.signature.clear(); }), Reason::kKeyBackupInvalid);
  const std::string text = backup.Json();
  for (std::size_t size = 0; size < text.size() - 2; size += 97) {
    EXPECT_EQ(ReasonOf(KeyBackup::Parse(text.substr(0, size)).status()), Reason::kKeyBackupInvalid);
  }
  EXPECT_EQ(Open(to_)->keys().List()->size(), 1u);
  // Signed by a key of the set, and yet another key than it says: found once it is in the token.
  for (const char* role : {"db", "node-ca"}) {
    KeyBackup swapped = backup;
    const std::string other = std::string_view(role) == "db" ? "kek" : "tuf-root";
    const KeyBackup source = BackUp({other}, transport).value();
    swapped.wrapped_aes = source.wrapped_aes;
    swapped.entries = {source.entries.front()};
    swapped.entries[0].role = role;
    const auto ring = Ring(from_);
    const InventoryKey* key = ring->inventory().Newest(role);
    swapped.entries[0].key_id = key->key_id;
    swapped.signed_by = key->key_id;
    swapped.signature = ring->SignerFor(role).value()->SignMessage(swapped.SignedBytes(), "test").value();
    const Status refused = Restore(swapped).status();
    EXPECT_EQ(ReasonOf(refused), Reason::kKeyBackupInvalid) << Describe(refused);
    EXPECT_EQ(Open(to_)->keys().List()->size(), 1u) << "nothing of it stays";
  }
}

TEST_F(KeyBackupTest, KeysOfOtherSetsStayInTheirToken) {
  Init(Leaving::kNever);
  const PublicKey transport = MakeTransportKey(*Open(to_), "transport").value();
  const auto refused = BackUp({"db"}, transport);
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kKeyNotWrappable);
  // The token says the same, whatever the inventory claims.
  const auto id = Ring(from_)->inventory().Newest("db")->key_id;
  EXPECT_EQ(ReasonOf(WrapKeys(*Open(from_), transport, {id}).status()), Reason::kKeyNotWrappable);
  EXPECT_EQ(ReasonOf(BackUp({"nobody"}, transport).status()), Reason::kInvalidArgument);
}

}  // namespace
}  // namespace sealift::hsm
