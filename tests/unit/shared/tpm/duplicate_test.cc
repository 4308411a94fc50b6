// What a duplicated secret looks like from outside. That a TPM imports and opens it is shown with swtpm and
// tpm2-tools in tests/integration/node-agent/tpm/esys_importer_test.cc.
#include "shared/tpm/duplicate.h"

#include <gtest/gtest.h>

#include "shared/tpm/credential.h"
#include "shared/tpm/protected_object.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::tpm {
namespace {

using test::ReasonIdFrom;

PublicArea Ek(KeyType type, std::uint32_t attributes = test::kEkAttributes) {
  const auto key = SoftwareSigner::Generate(type).value();
  return ParsePublicArea(test::PublicAreaOf(key->public_key(), attributes)).value();
}

const Sha256Digest kPolicy = Sha256(AsBytes("policy"));

DuplicatedSecret Make(KeyType type = KeyType::kEcP256, std::size_t size = 32) {
  return DuplicateSecret(Ek(type), SecretBytes(Bytes(size, 7)), kPolicy).value();
}

TEST(DuplicateSecret, HasTheSizesATpmExpects) {
  const DuplicatedSecret rsa = Make(KeyType::kRsa, 128);
  EXPECT_EQ(rsa.encrypted_seed.size(), 2u + 256u);
  // TPM2B_PRIVATE: HMAC, then TPM2B_SENSITIVE: type, no password, hiding value, secret.
  EXPECT_EQ(rsa.duplicate.size(), 2u + (2u + 32u) + (2u + 2u + 2u + (2u + 32u) + (2u + 128u)));
  const DuplicatedSecret ecc = Make();
  EXPECT_EQ(ecc.encrypted_seed.size(), 2u + 2u * (2u + 32u));
  EXPECT_TRUE(CheckDuplicate(rsa, kPolicy).ok());
  EXPECT_TRUE(CheckDuplicate(ecc, kPolicy).ok());
}

TEST(DuplicateSecret, OpensByItsPolicyAlone) {
  const auto area = ParseSealedArea(Make().public_area);
  ASSERT_TRUE(area.ok()) << Describe(area.status());
  EXPECT_EQ(area->policy, kPolicy);
  EXPECT_EQ(area->attributes, kAttrAdminWithPolicy | kAttrNoDa);
}

TEST(DuplicateSecret, NeverTheSameTwiceAndNeverInTheClear) {
  const PublicArea ek = Ek(KeyType::kEcP256);
  const SecretBytes secret(AsBytes("thirty-two bytes of recognisable"));
  const auto one = DuplicateSecret(ek, secret, kPolicy).value();
  const auto two = DuplicateSecret(ek, secret, kPolicy).value();
  EXPECT_NE(one.duplicate, two.duplicate);
  EXPECT_NE(one.encrypted_seed, two.encrypted_seed);
  // The public part hides it as well: equal secrets cannot be told from each other.
  EXPECT_NE(one.public_area, two.public_area);
  EXPECT_EQ(ToText(one.duplicate).find("recognisable"), std::string::npos);
}

TEST(DuplicateSecret, RefusesKeysThatAreNoEndorsementKeysAndSecretsThatDoNotFit) {
  const SecretBytes secret(Bytes(32, 1));
  EXPECT_EQ(ReasonIdFrom(DuplicateSecret(Ek(KeyType::kRsa, test::kAkAttributes), secret, kPolicy)),
            "EK_UNSUITABLE");
  EXPECT_EQ(ReasonIdFrom(DuplicateSecret(Ek(KeyType::kEcP384), secret, kPolicy)), "EK_UNSUITABLE");
  EXPECT_EQ(ReasonIdFrom(DuplicateSecret(Ek(KeyType::kEcP256), SecretBytes(), kPolicy)), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonIdFrom(DuplicateSecret(Ek(KeyType::kEcP256), SecretBytes(Bytes(129, 1)), kPolicy)),
            "INVALID_ARGUMENT");
}

TEST(CheckDuplicate, RefusesEveryLengthAndEveryPropertyThatIsWrong) {
  const DuplicatedSecret good = Make();
  EXPECT_EQ(ReasonIdFrom(CheckDuplicate(good, Sha256(AsBytes("another")))), "MALFORMED");
  for (Bytes DuplicatedSecret::*part :
       {&DuplicatedSecret::public_area, &DuplicatedSecret::duplicate, &DuplicatedSecret::encrypted_seed}) {
    for (std::size_t size = 0; size < (good.*part).size(); ++size) {
      DuplicatedSecret cut = good;
      (cut.*part).resize(size);
      EXPECT_EQ(ReasonIdFrom(CheckDuplicate(cut, kPolicy)), "MALFORMED") << size;
    }
    DuplicatedSecret longer = good;
    (longer.*part).push_back(0);
    EXPECT_EQ(ReasonIdFrom(CheckDuplicate(longer, kPolicy)), "MALFORMED");
  }
  // Each byte of the public area's fixed fields: type, name algorithm, attributes, policy, scheme, lengths.
  const std::size_t unique = good.public_area.size() - 32;
  for (std::size_t at = 0; at < unique; ++at) {
    DuplicatedSecret changed = good;
    changed.public_area[at] ^= 0x40;
    EXPECT_EQ(ReasonIdFrom(CheckDuplicate(changed, kPolicy)), "MALFORMED") << at;
  }
  // An HMAC of another size, and nothing behind it.
  DuplicatedSecret changed = good;
  changed.duplicate = SizedBytes(Bytes(40, 0));
  EXPECT_EQ(ReasonIdFrom(CheckDuplicate(changed, kPolicy)), "MALFORMED");
}

TEST(CheckCredential, TakesWhatMakeCredentialMakesAndRefusesEveryOtherLength) {
  for (const KeyType type : {KeyType::kRsa, KeyType::kEcP256}) {
    const auto made = MakeCredential(Ek(type), Bytes(34, 0x22), SecretBytes(Bytes(32, 1))).value();
    EXPECT_TRUE(CheckCredential(made.blob, made.encrypted_secret).ok());
    for (std::size_t size = 0; size < made.blob.size(); ++size) {
      EXPECT_EQ(ReasonIdFrom(CheckCredential(ByteView(made.blob).first(size), made.encrypted_secret)),
                "MALFORMED");
    }
    for (std::size_t size = 0; size < made.encrypted_secret.size(); ++size) {
      EXPECT_EQ(ReasonIdFrom(CheckCredential(made.blob, ByteView(made.encrypted_secret).first(size))),
                "MALFORMED");
    }
  }
  // A duplicated object is no credential.
  const DuplicatedSecret object = Make();
  EXPECT_EQ(ReasonIdFrom(CheckCredential(object.duplicate, object.encrypted_seed)), "MALFORMED");
}

}  // namespace
}  // namespace sealift::tpm
