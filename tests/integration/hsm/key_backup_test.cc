// Keys of a wrappable set on their way from one token to another.
#include "hsm/key_backup.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "hsm/attestation.h"
#include "hsm/ceremony.h"
#include "hsm/generation.h"
#include "hsm/journal_verify.h"
#include "hsm/objects.h"
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
  // By a key of the set, as somebody who has its PIN could.
  void SignAgain(KeyBackup& backup) const {
    const auto ring = Ring(from_);
    const auto key = std::ranges::find(ring->inventory().keys, backup.signed_by, &InventoryKey::key_id);
    backup.signature = ring->SignerFor(*key).value()->SignMessage(backup.SignedBytes(), "test").value();
  }
  Result<Inventory> Restore(const KeyBackup& backup, Leaving leaving = Leaving::kNever) const {
    return RestoreKeys(*Ring(to_), Open(to_), backup, leaving);
  }

  // As a generated key is, and the token keeps to it.
  bool IsForOneMechanism(const InventoryKey& key) const {
    const auto token = Open(to_);
    const SessionPool::Lease lease = token->pool()->Acquire().value();
    const TokenView view{.api = &token->pool()->api(), .session = lease.handle(), .token = "to"};
    const bool ec = IsEc(key.algorithm);
    const CK_OBJECT_HANDLE handle = FindKey(view, CKO_PRIVATE_KEY, key.key_id.view()).value();
    const auto allowed = ReadNumber(view, handle, CKA_ALLOWED_MECHANISMS);
    if (!allowed.ok() || *allowed != MechanismFor(ec, FindRole(key.role)->use)) return false;
    if (ec || key.role == "escrow") return true;
    CK_MECHANISM other{CKM_SHA256_RSA_PKCS, nullptr, 0};
    return view.api->C_SignInit(view.session, &other, handle) == CKR_MECHANISM_INVALID;
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
    EXPECT_EQ(there.modifiable, false) << key.role;
    EXPECT_EQ(there.copyable, false) << key.role;
    EXPECT_TRUE(IsForOneMechanism(key)) << key.role;
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
  SignAgain(wrong);
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
  // Damage that a key of the set signed is found by the token.
  for (const bool key : {false, true}) {
    KeyBackup damaged = backup;
    (key ? damaged.wrapped_aes : damaged.entries[0].wrapped)[9] ^= 1;
    SignAgain(damaged);
    const Status refused = Restore(damaged).status();
    EXPECT_EQ(ReasonOf(refused), Reason::kKeyBackupInvalid) << Describe(refused);
    EXPECT_NE(MessageOf(refused).find("C_UnwrapKey"), std::string::npos) << MessageOf(refused);
  }
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

CK_C_CreateObject real_create = nullptr;
CK_C_DestroyObject real_destroy = nullptr;
CK_RV CreateNothing(CK_SESSION_HANDLE, CK_ATTRIBUTE*, CK_ULONG, CK_OBJECT_HANDLE*) {
  return CKR_DEVICE_MEMORY;
}
CK_RV DestroyNothing(CK_SESSION_HANDLE, CK_OBJECT_HANDLE) { return CKR_ACTION_PROHIBITED; }

// The private key is in the token, and nothing more was done: as a kill leaves it.
TEST_F(KeyBackupTest, AKilledRestoreIsFinishedByTheNextOne) {
  Init(Leaving::kWrapped);
  const PublicKey transport = MakeTransportKey(*Open(to_), "transport").value();
  const auto token = Open(to_);
  CK_FUNCTION_LIST& api = token->pool()->api();
  const auto killed = [&](const KeyBackup& backup) {
    real_create = std::exchange(api.C_CreateObject, CreateNothing);
    real_destroy = std::exchange(api.C_DestroyObject, DestroyNothing);
    EXPECT_FALSE(Restore(backup).ok());
    api.C_CreateObject = real_create;
    api.C_DestroyObject = real_destroy;
  };
  for (const char* role : {"node-ca", "db"}) {
    const KeyBackup backup = BackUp({role}, transport).value();
    killed(backup);
    const Sha256Digest id = backup.entries[0].key_id;
    ASSERT_TRUE(token->keys().HoldsPrivateKey(id).value());
    ASSERT_FALSE(token->keys().ReadPublicHalf(id).ok());
    std::ifstream file(keys_ / "journal");
    const std::string journal{std::istreambuf_iterator<char>(file), {}};
    EXPECT_NE(journal.find(fmt::format("\"event\":\"restored\",\"key\":\"{}-1\"", role)), std::string::npos);
    EXPECT_TRUE(Ring(to_)->inventory().Newest(role)->copies.empty());
    const auto again = Restore(backup);
    ASSERT_TRUE(again.ok()) << Describe(again.status());
    EXPECT_TRUE(token->keys().ReadPublicHalf(id).ok()) << role;
    EXPECT_EQ(again->Newest(role)->copies.size(), 1u);
    EXPECT_TRUE(Ring(to_)->SignerFor(role).value()->SignMessage(AsBytes("x"), "test").ok());
  }
  // Another key under the right id is not taken for it: RSA by its modulus, EC by what it signs.
  for (const auto& [role, other] : {std::pair{"kek", "pk"}, {"tuf-root", "orders"}}) {
    const KeyBackup good = BackUp({role}, transport).value();
    KeyBackup swapped = BackUp({other}, transport).value();
    swapped.entries[0].role = role;
    swapped.entries[0].key_id = good.entries[0].key_id;
    swapped.signed_by = good.signed_by;
    SignAgain(swapped);
    killed(swapped);
    ASSERT_TRUE(token->keys().HoldsPrivateKey(good.entries[0].key_id).value()) << role;
    const Status refused = Restore(good).status();
    EXPECT_EQ(ReasonOf(refused), Reason::kKeyBackupInvalid) << role << " " << Describe(refused);
    EXPECT_TRUE(Ring(to_)->inventory().Newest(role)->copies.empty());
  }
}

TEST_F(KeyBackupTest, KeysOfAnotherGroupDoNotGetIntoAToken) {
  Init(Leaving::kWrapped);
  const PublicKey transport = MakeTransportKey(*Open(to_), "transport").value();
  const KeyBackup backup = BackUp({"node-ca", "pk"}, transport).value();
  for (const char* group : {"online", "root"}) {
    const auto ring = Ring(std::string(group) + "=" + to_);
    EXPECT_EQ(ReasonOf(RestoreKeys(*ring, Open(to_), backup, Leaving::kNever).status()),
              Reason::kInvalidArgument);
    EXPECT_EQ(Open(to_)->keys().List()->size(), 1u);
  }
  const auto ring = KeyRing::Open(keys_, {"online=" + to_, "root=" + to_}).value();
  EXPECT_TRUE(RestoreKeys(*ring, Open(to_), backup, Leaving::kNever).ok());
}

TEST_F(KeyBackupTest, RolesWithoutAKeyAreRefusedAndALaterGenerationIsNotInTheWay) {
  Init(Leaving::kWrapped);
  const PublicKey transport = MakeTransportKey(*Open(to_), "transport").value();
  EXPECT_EQ(ReasonOf(BackUp({"db", "escrw"}, transport).status()), Reason::kInvalidArgument);
  {
    const auto ring = Ring(from_);
    const auto added = AddGeneration(
        *ring, {.roles = {"extensions"}, .tokens = OpenTokens({from_}).value(), .now = SystemClock().Now()},
        [](const std::string& /*line*/) {});
    ASSERT_TRUE(added.ok()) << Describe(added.status());
  }
  EXPECT_EQ(ReasonOf(BackUp({"extensions"}, transport).status()), Reason::kKeyNotWrappable);
  const auto first = KeyRing::Open(keys_, {from_}, {}, {"extensions=1"}).value();
  const auto backup = BackUpKeys(*first, {"extensions"}, transport, SystemClock().Now());
  ASSERT_TRUE(backup.ok()) << Describe(backup.status());
  EXPECT_EQ(backup->entries.at(0).generation, 1u);
}

TEST_F(KeyBackupTest, ATransportKeyIsGivenOutAgainAndCanBeTakenAway) {
  const auto token = Open(to_);
  const PublicKey transport = MakeTransportKey(*token, "transport").value();
  EXPECT_EQ(MakeTransportKey(*token, "transport").value(), transport);
  EXPECT_EQ(token->keys().List()->size(), 1u);
  ASSERT_TRUE(token->keys().Generate(KeyAlgorithm::kRsa2048, KeyUse::kSign, "other").ok());
  EXPECT_EQ(ReasonOf(MakeTransportKey(*token, "other").status()), Reason::kHsmKeyExists);
  EXPECT_TRUE(token->keys().Destroy(transport.key_id()).value());
  EXPECT_NE(MakeTransportKey(*token, "transport").value(), transport);
}

}  // namespace
}  // namespace sealift::hsm
