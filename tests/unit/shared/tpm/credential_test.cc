#include "shared/tpm/credential.h"

#include <gtest/gtest.h>

#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::tpm {
namespace {

using test::ReasonIdFrom;

PublicArea Ek(KeyType type, std::uint32_t attributes = test::kEkAttributes) {
  const auto key = SoftwareSigner::Generate(type).value();
  return ParsePublicArea(test::PublicAreaOf(key->public_key(), attributes)).value();
}

// The derivation is fixed against an independent one (Python's hmac) and, through whole credentials, against
// swtpm in the integration tests.
TEST(Kdf, GivesTheKnownAnswers) {
  const Bytes key(32, 0x0B);
  const Bytes name(34, 0x22);
  EXPECT_EQ(HexEncode(KdfA(key, "STORAGE", name, {}, 16).ExposeSecret()), "872f6954db3b16ab26574db11904a714");
  EXPECT_EQ(HexEncode(KdfA(key, "INTEGRITY", {}, {}, 32).ExposeSecret()),
            "d31fe0aa206c0af241f3d41b032c42355526931bce8cf86d73d88491aae496c1");
  EXPECT_EQ(HexEncode(KdfA(key, "LONG", name, name, 40).ExposeSecret()),
            "59d18c6b92ec85eae2da4aadd006d93ecbab9d4ddb6b72d025298d386b021e088a4f5d1ea66ec1c4");
  EXPECT_EQ(HexEncode(KdfE(key, "IDENTITY", Bytes(32, 1), Bytes(32, 2), 32).ExposeSecret()),
            "2ea2df90e8f9c3db3c1fb0e4210a87acbbf5988caf3a521840e2c7462bd0c139");
}

TEST(MakeCredential, HasTheSizesATpmExpects) {
  const Bytes name(34, 0x22);
  const auto rsa = MakeCredential(Ek(KeyType::kRsa), name, SecretBytes(Bytes(32, 1)));
  ASSERT_TRUE(rsa.ok()) << Describe(rsa.status());
  EXPECT_EQ(rsa->encrypted_secret.size(), 2u + 256u);
  // TPM2B_ID_OBJECT: size, then TPM2B_DIGEST HMAC, then the encrypted TPM2B_DIGEST.
  EXPECT_EQ(rsa->blob.size(), 2u + (2u + 32u) + (2u + 32u));
  const auto ecc = MakeCredential(Ek(KeyType::kEcP256), name, SecretBytes(Bytes(20, 1)));
  ASSERT_TRUE(ecc.ok()) << Describe(ecc.status());
  EXPECT_EQ(ecc->encrypted_secret.size(), 2u + 2u * (2u + 32u));
  EXPECT_EQ(ecc->blob.size(), 2u + (2u + 32u) + (2u + 20u));
}

TEST(MakeCredential, NeverTheSameTwice) {
  const PublicArea ek = Ek(KeyType::kRsa);
  const Bytes name(34, 0x22);
  const SecretBytes secret(Bytes(32, 1));
  EXPECT_NE(MakeCredential(ek, name, secret)->blob, MakeCredential(ek, name, secret)->blob);
}

TEST(MakeCredential, RefusesKeysThatAreNoEndorsementKeysAndSecretsThatDoNotFit) {
  const Bytes name(34, 0x22);
  const SecretBytes secret(Bytes(32, 1));
  EXPECT_EQ(ReasonIdFrom(MakeCredential(Ek(KeyType::kRsa, test::kAkAttributes), name, secret)),
            "EK_UNSUITABLE");
  EXPECT_EQ(ReasonIdFrom(MakeCredential(Ek(KeyType::kEcP384), name, secret)), "EK_UNSUITABLE");
  EXPECT_EQ(ReasonIdFrom(MakeCredential(Ek(KeyType::kRsa), name, SecretBytes())), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonIdFrom(MakeCredential(Ek(KeyType::kRsa), name, SecretBytes(Bytes(33, 1)))),
            "INVALID_ARGUMENT");
}

}  // namespace
}  // namespace sealift::tpm
