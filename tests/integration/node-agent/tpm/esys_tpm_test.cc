// The agent's TPM against swtpm: what it makes and signs is checked by our verifiers and by tpm2-tools.
#include "node-agent/tpm/esys_tpm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "node-agent/tpm/tls_signer.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/key_reference.h"
#include "shared/tpm/certify.h"
#include "shared/tpm/credential.h"
#include "shared/tpm/key_policy.h"
#include "shared/tpm/quote.h"
#include "tests/support/status_matchers.h"
#include "tests/support/swtpm.h"
#include "tests/support/test_pki.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;
using test::Swtpm;

class EsysTpmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "swtpm_localca", "tpm2_checkquote");
    ::setenv("TSS2_LOG", "all+NONE", 1);
  }
  static std::unique_ptr<Tpm> Open(const Swtpm& swtpm) {
    auto tpm = OpenEsysTpm({.tcti = swtpm.tcti()});
    EXPECT_TRUE(tpm.ok()) << Describe(tpm.status());
    return tpm.ok() ? *std::move(tpm) : nullptr;
  }
  static void Write(const Swtpm& swtpm, const std::string& name, ByteView bytes) {
    ASSERT_TRUE(WriteFileAtomically(swtpm.folder() / name, bytes).ok());
  }
  const Bytes nonce_ = RandomBytes(32);
};

tpm::PublicArea Area(ByteView tpm2b_public) {
  auto area = tpm::ParsePublic(tpm2b_public);
  SEALIFT_CHECK(area.ok());
  return *std::move(area);
}

TEST_F(EsysTpmTest, MakesSuitableKeysOnceAndFindsThemAgainAfterAPowerCycle) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  auto tpm = Open(*swtpm);
  ASSERT_NE(tpm, nullptr);
  const auto first = tpm->EnsureKeys();
  ASSERT_TRUE(first.ok()) << Describe(first.status());
  EXPECT_TRUE(tpm::CheckAttestationKey(Area(first->attestation)).ok());
  EXPECT_TRUE(tpm::CheckTlsKey(Area(first->tls)).ok());
  tpm.reset();
  swtpm->PowerCycle();
  tpm = Open(*swtpm);
  const auto again = tpm->EnsureKeys();
  ASSERT_TRUE(again.ok()) << Describe(again.status());
  EXPECT_EQ(again->attestation, first->attestation);
  EXPECT_EQ(again->tls, first->tls);
  tpm.reset();
  EXPECT_THAT(swtpm->Tool({"tpm2_getcap", "handles-persistent"}),
              ::testing::AllOf(::testing::HasSubstr("0x81010020"), ::testing::HasSubstr("0x81000010")));
  EXPECT_EQ(swtpm->Tool({"tpm2_getcap", "handles-transient"}), "");
}

TEST_F(EsysTpmTest, NamesEqualThoseOfTpm2Tools) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  auto tpm = Open(*swtpm);
  const auto keys = tpm->EnsureKeys();
  ASSERT_TRUE(keys.ok());
  tpm.reset();
  swtpm->Tool({"tpm2_readpublic", "-c", "0x81010020", "-n", "ak.name", "-o", "ak.pem", "-f", "pem"});
  EXPECT_EQ(ReadFile(swtpm->folder() / "ak.name").value(), Area(keys->attestation).name);
  EXPECT_EQ(PublicKey::FromPem(ReadTextFile(swtpm->folder() / "ak.pem").value()).value(),
            Area(keys->attestation).key);
}

TEST_F(EsysTpmTest, MakesTheSameKeysAgainWhenTheirHandlesAreLost) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  auto tpm = Open(*swtpm);
  const auto first = tpm->EnsureKeys();
  ASSERT_TRUE(first.ok());
  tpm.reset();
  swtpm->Tool({"tpm2_evictcontrol", "-C", "o", "-c", "0x81010020"});
  swtpm->Tool({"tpm2_evictcontrol", "-C", "o", "-c", "0x81000010"});
  tpm = Open(*swtpm);
  const auto again = tpm->EnsureKeys();
  ASSERT_TRUE(again.ok()) << Describe(again.status());
  EXPECT_EQ(again->attestation, first->attestation);
  EXPECT_EQ(again->tls, first->tls);
}

TEST_F(EsysTpmTest, LeavesAnotherKeyAtItsHandleAlone) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  swtpm->Tool({"tpm2_createprimary", "-C", "o", "-G", "rsa", "-c", "other.ctx"});
  swtpm->Tool({"tpm2_evictcontrol", "-C", "o", "-c", "other.ctx", "0x81000010"});
  swtpm->Tool({"tpm2_flushcontext", "-t"});
  auto tpm = Open(*swtpm);
  EXPECT_EQ(ReasonIdFrom(tpm->EnsureKeys()), "TPM_HANDLE_OCCUPIED");
  tpm.reset();
  EXPECT_THAT(swtpm->Tool({"tpm2_readpublic", "-c", "0x81000010"}), ::testing::HasSubstr("rsa"));
}

TEST_F(EsysTpmTest, QuoteIsAcceptedByUsAndByTpm2Checkquote) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  const std::string event(64, 'a');
  swtpm->Tool({"tpm2_pcrextend", "11:sha256=" + event, "4:sha256=" + event});
  auto tpm = Open(*swtpm);
  const auto keys = tpm->EnsureKeys();
  ASSERT_TRUE(keys.ok());
  const auto quote = tpm->Quote(nonce_, kQuotedPcrs);
  ASSERT_TRUE(quote.ok()) << Describe(quote.status());
  const auto verified = tpm::VerifyQuote(*quote, Area(keys->attestation), nonce_, kQuotedPcrs);
  ASSERT_TRUE(verified.ok()) << Describe(verified.status());
  EXPECT_EQ(verified->pcrs().size(), kQuotedPcrs.size());
  EXPECT_EQ(verified->pcrs().at(9), Sha256Digest{});
  EXPECT_NE(verified->pcrs().at(11), Sha256Digest{});
  tpm.reset();

  Write(*swtpm, "quote", quote->attest);
  Write(*swtpm, "signature", quote->signature);
  swtpm->Tool({"tpm2_readpublic", "-c", "0x81010020", "-o", "ak.pem", "-f", "pem"});
  swtpm->Tool({"tpm2_pcrread", "sha256:0,1,2,3,4,5,6,7,9,11,12,13,14", "-o", "pcrs"});
  const std::vector<std::string> check{"tpm2_checkquote", "-u", "ak.pem", "-m", "quote",          "-s",
                                       "signature",       "-g", "sha256", "-q", HexEncode(nonce_)};
  EXPECT_EQ(swtpm->ToolOutput(check).exit_code, 0);
  std::vector<std::string> other_nonce = check;
  other_nonce.back() = HexEncode(RandomBytes(32));
  EXPECT_NE(swtpm->ToolOutput(other_nonce).exit_code, 0);
  // The values we sent are the values the tool reads.
  Bytes concatenated;
  for (const auto& [pcr, value] : quote->pcrs) Append(concatenated, value.view());
  EXPECT_EQ(ReadFile(swtpm->folder() / "pcrs").value(), concatenated);
}

TEST_F(EsysTpmTest, QuoteOfTpm2ToolsIsAcceptedInEveryScheme) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  swtpm->Tool({"tpm2_createek", "-c", "ek.ctx", "-G", "rsa"});
  for (const std::string scheme : {"rsassa", "rsapss", "ecdsa"}) {
    swtpm->Tool({"tpm2_flushcontext", "-t"});
    swtpm->Tool({"tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", scheme == "ecdsa" ? "ecc" : "rsa",
                 "-s", scheme, "-u", "ak.pub"});
    swtpm->Tool({"tpm2_flushcontext", "-t"});
    swtpm->Tool({"tpm2_quote", "-c", "ak.ctx", "-l", "sha256:4,7,11", "-q", HexEncode(nonce_), "--scheme",
                 scheme, "-m", "q", "-s", "s"});
    tpm::QuoteEvidence evidence{.attest = ReadFile(swtpm->folder() / "q").value(),
                                .signature = ReadFile(swtpm->folder() / "s").value(),
                                .pcrs = {{4, {}}, {7, {}}, {11, {}}}};
    const tpm::PublicArea ak = Area(ReadFile(swtpm->folder() / "ak.pub").value());
    EXPECT_TRUE(tpm::CheckAttestationKey(ak).ok()) << scheme;
    const auto verified = tpm::VerifyQuote(evidence, ak, nonce_, {});
    EXPECT_TRUE(verified.ok()) << scheme << ": " << Describe(verified.status());
    evidence.signature.back() ^= 1;
    EXPECT_EQ(ReasonIdFrom(tpm::VerifyQuote(evidence, ak, nonce_, {})), "QUOTE_SIGNATURE_INVALID") << scheme;
  }
}

TEST_F(EsysTpmTest, ReadsTheEndorsementKeyWithItsCertificate) {
  const auto swtpm = Swtpm::Start();
  const auto tpm = Open(*swtpm);
  const auto key = tpm->ReadEndorsementKey();
  ASSERT_TRUE(key.ok()) << Describe(key.status());
  const tpm::PublicArea area = Area(key->public_area);
  EXPECT_EQ(area.type, tpm::kAlgRsa);
  EXPECT_TRUE(tpm::CheckEndorsementKey(area).ok());
  ASSERT_EQ(key->certificates.size(), 1u);
  const unsigned char* at = key->certificates[0].data();
  const X509Ptr certificate(d2i_X509(nullptr, &at, static_cast<long>(key->certificates[0].size())));
  ASSERT_NE(certificate, nullptr);
  EXPECT_EQ(PublicKey::FromEvp(X509_get0_pubkey(certificate.get())).value(), area.key);
}

TEST_F(EsysTpmTest, ReadsAnEccCertificateAndTheMakersChainFromPaddedIndexes) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  std::vector<Bytes> certificates;
  for (const char* name : {"leaf", "issuer", "root"}) {
    unsigned char* der = nullptr;
    const int size = i2d_X509(test::MakeCa(name).x509.get(), &der);
    certificates.emplace_back(der, der + size);
    OPENSSL_free(der);
  }
  const auto write_index = [&](const std::string& index, Bytes bytes) {
    bytes.resize(bytes.size() + 300, 0);
    Write(*swtpm, "nv", bytes);
    swtpm->Tool({"tpm2_nvdefine", index, "-C", "o", "-s", std::to_string(bytes.size())});
    swtpm->Tool({"tpm2_nvwrite", index, "-C", "o", "-i", "nv"});
  };
  write_index("0x01c0000a", certificates[0]);
  Bytes chain = certificates[1];
  Append(chain, certificates[2]);
  write_index("0x01c00100", chain);
  const auto tpm = Open(*swtpm);
  const auto key = tpm->ReadEndorsementKey();
  ASSERT_TRUE(key.ok()) << Describe(key.status());
  EXPECT_EQ(Area(key->public_area).type, tpm::kAlgEcc);
  EXPECT_EQ(key->certificates, certificates);
}

TEST_F(EsysTpmTest, ActivatesCredentialsOfBothKindsOfEndorsementKey) {
  for (const bool rsa : {true, false}) {
    // Without a certificate the endorsement key is the ECC one.
    const auto swtpm = Swtpm::Start({.ek_certificate = rsa});
    auto tpm = Open(*swtpm);
    const auto keys = tpm->EnsureKeys();
    const auto endorsement = tpm->ReadEndorsementKey();
    ASSERT_TRUE(keys.ok() && endorsement.ok());
    const tpm::PublicArea ek = Area(endorsement->public_area);
    ASSERT_EQ(ek.type, rsa ? tpm::kAlgRsa : tpm::kAlgEcc);
    const tpm::PublicArea ak = Area(keys->attestation);
    const SecretBytes secret(RandomBytes(32));
    const auto credential = tpm::MakeCredential(ek, ak.name, secret);
    ASSERT_TRUE(credential.ok()) << Describe(credential.status());
    const auto activated = tpm->ActivateCredential(credential->blob, credential->encrypted_secret);
    ASSERT_TRUE(activated.ok()) << Describe(activated.status());
    EXPECT_TRUE(activated->Equals(secret.ExposeSecret()));

    // Made for another key: this TPM must not give the secret back.
    const auto for_tls = tpm::MakeCredential(ek, Area(keys->tls).name, secret);
    EXPECT_EQ(ReasonIdFrom(tpm->ActivateCredential(for_tls->blob, for_tls->encrypted_secret)),
              "TPM_COMMAND_FAILED");
    // A failed activation leaves no session behind.
    tpm.reset();
    EXPECT_EQ(swtpm->Tool({"tpm2_getcap", "handles-loaded-session"}), "");
    EXPECT_EQ(swtpm->Tool({"tpm2_getcap", "handles-transient"}), "");
  }
}

// Their policy is "the endorsement's authorisation, or what the maker's NV index says" (PolicyB).
TEST_F(EsysTpmTest, KnowsEndorsementKeysOfTheHighRangeByTheirCertificates) {
  for (const auto& [index, type] : {std::pair{"0x01c00012", tpm::kAlgRsa}, {"0x01c00014", tpm::kAlgEcc}}) {
    const auto swtpm = Swtpm::Start({.ek_certificate = false});
    unsigned char* der = nullptr;
    const int size = i2d_X509(test::MakeCa("leaf").x509.get(), &der);
    const Bytes certificate(der, der + size);
    OPENSSL_free(der);
    Write(*swtpm, "nv", certificate);
    swtpm->Tool({"tpm2_nvdefine", index, "-C", "o", "-s", std::to_string(certificate.size())});
    swtpm->Tool({"tpm2_nvwrite", index, "-C", "o", "-i", "nv"});
    auto tpm = Open(*swtpm);
    const auto keys = tpm->EnsureKeys();
    const auto endorsement = tpm->ReadEndorsementKey();
    ASSERT_TRUE(keys.ok() && endorsement.ok()) << Describe(endorsement.status());
    EXPECT_EQ(endorsement->certificates, std::vector<Bytes>{certificate});
    const tpm::PublicArea ek = Area(endorsement->public_area);
    EXPECT_EQ(ek.type, type);
    EXPECT_TRUE(ek.Has(tpm::kAttrUserWithAuth | tpm::kAttrAdminWithPolicy));
    const SecretBytes secret(RandomBytes(32));
    const auto credential = tpm::MakeCredential(ek, Area(keys->attestation).name, secret);
    ASSERT_TRUE(credential.ok()) << Describe(credential.status());
    const auto activated = tpm->ActivateCredential(credential->blob, credential->encrypted_secret);
    ASSERT_TRUE(activated.ok()) << Describe(activated.status());
    EXPECT_TRUE(activated->Equals(secret.ExposeSecret()));
    tpm.reset();
    EXPECT_EQ(swtpm->Tool({"tpm2_getcap", "handles-loaded-session"}), "");
  }
}

TEST_F(EsysTpmTest, ActivatesACredentialMadeByTpm2Makecredential) {
  const auto swtpm = Swtpm::Start();
  auto tpm = Open(*swtpm);
  const auto keys = tpm->EnsureKeys();
  const auto endorsement = tpm->ReadEndorsementKey();
  ASSERT_TRUE(keys.ok() && endorsement.ok());
  tpm.reset();
  const Bytes secret = RandomBytes(32);
  Write(*swtpm, "ek.pub", endorsement->public_area);
  Write(*swtpm, "secret", secret);
  swtpm->Tool({"tpm2_makecredential", "-T", "none", "-u", "ek.pub", "-s", "secret", "-n",
               HexEncode(Area(keys->attestation).name), "-o", "credential"});
  // The tool's file: magic, version, then TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
  const Bytes file = ReadFile(swtpm->folder() / "credential").value();
  ByteReader reader(file, ByteReader::Endian::kBig);
  reader.Skip(8);
  const std::size_t blob_at = reader.offset();
  reader.Skip(reader.U16());
  const ByteView blob = ByteView(file).subspan(blob_at, reader.offset() - blob_at);
  const ByteView encrypted = ByteView(file).subspan(reader.offset());
  tpm = Open(*swtpm);
  const auto activated = tpm->ActivateCredential(blob, encrypted);
  ASSERT_TRUE(activated.ok()) << Describe(activated.status());
  EXPECT_TRUE(activated->Equals(secret));
}

TEST_F(EsysTpmTest, OurCredentialIsActivatedByTpm2Tools) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  swtpm->Tool({"tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub"});
  swtpm->Tool({"tpm2_flushcontext", "-t"});
  swtpm->Tool({"tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-s", "ecdsa", "-u", "ak.pub",
               "-n", "ak.name"});
  swtpm->Tool({"tpm2_flushcontext", "-t"});
  const Bytes secret = RandomBytes(20);
  const auto credential =
      tpm::MakeCredential(Area(ReadFile(swtpm->folder() / "ek.pub").value()),
                          ReadFile(swtpm->folder() / "ak.name").value(), SecretBytes(ByteView(secret)));
  ASSERT_TRUE(credential.ok()) << Describe(credential.status());
  Bytes file = HexDecode("badcc0de00000001").value();
  Append(file, credential->blob);
  Append(file, credential->encrypted_secret);
  Write(*swtpm, "credential", file);
  swtpm->Tool({"tpm2_startauthsession", "--policy-session", "-S", "session.ctx"});
  swtpm->Tool({"tpm2_policysecret", "-S", "session.ctx", "-c", "e"});
  swtpm->Tool({"tpm2_activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "out",
               "-P", "session:session.ctx"});
  EXPECT_EQ(ReadFile(swtpm->folder() / "out").value(), secret);
}

TEST_F(EsysTpmTest, CertifiesTheTlsKeyUnderTheNonce) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  const auto tpm = Open(*swtpm);
  const auto keys = tpm->EnsureKeys();
  ASSERT_TRUE(keys.ok());
  const tpm::PublicArea ak = Area(keys->attestation);
  const tpm::PublicArea tls = Area(keys->tls);
  const auto made = tpm->CertifyTlsKey(nonce_);
  ASSERT_TRUE(made.ok()) << Describe(made.status());
  EXPECT_TRUE(tpm::VerifyCertify(made->attest, made->signature, ak, nonce_, tls).ok());
  EXPECT_EQ(ReasonIdFrom(tpm::VerifyCertify(made->attest, made->signature, ak, RandomBytes(32), tls)),
            "CERTIFY_NONCE_STALE");
  EXPECT_EQ(ReasonIdFrom(tpm::VerifyCertify(made->attest, made->signature, ak, nonce_, ak)),
            "CERTIFY_NAME_MISMATCH");
  EXPECT_EQ(ReasonIdFrom(tpm::VerifyCertify(made->attest, made->signature, tls, nonce_, tls)),
            "CERTIFY_SIGNATURE_INVALID");
  const auto quote = tpm->Quote(nonce_, kQuotedPcrs);
  EXPECT_EQ(ReasonIdFrom(tpm::VerifyCertify(quote->attest, quote->signature, ak, nonce_, tls)),
            "CERTIFY_MALFORMED");
  const tpm::QuoteEvidence certify_as_quote{
      .attest = made->attest, .signature = made->signature, .pcrs = quote->pcrs};
  EXPECT_EQ(ReasonIdFrom(tpm::VerifyQuote(certify_as_quote, ak, nonce_, {})), "QUOTE_TYPE_WRONG");
}

TEST_F(EsysTpmTest, TlsKeySignsThroughAKeyReferenceFromSeveralThreads) {
  const auto swtpm = Swtpm::Start({.ek_certificate = false});
  const std::shared_ptr<Tpm> tpm = Open(*swtpm);
  ASSERT_TRUE(InstallKeyProvider().ok());
  RegisterTpmKeyResolver(tpm);
  const auto key = LoadKeyReference(KeyReferencePem(kTlsKeyUri));
  ASSERT_TRUE(key.ok()) << Describe(key.status());
  EXPECT_FALSE(LoadKeyReference(KeyReferencePem("tpm2:0x81000011")).ok());
  const PublicKey tls = Area(tpm->EnsureKeys()->tls).key;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 10; ++round) {
        const std::string message = std::to_string(i * 100 + round);
        const EvpMdCtxPtr context(EVP_MD_CTX_new());
        EXPECT_EQ(EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key->get()), 1);
        Bytes signature(128);
        std::size_t size = signature.size();
        EXPECT_EQ(
            EVP_DigestSign(context.get(), signature.data(), &size, AsBytes(message).data(), message.size()),
            1);
        EXPECT_TRUE(tls.VerifyMessage(AsBytes(message), ByteView(signature).first(size),
                                      SignatureScheme::kEcdsaSha256)
                        .ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(EsysTpmTest, ReportsAnAbsentTpmAndATpmThatWentAway) {
  EXPECT_EQ(ReasonIdFrom(OpenEsysTpm({.tcti = "device:/nowhere/tpmrm0"})), "TPM_UNAVAILABLE");
  EXPECT_EQ(ReasonIdFrom(OpenEsysTpm({.tcti = "swtpm:host=127.0.0.1,port=1"})), "TPM_UNAVAILABLE");
  auto swtpm = Swtpm::Start({.ek_certificate = false});
  const auto tpm = Open(*swtpm);
  ASSERT_TRUE(tpm->EnsureKeys().ok());
  swtpm.reset();
  EXPECT_EQ(ReasonIdFrom(tpm->Quote(nonce_, kQuotedPcrs)), "TPM_UNAVAILABLE");
}

TEST(EventLogFile, MissingFileIsReported) {
  EXPECT_EQ(ReasonIdFrom(ReadEventLog("/nowhere/binary_bios_measurements")), "FILE_UNREADABLE");
}

}  // namespace
}  // namespace sealift::agent
