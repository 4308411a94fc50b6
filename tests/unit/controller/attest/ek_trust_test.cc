#include "controller/attest/ek_trust.h"

#include <gtest/gtest.h>

#include "shared/base/files.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_pki.h"

namespace sealift::controller {
namespace {

using test::ReasonIdFrom;

const UnixMillis kNow = SystemClock().Now();

// An EK certificate as makers write them; `change` may spoil it before it is signed.
Bytes IssueEkCertificate(const PublicKey& ek, const test::TestCertificate& maker,
                         const std::vector<std::pair<std::string, std::string>>& extensions) {
  const X509Ptr x(X509_new());
  X509_set_version(x.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x.get()), 77);
  X509_gmtime_adj(X509_getm_notBefore(x.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(x.get()), 24L * 3600);
  X509_set_issuer_name(x.get(), X509_get_subject_name(maker.x509.get()));
  X509_set_pubkey(x.get(), ek.evp());
  for (const auto& [name, value] : extensions) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, maker.x509.get(), x.get(), nullptr, nullptr, 0);
    const X509ExtensionPtr extension(X509V3_EXT_conf(nullptr, &context, name.c_str(), value.c_str()));
    SEALIFT_CHECK(extension != nullptr && X509_add_ext(x.get(), extension.get(), -1) == 1);
  }
  SEALIFT_CHECK(X509_sign(x.get(), maker.key->evp(), EVP_sha256()) > 0);
  unsigned char* der = nullptr;
  const int size = i2d_X509(x.get(), &der);
  Bytes bytes(der, der + size);
  OPENSSL_free(der);
  return bytes;
}

const std::vector<std::pair<std::string, std::string>> kUsual{{"basicConstraints", "critical,CA:FALSE"},
                                                              {"extendedKeyUsage", "2.23.133.8.1"}};

class EkTrustTest : public ::testing::Test {
 protected:
  Result<EndorsementIdentity> Identify(const std::vector<Bytes>& chain, UnixMillis now = kNow) const {
    return IdentifyEndorsementKey(test::Sized(test::PublicAreaOf(ek_->public_key(), test::kEkAttributes)),
                                  chain, makers_, now);
  }
  const test::TestCertificate maker_ = test::MakeCa("TPM maker");
  const TpmMakers makers_{.anchors = {Certificate::FromPem(maker_.Pem()).value()}};
  const std::unique_ptr<SoftwareSigner> ek_ = SoftwareSigner::Generate(KeyType::kRsa).value();
};

TEST_F(EkTrustTest, BelievesACertificateOfAKnownMaker) {
  const auto identity = Identify({IssueEkCertificate(ek_->public_key(), maker_, kUsual)});
  ASSERT_TRUE(identity.ok()) << Describe(identity.status());
  EXPECT_TRUE(identity->certified);
  EXPECT_EQ(identity->ek_digest, ek_->public_key().key_id());
  EXPECT_NE(identity->issuer, "");
}

TEST_F(EkTrustTest, WithoutACertificateNothingIsCertified) {
  const auto identity = Identify({});
  ASSERT_TRUE(identity.ok());
  EXPECT_FALSE(identity->certified);
}

TEST_F(EkTrustTest, WithoutMakersACertificateSaysNoMoreThanItsKey) {
  const Bytes certificate = IssueEkCertificate(ek_->public_key(), maker_, kUsual);
  const Bytes ek = test::Sized(test::PublicAreaOf(ek_->public_key(), test::kEkAttributes));
  const auto identity = IdentifyEndorsementKey(ek, std::vector<Bytes>{certificate}, {}, kNow);
  ASSERT_TRUE(identity.ok()) << Describe(identity.status());
  EXPECT_FALSE(identity->certified);
  EXPECT_EQ(identity->ek_digest, ek_->public_key().key_id());
  const auto other = SoftwareSigner::Generate(KeyType::kRsa).value();
  EXPECT_EQ(ReasonIdFrom(IdentifyEndorsementKey(
                ek, std::vector<Bytes>{IssueEkCertificate(other->public_key(), maker_, kUsual)}, {}, kNow)),
            "EK_CERTIFICATE_MISMATCH");
}

TEST_F(EkTrustTest, RefusesTheCertificateOfAnotherKeyAnotherMakerOrAnotherTime) {
  const auto other = SoftwareSigner::Generate(KeyType::kRsa).value();
  EXPECT_EQ(ReasonIdFrom(Identify({IssueEkCertificate(other->public_key(), maker_, kUsual)})),
            "EK_CERTIFICATE_MISMATCH");
  const auto foreign = test::MakeCa("TPM maker");
  const Bytes by_foreign = IssueEkCertificate(ek_->public_key(), foreign, kUsual);
  EXPECT_EQ(ReasonIdFrom(Identify({by_foreign})), "EK_CERTIFICATE_INVALID");
  // Bringing one's own root does not help.
  EXPECT_EQ(ReasonIdFrom(Identify({by_foreign, Certificate::FromPem(foreign.Pem())->der()})),
            "EK_CERTIFICATE_INVALID");
  const Bytes good = IssueEkCertificate(ek_->public_key(), maker_, kUsual);
  EXPECT_EQ(ReasonIdFrom(Identify({good}, kNow + std::chrono::hours(48))), "EK_CERTIFICATE_INVALID");
  Bytes changed = good;
  changed.back() ^= 1;
  EXPECT_EQ(ReasonIdFrom(Identify({changed})), "EK_CERTIFICATE_INVALID");
  EXPECT_EQ(ReasonIdFrom(Identify({Bytes{1, 2, 3}})), "EK_CERTIFICATE_INVALID");
  EXPECT_EQ(ReasonIdFrom(Identify(std::vector<Bytes>(kMaxChainLength + 1, good))), "EK_CERTIFICATE_INVALID");
}

TEST_F(EkTrustTest, RefusesCertificatesMeantForSomethingElse) {
  EXPECT_EQ(ReasonIdFrom(Identify(
                {IssueEkCertificate(ek_->public_key(), maker_, {{"extendedKeyUsage", "serverAuth"}})})),
            "EK_CERTIFICATE_INVALID");
  EXPECT_EQ(ReasonIdFrom(Identify(
                {IssueEkCertificate(ek_->public_key(), maker_, {{"basicConstraints", "critical,CA:TRUE"}})})),
            "EK_CERTIFICATE_INVALID");
  EXPECT_TRUE(Identify({IssueEkCertificate(ek_->public_key(), maker_, {})}).ok());
}

TEST_F(EkTrustTest, AcceptsCriticalTcgExtensionsAndNoOtherUnknownOnes) {
  for (const char* harmless : {"2.5.29.9"}) {
    auto extensions = kUsual;
    extensions.emplace_back(harmless, "critical,DER:3000");
    const auto identity = Identify({IssueEkCertificate(ek_->public_key(), maker_, extensions)});
    EXPECT_TRUE(identity.ok()) << harmless << Describe(identity.status());
    extensions.emplace_back("1.2.3.4.5", "critical,DER:3000");
    EXPECT_EQ(ReasonIdFrom(Identify({IssueEkCertificate(ek_->public_key(), maker_, extensions)})),
              "EK_CERTIFICATE_INVALID");
  }
}

TEST_F(EkTrustTest, RefusesKeysThatAreNoEndorsementKeys) {
  const Bytes ak = test::Sized(test::PublicAreaOf(ek_->public_key(), test::kAkAttributes));
  EXPECT_EQ(ReasonIdFrom(IdentifyEndorsementKey(ak, {}, makers_, kNow)), "EK_UNSUITABLE");
}

TEST(TpmMakers, ReadsAFolderOfPemAndDerAndNamesABadFile) {
  const auto folder = TempDir::Create("sealift-makers").value();
  const auto first = test::MakeCa("first");
  const auto second = test::MakeCa("second");
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "a.pem", AsBytes(first.Pem())).ok());
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "b.der", Certificate::FromPem(second.Pem())->der()).ok());
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "README", AsBytes("not a certificate")).ok());
  const auto makers = LoadTpmMakers(folder.path());
  ASSERT_TRUE(makers.ok()) << Describe(makers.status());
  EXPECT_EQ(makers->anchors.size(), 2u);
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "c.crt", AsBytes("rubbish")).ok());
  const auto bad = LoadTpmMakers(folder.path());
  EXPECT_EQ(ReasonIdFrom(bad), "MALFORMED");
  EXPECT_NE(MessageOf(bad.status()).find("c.crt"), std::string::npos);
  EXPECT_EQ(ReasonIdFrom(LoadTpmMakers("/nowhere")), "FILE_UNREADABLE");
}

}  // namespace
}  // namespace sealift::controller
