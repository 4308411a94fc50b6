// Quotes as other TPMs and tools make them: every scheme, hash, bank and form of key.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <openssl/core_names.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "shared/tpm/quote.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::tpm {
namespace {

using test::ReasonIdFrom;

constexpr std::uint16_t kAllHashes[] = {kAlgSha1, kAlgSha256, kAlgSha384, kAlgSha512};

EvpPkeyPtr Generate(const std::string& type) {
  return EvpPkeyPtr(type.starts_with("P-")
                        ? EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", type.c_str())
                        : EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA", static_cast<std::size_t>(2048)));
}

const EVP_MD* Md(std::uint16_t hash) { return EVP_get_digestbyname(AlgorithmName(hash).c_str()); }

Bytes Number(EVP_PKEY* key, const char* name) {
  BIGNUM* raw = nullptr;
  SEALIFT_CHECK(EVP_PKEY_get_bn_param(key, name, &raw) == 1);
  const BigNumPtr number(raw);
  Bytes bytes(static_cast<std::size_t>(BN_num_bytes(number.get())));
  BN_bn2bin(number.get(), bytes.data());
  return bytes;
}

// TPMT_SIGNATURE.
Bytes Sign(EVP_PKEY* key, std::uint16_t scheme, std::uint16_t hash, ByteView message) {
  const EvpMdCtxPtr context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* parameters = nullptr;
  SEALIFT_CHECK(EVP_DigestSignInit(context.get(), &parameters, Md(hash), nullptr, key) == 1);
  if (scheme == kAlgRsaPss) EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING);
  std::size_t size = 0;
  SEALIFT_CHECK(EVP_DigestSign(context.get(), nullptr, &size, message.data(), message.size()) == 1);
  Bytes signature(size);
  SEALIFT_CHECK(EVP_DigestSign(context.get(), signature.data(), &size, message.data(), message.size()) == 1);
  signature.resize(size);
  ByteWriter out(ByteWriter::Endian::kBig);
  out.U16(scheme);
  out.U16(hash);
  if (scheme != kAlgEcdsa) {
    test::WriteSized(out, signature);
    return std::move(out).Finish();
  }
  const unsigned char* at = signature.data();
  const CPtr<ECDSA_SIG, ECDSA_SIG_free> parsed(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(size)));
  for (const BIGNUM* number : {ECDSA_SIG_get0_r(parsed.get()), ECDSA_SIG_get0_s(parsed.get())}) {
    Bytes bytes(static_cast<std::size_t>(BN_num_bytes(number)));
    BN_bn2bin(number, bytes.data());
    test::WriteSized(out, bytes);
  }
  return std::move(out).Finish();
}

// TPMT_PUBLIC with the default exponent where it is the key's.
Bytes Area(EVP_PKEY* key) {
  ByteWriter area(ByteWriter::Endian::kBig);
  const bool rsa = EVP_PKEY_is_a(key, "RSA") == 1;
  area.U16(rsa ? kAlgRsa : kAlgEcc);
  area.U16(kAlgSha512);
  area.U32(test::kAkAttributes);
  area.U16(0);
  area.U16(kAlgNull);
  area.U16(kAlgNull);
  if (rsa) {
    area.U16(2048);
    area.U32(0);
    test::WriteSized(area, Number(key, OSSL_PKEY_PARAM_RSA_N));
    return std::move(area).Finish();
  }
  const int bits = EVP_PKEY_get_bits(key);
  area.U16(bits == 256 ? 3 : bits == 384 ? 4 : 5);
  area.U16(kAlgNull);
  test::WriteSized(area, Number(key, OSSL_PKEY_PARAM_EC_PUB_X));
  test::WriteSized(area, Number(key, OSSL_PKEY_PARAM_EC_PUB_Y));
  return std::move(area).Finish();
}

std::string Pem(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PUBKEY(bio.get(), key);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

using Values = std::map<std::uint16_t, std::map<std::uint32_t, Bytes>>;
struct Selected {
  std::uint16_t hash;
  Bytes bits;
};

Bytes Attestation(const std::vector<Selected>& selections, ByteView digest, ByteView nonce) {
  ByteWriter out(ByteWriter::Endian::kBig);
  out.U32(kGeneratedValue);
  out.U16(kStAttestQuote);
  test::WriteSized(out, Bytes(34, 9));
  test::WriteSized(out, nonce);
  out.U64(5);
  out.U32(6);
  out.U32(7);
  out.U8(1);
  out.U64(8);
  out.U32(static_cast<std::uint32_t>(selections.size()));
  for (const Selected& selection : selections) {
    out.U16(selection.hash);
    out.U8(static_cast<std::uint8_t>(selection.bits.size()));
    out.Raw(selection.bits);
  }
  test::WriteSized(out, digest);
  return std::move(out).Finish();
}

TEST(QuoteExamination, VerifiesEverySchemeHashAndFormOfKey) {
  for (const std::string type : {"RSA", "P-256", "P-384", "P-521"}) {
    const EvpPkeyPtr key = Generate(type);
    for (const std::uint16_t scheme : {kAlgRsaSsa, kAlgRsaPss, kAlgEcdsa}) {
      if ((type == "RSA") == (scheme == kAlgEcdsa)) continue;
      for (const std::uint16_t hash : kAllHashes) {
        SCOPED_TRACE(fmt::format("{} {} {}", type, AlgorithmName(scheme), AlgorithmName(hash)));
        const Values values{{kAlgSha256, {{0, Bytes(32, 1)}, {9, Bytes(32, 2)}}}};
        Bytes joined(32, 1);
        joined.resize(64, 2);
        const Bytes attest = Attestation({{kAlgSha256, {1, 2, 0}}}, HashWith(hash, joined), Bytes{1, 2});
        const Bytes signature = Sign(key.get(), scheme, hash, attest);
        const Bytes area = Area(key.get());
        for (const Bytes& file : {area, test::Sized(area), ToBytes(Pem(key.get()))}) {
          const auto read = ReadVerificationKey(file);
          ASSERT_TRUE(read.ok()) << Describe(read.status());
          const QuoteChecks checks{
              .key = read->get(), .nonce = Bytes{1, 2}, .pcrs = values, .allow_sha1 = hash == kAlgSha1};
          const auto seen = ExamineQuote(attest, signature, checks);
          ASSERT_TRUE(seen.ok()) << Describe(seen.status());
          EXPECT_TRUE(seen->problem.ok()) << Describe(seen->problem);
          EXPECT_EQ(seen->signature_check, QuoteCheck::kOk);
          EXPECT_EQ(seen->nonce_check, QuoteCheck::kOk);
          EXPECT_EQ(seen->pcr_check, QuoteCheck::kOk);
        }
        const QuoteChecks strict{
            .key = key.get(), .nonce = std::nullopt, .pcrs = std::nullopt, .allow_sha1 = false};
        EXPECT_EQ(ReasonIdOf(ExamineQuote(attest, signature, strict)->problem),
                  hash == kAlgSha1 ? "QUOTE_ALGORITHM_WEAK" : ReasonIdOf(OkStatus()));
        Bytes changed = attest;
        changed.at(60) ^= 1;
        EXPECT_EQ(ExamineQuote(changed, signature, strict)->signature_check, QuoteCheck::kBad);
        Bytes longer = signature;
        longer.push_back(0);
        EXPECT_EQ(ReasonIdFrom(ExamineQuote(attest, longer, strict)), "QUOTE_MALFORMED");
      }
    }
  }
}

TEST(QuoteExamination, HashesBanksInTheOrderOfTheSelection) {
  const EvpPkeyPtr key = Generate("P-256");
  const Values values{{kAlgSha1, {{3, Bytes(20, 3)}}},
                      {kAlgSha256, {{0, Bytes(32, 1)}, {31, Bytes(32, 2)}}},
                      {kAlgSha384, {{5, Bytes(48, 5)}}}};
  Bytes joined;
  for (const Bytes& part : {Bytes(48, 5), Bytes(32, 1), Bytes(32, 2), Bytes(20, 3), Bytes(32, 1)}) {
    Append(joined, part);
  }
  const std::vector<Selected> selections{
      {kAlgSha384, {0x20}}, {kAlgSha256, {1, 0, 0, 0x80}}, {kAlgSha1, {8, 0}}, {kAlgSha256, {1, 0, 0}}};
  const Bytes attest = Attestation(selections, HashWith(kAlgSha256, joined), {});
  const Bytes signature = Sign(key.get(), kAlgEcdsa, kAlgSha256, attest);
  QuoteChecks checks{.key = key.get(), .nonce = Bytes(), .pcrs = values, .allow_sha1 = true};
  EXPECT_TRUE(ExamineQuote(attest, signature, checks)->problem.ok());
  checks.allow_sha1 = false;
  EXPECT_EQ(ReasonIdOf(ExamineQuote(attest, signature, checks)->problem), "QUOTE_ALGORITHM_WEAK");
  checks.allow_sha1 = true;
  checks.pcrs->at(kAlgSha384).erase(5);
  EXPECT_EQ(ReasonIdOf(ExamineQuote(attest, signature, checks)->problem), "QUOTE_SELECTION_WRONG");
  checks.pcrs = values;
  checks.pcrs->at(kAlgSha1).at(3).at(0) ^= 1;
  EXPECT_EQ(ReasonIdOf(ExamineQuote(attest, signature, checks)->problem), "QUOTE_DIGEST_MISMATCH");
}

TEST(QuoteExamination, AnEmptySelectionAndAnEmptyNonceAreValues) {
  const EvpPkeyPtr key = Generate("P-256");
  const Bytes attest = Attestation({}, HashWith(kAlgSha256, {}), {});
  const Bytes signature = Sign(key.get(), kAlgEcdsa, kAlgSha256, attest);
  QuoteChecks checks{.key = key.get(), .nonce = Bytes(), .pcrs = Values(), .allow_sha1 = false};
  EXPECT_TRUE(ExamineQuote(attest, signature, checks)->problem.ok());
  checks.nonce = Bytes{0};
  EXPECT_EQ(ReasonIdOf(ExamineQuote(attest, signature, checks)->problem), "QUOTE_NONCE_STALE");
  EXPECT_EQ(ExamineQuote(attest, std::nullopt, {})->signature_check, QuoteCheck::kNotChecked);
}

TEST(QuoteExamination, NumbersOutsideTheCurveAreNoSignature) {
  const EvpPkeyPtr key = Generate("P-256");
  const Bytes attest = Attestation({}, HashWith(kAlgSha256, {}), {});
  const QuoteChecks checks{
      .key = key.get(), .nonce = std::nullopt, .pcrs = std::nullopt, .allow_sha1 = false};
  const auto with = [&](const Bytes& r, const Bytes& s) {
    ByteWriter out(ByteWriter::Endian::kBig);
    out.U16(kAlgEcdsa);
    out.U16(kAlgSha256);
    test::WriteSized(out, r);
    test::WriteSized(out, s);
    return ExamineQuote(attest, out.bytes(), checks);
  };
  const Bytes order = HexDecode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").value();
  for (const Bytes& bad : {Bytes(), Bytes{0}, Bytes(32, 0), order, Bytes(33, 0xFF), Bytes(66, 0xFF)}) {
    EXPECT_EQ(with(bad, Bytes{1})->signature_check, QuoteCheck::kBad) << HexEncode(bad);
    EXPECT_EQ(with(Bytes{1}, bad)->signature_check, QuoteCheck::kBad) << HexEncode(bad);
  }
  EXPECT_EQ(ReasonIdFrom(with(Bytes(67, 1), Bytes{1})), "QUOTE_MALFORMED");
}

TEST(QuoteExamination, KeysThatEverybodyCouldSignWithAreRefused) {
  const Bytes good = Area(Generate("RSA").get());
  EXPECT_TRUE(ReadVerificationKey(good).ok());
  for (const std::uint8_t exponent : {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{4}}) {
    Bytes bad = good;
    bad.at(19) = exponent;
    EXPECT_EQ(ReasonIdFrom(ReadVerificationKey(bad)), "TPM_KEY_MALFORMED");
  }
  Bytes even = good;
  even.back() &= 0xFE;
  EXPECT_EQ(ReasonIdFrom(ReadVerificationKey(even)), "TPM_KEY_MALFORMED");
  Bytes off_curve = Area(Generate("P-521").get());
  EXPECT_TRUE(ReadVerificationKey(off_curve).ok());
  off_curve.back() ^= 1;
  EXPECT_EQ(ReasonIdFrom(ReadVerificationKey(off_curve)), "TPM_KEY_MALFORMED");
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(ReadVerificationKey(ByteView(good).first(size)).ok()) << size;
  }
  Bytes longer = good;
  longer.push_back(0);
  EXPECT_EQ(ReasonIdFrom(ReadVerificationKey(longer)), "TPM_KEY_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(ReadVerificationKey(AsBytes("-----BEGIN PUBLIC KEY-----\nAAAA\n"))),
            "TPM_KEY_MALFORMED");
}

}  // namespace
}  // namespace sealift::tpm
