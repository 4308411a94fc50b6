#include "hsm/key_store.h"

#include <gtest/gtest.h>

#include "hsm/objects.h"
#include "tests/integration/hsm/softhsm_fixture.h"

namespace sealift::hsm {
namespace {

class KeyStoreTest : public SoftHsmTest {
 protected:
  void SetUp() override {
    SoftHsmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    uri_ = MakeToken("store-token");
    auto token = Token::Open(uri_);
    ASSERT_TRUE(token.ok()) << Describe(token.status());
    token_ = *std::move(token);
  }
  TokenUri uri_;
  std::shared_ptr<Token> token_;
};

TEST_F(KeyStoreTest, KeysAreBornInTheTokenAndNothingCanLoosenThem) {
  for (const KeyAlgorithm algorithm : {KeyAlgorithm::kRsa2048, KeyAlgorithm::kEcP256}) {
    const std::string label(AlgorithmName(algorithm));
    const auto key = token_->keys().Generate(algorithm, KeyUse::kSign, label, KeyStore::Placement::kCopy);
    ASSERT_TRUE(key.ok()) << Describe(key.status());
    const auto custody = token_->keys().ReadCustody(key->key_id());
    ASSERT_TRUE(custody.ok()) << Describe(custody.status());
    EXPECT_TRUE(custody->born_in_token());
    EXPECT_EQ(custody->sensitive, true);
    EXPECT_EQ(custody->extractable, false);
    EXPECT_EQ(custody->sign, true);
    EXPECT_EQ(custody->decrypt, false);
    EXPECT_EQ(custody->unwrap, false);
    EXPECT_EQ(custody->modifiable, false);
    EXPECT_EQ(custody->destroyable, false);
    EXPECT_EQ(token_->keys().ReadPublicHalf(key->key_id()).value(), *key);
    EXPECT_EQ(token_->keys().FindByLabel(label)->at(0).id, ToBytes(key->key_id().view()));
  }
}

TEST_F(KeyStoreTest, TokenRefusesToGiveOutOrLoosenAKey) {
  const auto key = token_->keys().Generate(KeyAlgorithm::kRsa2048, KeyUse::kSign, "k").value();
  const auto lease = token_->pool()->AcquireReadWrite();
  ASSERT_TRUE(lease.ok());
  const TokenView view{&token_->pool()->api(), lease->handle(), "test"};
  const CK_OBJECT_HANDLE object = FindKey(view, CKO_PRIVATE_KEY, key.key_id().view()).value();
  EXPECT_FALSE(ReadAttribute(view, object, CKA_PRIVATE_EXPONENT).ok());
  Template loosen;
  loosen.Flag(CKA_EXTRACTABLE, true);
  EXPECT_NE(view.api->C_SetAttributeValue(view.session, object, loosen.data(), loosen.size()), CKR_OK);
  Template rename;
  rename.Data(CKA_ID, Bytes{1});
  EXPECT_NE(view.api->C_SetAttributeValue(view.session, object, rename.data(), rename.size()), CKR_OK);
  // SoftHSM lets CKA_COPYABLE be set at generation only, when the copy is still needed; copies gain nothing.
  CK_OBJECT_HANDLE copy = CK_INVALID_HANDLE;
  Template loose_copy;
  loose_copy.Flag(CKA_TOKEN, false).Flag(CKA_EXTRACTABLE, true);
  EXPECT_NE(view.api->C_CopyObject(view.session, object, loose_copy.data(), loose_copy.size(), &copy),
            CKR_OK);
  Template open_copy;
  open_copy.Flag(CKA_TOKEN, false).Flag(CKA_SENSITIVE, false);
  EXPECT_NE(view.api->C_CopyObject(view.session, object, open_copy.data(), open_copy.size(), &copy), CKR_OK);
  EXPECT_NE(view.api->C_DestroyObject(view.session, object), CKR_OK);
}

TEST_F(KeyStoreTest, TokensThatDoNotCopyKeysStillGetThem) {
  const auto key = token_->keys().Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "in-place",
                                           KeyStore::Placement::kInPlace);
  ASSERT_TRUE(key.ok()) << Describe(key.status());
  const auto custody = token_->keys().ReadCustody(key->key_id());
  ASSERT_TRUE(custody.ok()) << Describe(custody.status());
  EXPECT_TRUE(custody->born_in_token());
  EXPECT_EQ(custody->extractable, false);
  EXPECT_EQ(custody->modifiable, true);
}

TEST_F(KeyStoreTest, EscrowKeyDecryptsOnly) {
  const auto key = token_->keys().Generate(KeyAlgorithm::kRsa3072, KeyUse::kDecrypt, "escrow");
  ASSERT_TRUE(key.ok()) << Describe(key.status());
  EXPECT_EQ(key->bits(), 3072);
  const auto custody = token_->keys().ReadCustody(key->key_id()).value();
  EXPECT_EQ(custody.decrypt, true);
  EXPECT_EQ(custody.sign, false);
}

TEST_F(KeyStoreTest, RefusesALabelTwice) {
  ASSERT_TRUE(token_->keys().Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "once").ok());
  const auto again = token_->keys().Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "once");
  EXPECT_EQ(ReasonOf(again.status()), Reason::kHsmKeyExists);
  EXPECT_EQ(token_->keys().List()->size(), 1u);
}

TEST_F(KeyStoreTest, MissingKeysAreNamed) {
  Sha256Digest id;
  id.bytes.fill(0xab);
  EXPECT_FALSE(token_->keys().HoldsPrivateKey(id).value());
  const Status status = token_->keys().ReadPublicHalf(id).status();
  EXPECT_EQ(ReasonOf(status), Reason::kHsmKeyMissing);
  EXPECT_NE(MessageOf(status).find("abababab"), std::string::npos);
  EXPECT_NE(MessageOf(status).find("store-token"), std::string::npos);
}

TEST_F(KeyStoreTest, Pkcs11ToolSeesTheSameKeysAndAttributes) {
  if (RunCommand({.argv = {"pkcs11-tool", "--help"}}).status().code() == Code::kNotFound) {
    if (std::getenv("SEALIFT_REQUIRE_TOOLS") != nullptr) FAIL() << "no pkcs11-tool";
    GTEST_SKIP() << "no pkcs11-tool";
  }
  const auto rsa = token_->keys().Generate(KeyAlgorithm::kRsa2048, KeyUse::kSign, "sealift:t:db:1").value();
  const auto ec =
      token_->keys().Generate(KeyAlgorithm::kEcP256, KeyUse::kSign, "sealift:t:node-ca:1").value();
  const auto listing = Pkcs11Tool(
      {"--token-label", "store-token", "--login", "--pin", kPin, "--list-objects", "--type", "privkey"});
  EXPECT_EQ(listing.exit_code, 0) << listing.err;
  for (const std::string& expected : {rsa.key_id().hex(), ec.key_id().hex(), std::string("sealift:t:db:1")}) {
    EXPECT_NE(listing.out.find(expected), std::string::npos) << expected << "\n" << listing.out;
  }
  const std::string access = "sensitive, always sensitive, never extractable, local";
  const std::size_t first = listing.out.find(access);
  ASSERT_NE(first, std::string::npos) << listing.out;
  EXPECT_NE(listing.out.find(access, first + 1), std::string::npos) << listing.out;
  EXPECT_EQ(listing.out.find("decrypt"), std::string::npos) << listing.out;
  // The public half it exports is ours.
  const auto file = folder_.path() / "db.der";
  const auto read = Pkcs11Tool({"--token-label", "store-token", "--read-object", "--type", "pubkey", "--id",
                                rsa.key_id().hex(), "--output-file", file});
  EXPECT_EQ(read.exit_code, 0) << read.err;
  EXPECT_EQ(ReadFile(file).value(), rsa.spki_der());
}

}  // namespace
}  // namespace sealift::hsm
