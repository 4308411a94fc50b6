#include "shared/tpm/quote.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "shared/tpm/certify.h"
#include "shared/tpm/key_policy.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::tpm {
namespace {

using test::AttestFields;
using test::ReasonIdFrom;
using test::SoftwareAk;

const PcrValues kValues{
    {4, Sha256(AsBytes("four"))}, {7, Sha256(AsBytes("seven"))}, {11, Sha256(AsBytes("eleven"))}};
const std::array<std::uint32_t, 3> kRequired{4, 7, 11};

class QuoteTest : public ::testing::Test {
 protected:
  Result<VerifiedQuote> Verify(const QuoteEvidence& evidence) const {
    return VerifyQuote(evidence, ak_.area(), nonce_, kRequired);
  }
  SoftwareAk ak_;
  const Bytes nonce_ = Bytes(32, 0x5A);
};

TEST_F(QuoteTest, AcceptsAValidQuoteAndHandsOutWhatItSays) {
  const auto verified = Verify(ak_.Quote(kValues, nonce_));
  ASSERT_TRUE(verified.ok()) << Describe(verified.status());
  EXPECT_EQ(verified->pcrs(), kValues);
  EXPECT_EQ(verified->clock().reset_count, 7u);
  EXPECT_EQ(verified->clock().clock_ms, 123456u);
  EXPECT_TRUE(verified->clock().safe);
  EXPECT_EQ(verified->firmware_version(), 0x20230101u);
  EXPECT_EQ(verified->signer_name(), ak_.area().name);
}

// A field of a valid quote is changed after signing: each has its reason.
TEST_F(QuoteTest, EveryFieldChangedAfterSigningIsRefusedForItsOwnReason) {
  struct Case {
    const char* field;
    std::function<void(AttestFields&)> change;
    const char* reason;
  };
  const std::vector<Case> cases{
      {"magic", [](auto& f) { f.magic ^= 1; }, "QUOTE_MAGIC_WRONG"},
      {"type", [](auto& f) { f.type = kStAttestCertify; }, "QUOTE_TYPE_WRONG"},
      {"type unknown", [](auto& f) { f.type = 0x8099; }, "QUOTE_TYPE_WRONG"},
      {"qualifiedSigner", [](auto& f) { f.qualified_signer[3] ^= 1; }, "QUOTE_SIGNATURE_INVALID"},
      {"extraData", [](auto& f) { f.extra_data[31] ^= 1; }, "QUOTE_NONCE_STALE"},
      {"extraData empty", [](auto& f) { f.extra_data.clear(); }, "QUOTE_NONCE_STALE"},
      {"extraData longer", [](auto& f) { f.extra_data.push_back(0); }, "QUOTE_NONCE_STALE"},
      {"clock", [](auto& f) { ++f.clock; }, "QUOTE_SIGNATURE_INVALID"},
      {"resetCount", [](auto& f) { ++f.reset_count; }, "QUOTE_SIGNATURE_INVALID"},
      {"restartCount", [](auto& f) { ++f.restart_count; }, "QUOTE_SIGNATURE_INVALID"},
      {"safe", [](auto& f) { f.safe = 0; }, "QUOTE_SIGNATURE_INVALID"},
      {"safe beyond boolean", [](auto& f) { f.safe = 2; }, "QUOTE_MALFORMED"},
      {"firmwareVersion", [](auto& f) { ++f.firmware_version; }, "QUOTE_SIGNATURE_INVALID"},
      {"bank", [](auto& f) { f.bank = kAlgSha1; }, "QUOTE_SELECTION_WRONG"},
      {"selection less", [](auto& f) { f.pcrs.pop_back(); }, "QUOTE_SELECTION_WRONG"},
      {"selection more", [](auto& f) { f.pcrs.push_back(23); }, "QUOTE_SELECTION_WRONG"},
      {"pcrDigest", [](auto& f) { f.pcr_digest[0] ^= 1; }, "QUOTE_DIGEST_MISMATCH"},
      {"pcrDigest shorter", [](auto& f) { f.pcr_digest.pop_back(); }, "QUOTE_DIGEST_MISMATCH"},
  };
  const QuoteEvidence valid = ak_.Quote(kValues, nonce_);
  for (const Case& one : cases) {
    AttestFields fields = SoftwareAk::FieldsFor(kValues, nonce_);
    one.change(fields);
    QuoteEvidence evidence = valid;
    evidence.attest = fields.Encode();
    EXPECT_EQ(ReasonIdFrom(Verify(evidence)), one.reason) << one.field;
  }
}

TEST_F(QuoteTest, NoSingleBitOfAQuoteCanChange) {
  const QuoteEvidence valid = ak_.Quote(kValues, nonce_);
  for (std::size_t bit = 0; bit < valid.attest.size() * 8; ++bit) {
    QuoteEvidence evidence = valid;
    evidence.attest[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
    EXPECT_FALSE(Verify(evidence).ok()) << "attest bit " << bit;
  }
  for (std::size_t bit = 0; bit < valid.signature.size() * 8; ++bit) {
    QuoteEvidence evidence = valid;
    evidence.signature[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
    EXPECT_FALSE(Verify(evidence).ok()) << "signature bit " << bit;
  }
}

TEST_F(QuoteTest, RefusesEveryTruncationAndTrailingBytes) {
  const QuoteEvidence valid = ak_.Quote(kValues, nonce_);
  for (std::size_t size = 0; size < valid.attest.size(); ++size) {
    QuoteEvidence evidence = valid;
    evidence.attest.resize(size);
    EXPECT_EQ(ReasonIdFrom(Verify(evidence)), "QUOTE_MALFORMED") << size;
  }
  for (std::size_t size = 0; size < valid.signature.size(); ++size) {
    QuoteEvidence evidence = valid;
    evidence.signature.resize(size);
    EXPECT_EQ(ReasonIdFrom(Verify(evidence)), "QUOTE_MALFORMED") << size;
  }
  QuoteEvidence longer = valid;
  longer.attest.push_back(0);
  EXPECT_EQ(ReasonIdFrom(Verify(longer)), "QUOTE_MALFORMED");
  longer = valid;
  longer.signature.push_back(0);
  EXPECT_EQ(ReasonIdFrom(Verify(longer)), "QUOTE_MALFORMED");
}

TEST_F(QuoteTest, RefusesOtherValuesThanQuoted) {
  QuoteEvidence evidence = ak_.Quote(kValues, nonce_);
  evidence.pcrs[4].bytes[0] ^= 1;
  EXPECT_EQ(ReasonIdFrom(Verify(evidence)), "QUOTE_DIGEST_MISMATCH");
  evidence = ak_.Quote(kValues, nonce_);
  evidence.pcrs[5] = {};
  EXPECT_EQ(ReasonIdFrom(Verify(evidence)), "QUOTE_SELECTION_WRONG");
}

TEST_F(QuoteTest, RefusesAQuoteThatLeavesOutARequiredRegister) {
  const PcrValues fewer{{4, {}}, {11, {}}};
  EXPECT_EQ(ReasonIdFrom(Verify(ak_.Quote(fewer, nonce_))), "QUOTE_SELECTION_WRONG");
  EXPECT_EQ(ReasonIdFrom(Verify(ak_.Quote({}, nonce_))), "QUOTE_SELECTION_WRONG");
}

TEST_F(QuoteTest, RefusesAnotherKeysQuoteAndASchemeThatDoesNotFit) {
  SoftwareAk other;
  EXPECT_EQ(ReasonIdFrom(Verify(other.Quote(kValues, nonce_))), "QUOTE_SIGNATURE_INVALID");
  SoftwareAk rsa(KeyType::kRsa);
  const QuoteEvidence by_rsa = rsa.Quote(kValues, nonce_);
  EXPECT_EQ(ReasonIdFrom(Verify(by_rsa)), "QUOTE_SIGNATURE_INVALID");
  EXPECT_TRUE(VerifyQuote(by_rsa, rsa.area(), nonce_, kRequired).ok());
}

TEST_F(QuoteTest, RefusesSha1Signatures) {
  QuoteEvidence evidence = ak_.Quote(kValues, nonce_);
  evidence.signature[3] = kAlgSha1;
  EXPECT_EQ(ReasonIdFrom(Verify(evidence)), "QUOTE_MALFORMED");
}

TEST(Certify, EveryFieldChangedIsRefused) {
  SoftwareAk ak;
  const auto tls_key = SoftwareSigner::Generate(KeyType::kEcP256).value();
  const PublicArea tls =
      ParsePublicArea(test::PublicAreaOf(tls_key->public_key(), test::kTlsAttributes)).value();
  const Bytes nonce(32, 3);
  AttestFields fields;
  fields.type = kStAttestCertify;
  fields.extra_data = nonce;
  fields.name = tls.name;
  const auto verify = [&](const AttestFields& changed) {
    return VerifyCertify(changed.Encode(), test::TpmSign(ak.key(), fields.Encode()), ak.area(), nonce, tls);
  };
  const auto accepted = verify(fields);
  ASSERT_TRUE(accepted.ok()) << Describe(accepted.status());
  EXPECT_EQ(accepted->area().key, tls_key->public_key());
  const std::vector<std::pair<std::function<void(AttestFields&)>, const char*>> cases{
      {[](auto& f) { f.magic ^= 1; }, "CERTIFY_MALFORMED"},
      {[](auto& f) { f.type = kStAttestQuote; }, "CERTIFY_MALFORMED"},
      {[](auto& f) { f.extra_data[0] ^= 1; }, "CERTIFY_NONCE_STALE"},
      {[](auto& f) { f.name[5] ^= 1; }, "CERTIFY_NAME_MISMATCH"},
      {[](auto& f) { f.qualified_name[5] ^= 1; }, "CERTIFY_SIGNATURE_INVALID"},
      {[](auto& f) { ++f.clock; }, "CERTIFY_SIGNATURE_INVALID"},
  };
  for (const auto& [change, reason] : cases) {
    AttestFields changed = fields;
    change(changed);
    EXPECT_EQ(ReasonIdFrom(verify(changed)), reason);
  }
}

TEST(KeyPolicy, NamesWhatEachRoleNeeds) {
  const auto ec = SoftwareSigner::Generate(KeyType::kEcP256).value();
  const auto rsa = SoftwareSigner::Generate(KeyType::kRsa).value();
  const auto area = [](const SoftwareSigner& key, std::uint32_t attributes) {
    return ParsePublicArea(test::PublicAreaOf(key.public_key(), attributes)).value();
  };
  EXPECT_TRUE(CheckAttestationKey(area(*ec, test::kAkAttributes)).ok());
  EXPECT_TRUE(CheckAttestationKey(area(*rsa, test::kAkAttributes)).ok());
  EXPECT_TRUE(CheckTlsKey(area(*ec, test::kTlsAttributes)).ok());
  EXPECT_TRUE(CheckEndorsementKey(area(*rsa, test::kEkAttributes)).ok());
  EXPECT_TRUE(CheckEndorsementKey(area(*ec, test::kEkAttributes)).ok());
  for (const std::uint32_t needed : {kAttrFixedTpm, kAttrFixedParent, kAttrSensitiveDataOrigin}) {
    EXPECT_EQ(ReasonIdFrom(CheckAttestationKey(area(*ec, test::kAkAttributes & ~needed))), "AK_UNSUITABLE");
    EXPECT_EQ(ReasonIdFrom(CheckTlsKey(area(*ec, test::kTlsAttributes & ~needed))), "TLS_KEY_UNSUITABLE");
    EXPECT_EQ(ReasonIdFrom(CheckEndorsementKey(area(*rsa, test::kEkAttributes & ~needed))), "EK_UNSUITABLE");
  }
  // An unrestricted key signs a forged quote; a restricted one cannot do TLS.
  EXPECT_EQ(ReasonIdFrom(CheckAttestationKey(area(*ec, test::kTlsAttributes))), "AK_UNSUITABLE");
  EXPECT_EQ(ReasonIdFrom(CheckTlsKey(area(*ec, test::kAkAttributes))), "TLS_KEY_UNSUITABLE");
  EXPECT_EQ(ReasonIdFrom(CheckTlsKey(area(*rsa, test::kTlsAttributes))), "TLS_KEY_UNSUITABLE");
  EXPECT_EQ(ReasonIdFrom(CheckEndorsementKey(area(*ec, test::kAkAttributes))), "EK_UNSUITABLE");
}

TEST(PublicAreas, RefusesEveryTruncationTrailingBytesAndStrangeTypes) {
  for (const KeyType type : {KeyType::kRsa, KeyType::kEcP256}) {
    const auto key = SoftwareSigner::Generate(type).value();
    const Bytes valid = test::Sized(test::PublicAreaOf(key->public_key(), test::kAkAttributes));
    const auto parsed = ParsePublic(valid);
    ASSERT_TRUE(parsed.ok()) << Describe(parsed.status());
    EXPECT_EQ(parsed->key, key->public_key());
    for (std::size_t size = 0; size < valid.size(); ++size) {
      EXPECT_EQ(ReasonIdFrom(ParsePublic(ByteView(valid).first(size))), "TPM_KEY_MALFORMED") << size;
      EXPECT_EQ(
          ReasonIdFrom(ParsePublic(test::Sized(ByteView(valid).subspan(2).first(size > 2 ? size - 2 : 0)))),
          "TPM_KEY_MALFORMED")
          << size;
    }
    Bytes longer = test::PublicAreaOf(key->public_key(), test::kAkAttributes);
    longer.push_back(0);
    EXPECT_EQ(ReasonIdFrom(ParsePublic(test::Sized(longer))), "TPM_KEY_MALFORMED");
    Bytes keyed_hash = valid;
    keyed_hash[3] = 0x08;
    EXPECT_EQ(ReasonIdFrom(ParsePublic(keyed_hash)), "TPM_KEY_MALFORMED");
    Bytes sha1_name = valid;
    sha1_name[5] = kAlgSha1;
    EXPECT_EQ(ReasonIdFrom(ParsePublic(sha1_name)), "TPM_KEY_MALFORMED");
  }
}

TEST(PublicAreas, RefusesAPointThatIsNotOnTheCurve) {
  const auto key = SoftwareSigner::Generate(KeyType::kEcP256).value();
  Bytes area = test::PublicAreaOf(key->public_key(), test::kAkAttributes);
  area.back() ^= 1;
  EXPECT_EQ(ReasonIdFrom(ParsePublicArea(area)), "TPM_KEY_MALFORMED");
}

}  // namespace
}  // namespace sealift::tpm
