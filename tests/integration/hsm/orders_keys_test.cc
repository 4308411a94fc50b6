// What orders and recovery keys need of the tokens: the delegation by orders-root, decryption by escrow.
#include <gtest/gtest.h>

#include "hsm/ceremony.h"
#include "hsm/journal_verify.h"
#include "hsm/orders_delegation.h"
#include "hsm/token_decrypter.h"
#include "shared/order/delegation.h"
#include "tests/integration/hsm/softhsm_fixture.h"

namespace sealift::hsm {
namespace {

class OrdersKeysTest : public SoftHsmTest {
 protected:
  void SetUp() override {
    SoftHsmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    arguments_ = MakeGroupTokens("orders");
    const auto made = InitialiseKeySet({.set = "orders",
                                        .folder = keys(),
                                        .tokens = OpenTokens(arguments_).value(),
                                        .expiration_days = 30,
                                        .controller_names = {"DNS:controller.lab"},
                                        .now = now_},
                                       [](const std::string&) {});
    ASSERT_TRUE(made.ok()) << Describe(made.status());
    auto ring = KeyRing::Open(keys(), arguments_);
    ASSERT_TRUE(ring.ok()) << Describe(ring.status());
    ring_ = *std::move(ring);
  }
  std::filesystem::path keys() const { return folder_.path() / "keys"; }
  PublicKey Public(const std::string& role) {
    return ring_->PublicKeyFor(*ring_->KeyFor(role).value()).value();
  }
  std::string JournalText() { return ReadTextFile(ring_->journal()->path()).value(); }
  // By openssl(1), so that our own code does not vouch for itself.
  Bytes Encrypted(const std::string& plaintext, const std::string& hash) {
    const auto file = [&](const char* name) { return (folder_.path() / name).string(); };
    EXPECT_TRUE(WriteFileAtomically(file("plain"), AsBytes(plaintext)).ok());
    EXPECT_TRUE(WriteFileAtomically(file("escrow.pem"), AsBytes(Public("escrow").Pem())).ok());
    const auto done =
        RunCommand({.argv = {"openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", file("escrow.pem"), "-in",
                             file("plain"), "-out", file("cipher"), "-pkeyopt", "rsa_padding_mode:oaep",
                             "-pkeyopt", "rsa_oaep_md:" + hash, "-pkeyopt", "rsa_mgf1_md:" + hash}});
    EXPECT_TRUE(done.ok() && done->exit_code == 0) << (done.ok() ? done->err : Describe(done.status()));
    return ReadFile(file("cipher")).value();
  }
  std::unique_ptr<TokenDecrypter> Decrypter(const std::string& intent) {
    const InventoryKey* key = ring_->KeyFor("escrow").value();
    auto decrypter = TokenDecrypter::Open(ring_->TokenFor(*key).value(), key->key_id, intent);
    EXPECT_TRUE(decrypter.ok()) << Describe(decrypter.status());
    return *std::move(decrypter);
  }

  const UnixMillis now_ = SystemClock().Now();
  std::vector<std::string> arguments_;
  std::unique_ptr<KeyRing> ring_;
};

TEST_F(OrdersKeysTest, TheCeremonyDelegatesOrders) {
  const std::string text = ReadTextFile(keys() / order::kDelegationFile).value();
  const auto delegation = order::VerifyDelegation(text, Public("orders-root"), now_);
  ASSERT_TRUE(delegation.ok()) << Describe(delegation.status());
  EXPECT_EQ(delegation->orders, std::vector<PublicKey>{Public("orders")});
  EXPECT_EQ(delegation->operator_cas, ring_->CertificatesFor("operator-ca").value());
  EXPECT_EQ(delegation->expires, now_ + std::chrono::hours(24 * 30));
  EXPECT_EQ(ReasonOf(order::VerifyDelegation(text, Public("tuf-root"), now_).status()),
            Reason::kOrderSignatureInvalid);
  EXPECT_NE(JournalText().find("delegation of orders until"), std::string::npos);
}

TEST_F(OrdersKeysTest, DelegatesAgainWithTheRootTokenOnly) {
  const auto again = DelegateOrders(*ring_, now_, 7);
  ASSERT_TRUE(again.ok()) << Describe(again.status());
  EXPECT_TRUE(order::VerifyDelegation(*again, Public("orders-root"), now_).ok());
  EXPECT_EQ(ReasonOf(DelegateOrders(*ring_, now_, 0).status()), Reason::kInvalidArgument);
  ring_.reset();
  const auto online = KeyRing::Open(keys(), {arguments_[2]}, folder_.path() / "other-journal");
  ASSERT_TRUE(online.ok()) << Describe(online.status());
  EXPECT_EQ(ReasonOf(DelegateOrders(**online, now_, 7).status()), Reason::kHsmKeyMissing);
}

TEST_F(OrdersKeysTest, DecryptsWhatOpensslEncryptedAndTellsTheJournal) {
  const Bytes ciphertext = Encrypted("nine-lives", "sha1");
  const auto secret =
      Decrypter("recovery key of node 7, request abc")->Decrypt(ciphertext, escrow::OaepHash::kSha1);
  ASSERT_TRUE(secret.ok()) << Describe(secret.status());
  EXPECT_TRUE(secret->Equals(AsBytes("nine-lives")));
  const std::string journal = JournalText();
  EXPECT_NE(journal.find("decrypt recovery key of node 7, request abc"), std::string::npos);
  EXPECT_EQ(journal.find("nine-lives"), std::string::npos);
}

TEST_F(OrdersKeysTest, WhatDoesNotDecryptIsRefusedAndRecordedAsFailed) {
  Bytes ciphertext = Encrypted("nine-lives", "sha1");
  ciphertext[20] ^= 1;
  EXPECT_EQ(ReasonOf(Decrypter("damaged")->Decrypt(ciphertext, escrow::OaepHash::kSha1).status()),
            Reason::kEscrowMalformed);
  EXPECT_EQ(ReasonOf(Decrypter("short")->Decrypt(AsBytes("x"), escrow::OaepHash::kSha1).status()),
            Reason::kEscrowMalformed);
  EXPECT_NE(JournalText().find("ESCROW_MALFORMED"), std::string::npos);
}

// SoftHSM 2.6 offers OAEP with SHA-1 only; a token that can do more gives the secret.
TEST_F(OrdersKeysTest, AHashThatTheTokenLacksIsNamed) {
  const Bytes ciphertext = Encrypted("nine-lives", "sha256");
  const auto secret = Decrypter("sha256")->Decrypt(ciphertext, escrow::OaepHash::kSha256);
  if (secret.ok()) {
    EXPECT_TRUE(secret->Equals(AsBytes("nine-lives")));
  } else {
    EXPECT_EQ(ReasonOf(secret.status()), Reason::kHsmMechanismMissing) << Describe(secret.status());
  }
}

}  // namespace
}  // namespace sealift::hsm
