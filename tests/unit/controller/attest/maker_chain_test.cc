#include "controller/attest/maker_chain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/maker_pki.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

using test::kCaExtensions;
using test::kEkExtensions;
using test::Made;
using test::MakeMaker;
using test::MakerSpec;
using test::ReasonIdFrom;
using ::testing::HasSubstr;

const UnixMillis kAt = ParseRfc3339("2027-01-01T00:00:00Z").value();

MakerCertificate Read(const Made& made) { return MakerCertificate::FromDer(made.der()).value(); }

Made Ca(const std::string& name, const Made* issuer = nullptr) {
  return MakeMaker({.name = name, .extensions = kCaExtensions}, issuer);
}
Made Ek(const Made& issuer, std::vector<std::pair<std::string, std::string>> extensions = kEkExtensions) {
  return MakeMaker({.name = "", .extensions = std::move(extensions)}, &issuer);
}

class MakerChainTest : public ::testing::Test {
 protected:
  Result<std::vector<MakerCertificate>> Verify(const Made& leaf, const std::vector<Made>& helpers,
                                               const std::vector<Made>& anchors, UnixMillis at = kAt,
                                               MakerRole role = MakerRole::kEndorsementKey) const {
    std::vector<MakerCertificate> helping, trusted;
    for (const Made& one : helpers) helping.push_back(Read(one));
    for (const Made& one : anchors) trusted.push_back(Read(one));
    return VerifyMakerChain(Read(leaf), helping, trusted, at, role);
  }
  // The path's fingerprints are those of `made`, in order.
  static void ExpectPath(const Result<std::vector<MakerCertificate>>& path, const std::vector<Made>& made) {
    ASSERT_TRUE(path.ok()) << Describe(path.status());
    std::vector<MakerCertificate> expected;
    for (const Made& one : made) expected.push_back(Read(one));
    EXPECT_EQ(*path, expected);
  }
  const Made root_ = Ca("root");
  const Made issuing_ = Ca("issuing", &root_);
  const Made ek_ = Ek(issuing_);
};

TEST_F(MakerChainTest, LeadsToAnAnchorSelfSignedOrNot) {
  ExpectPath(Verify(ek_, {issuing_}, {root_}), {ek_, issuing_, root_});
  ExpectPath(Verify(ek_, {}, {issuing_}), {ek_, issuing_});
  ExpectPath(Verify(ek_, {issuing_, root_}, {issuing_, root_}), {ek_, issuing_});
  ExpectPath(Verify(ek_, {}, {ek_}), {ek_});
  ExpectPath(Verify(issuing_, {}, {root_}, kAt, MakerRole::kCa), {issuing_, root_});
  ExpectPath(Verify(root_, {}, {root_}, kAt, MakerRole::kCa), {root_});
  EXPECT_EQ(ReasonIdFrom(Verify(ek_, {issuing_, root_}, {})), "EK_CERTIFICATE_INVALID");
  EXPECT_EQ(ReasonIdFrom(Verify(ek_, {}, {root_})), "EK_CERTIFICATE_INVALID");
  EXPECT_EQ(ReasonIdFrom(Verify(ek_, {issuing_}, {Ca("root")})), "EK_CERTIFICATE_INVALID");
}

TEST_F(MakerChainTest, TriesEveryIssuerOfTheName) {
  std::vector<Made> helpers;
  // Of another key; out of its time; not allowed to sign; all before the good one.
  helpers.push_back(Ca("issuing", &root_));
  helpers.push_back(MakeMaker({.name = "issuing", .extensions = kCaExtensions, .not_after = 1780000000},
                              &root_, issuing_.key));
  helpers.push_back(MakeMaker({.name = "issuing", .extensions = {{"basicConstraints", "critical,CA:FALSE"}}},
                              &root_, issuing_.key));
  const Made other_root = Ca("other root");
  helpers.push_back(MakeMaker({.name = "issuing", .extensions = kCaExtensions}, &other_root, issuing_.key));
  EXPECT_FALSE(Verify(ek_, helpers, {root_}).ok());
  helpers.push_back(issuing_);
  ExpectPath(Verify(ek_, helpers, {root_}), {ek_, issuing_, root_});
  // The same CA under the other root.
  ExpectPath(Verify(ek_, helpers, {other_root}), {ek_, helpers[3], other_root});
}

TEST_F(MakerChainTest, TheWholePathIsInItsTimeToTheSecond) {
  const Made root = MakeMaker(
      {.name = "r", .extensions = kCaExtensions, .not_before = 1800000000, .not_after = 1800000100}, nullptr);
  const Made ek = MakeMaker({.name = "", .extensions = kEkExtensions}, &root);
  const auto at = [&](std::int64_t second) { return Verify(ek, {}, {root}, FromUnixMs(second * 1000)).ok(); };
  EXPECT_FALSE(at(1799999999));
  EXPECT_TRUE(at(1800000000));
  EXPECT_TRUE(at(1800000100));
  EXPECT_FALSE(at(1800000101));
}

TEST_F(MakerChainTest, NamesCompareAsDirectoryNames) {
  const Made one = MakeMaker(
      {.name = "Maker  CA", .extensions = kCaExtensions, .string_type = V_ASN1_PRINTABLESTRING}, nullptr);
  const Made same = MakeMaker({.name = " maker ca", .extensions = kCaExtensions}, nullptr, one.key);
  const Made leaf = Ek(one);
  ExpectPath(Verify(leaf, {}, {same}), {leaf, same});
  const Made other = MakeMaker({.name = "makerca", .extensions = kCaExtensions}, nullptr, one.key);
  EXPECT_FALSE(Verify(leaf, {}, {other}).ok());
}

TEST_F(MakerChainTest, IssuersMayIssue) {
  for (const auto& extensions : std::vector<std::vector<std::pair<std::string, std::string>>>{
           {},
           {{"basicConstraints", "critical,CA:FALSE"}},
           {{"basicConstraints", "critical,CA:TRUE"}, {"keyUsage", "critical,digitalSignature"}},
           {{"basicConstraints", "critical,CA:TRUE"}, {"1.2.3.4", "critical,DER:0500"}}}) {
    const Made anchor = MakeMaker({.name = "anchor", .extensions = extensions}, nullptr);
    EXPECT_EQ(ReasonIdFrom(Verify(Ek(anchor), {}, {anchor})), "EK_CERTIFICATE_INVALID");
  }
  // Without a key usage nothing is limited.
  const Made plain = MakeMaker({.name = "p", .extensions = {{"basicConstraints", "CA:TRUE"}}}, nullptr);
  EXPECT_TRUE(Verify(Ek(plain), {}, {plain}).ok());
}

TEST_F(MakerChainTest, KeepsPathLengthsAndNameConstraints) {
  auto limited = kCaExtensions;
  limited[0].second = "critical,CA:TRUE,pathlen:0";
  const Made short_root = MakeMaker({.name = "short", .extensions = limited}, nullptr);
  const Made below = Ca("below", &short_root);
  EXPECT_TRUE(Verify(Ek(short_root), {}, {short_root}).ok());
  EXPECT_THAT(MessageOf(Verify(Ek(below), {below}, {short_root}).status()), HasSubstr("path length"));
  for (const bool permitted : {true, false}) {
    auto constrained = kCaExtensions;
    constrained.emplace_back("nameConstraints",
                             permitted ? "critical,permitted;dirName:a" : "critical,excluded;dirName:a");
    const Made anchor = MakeMaker({.name = "nc", .extensions = constrained}, nullptr);
    auto named = kEkExtensions;
    named.emplace_back("subjectAltName", "critical,dirName:san");
    EXPECT_EQ(Verify(Ek(anchor, named), {}, {anchor}).ok(), permitted);
    named.back().second = "critical,dirName:b";
    EXPECT_EQ(Verify(Ek(anchor, named), {}, {anchor}).ok(), !permitted);
  }
}

TEST_F(MakerChainTest, RefusesWhatIsNoEndorsementKeysCertificate) {
  const auto refused = [&](const std::vector<std::pair<std::string, std::string>>& extensions) {
    return ReasonIdFrom(Verify(Ek(issuing_, extensions), {}, {issuing_})) == "EK_CERTIFICATE_INVALID";
  };
  EXPECT_FALSE(refused({}));
  EXPECT_FALSE(refused({{"extendedKeyUsage", "anyExtendedKeyUsage"}}));
  EXPECT_FALSE(refused({{"extendedKeyUsage", "serverAuth,2.23.133.8.1"}}));
  EXPECT_FALSE(refused({{"2.5.29.9", "critical,DER:3000"}}));
  EXPECT_FALSE(refused({{"1.2.3.4", "DER:0500"}}));
  EXPECT_TRUE(refused({{"extendedKeyUsage", "serverAuth"}}));
  EXPECT_TRUE(refused({{"basicConstraints", "critical,CA:TRUE"}}));
  EXPECT_TRUE(refused({{"1.2.3.4", "critical,DER:0500"}}));
  EXPECT_TRUE(refused({{"2.23.133.2.16", "critical,DER:0500"}}));
  EXPECT_TRUE(refused({{"basicConstraints", "CA:FALSE"}, {"basicConstraints", "CA:FALSE"}}));
  EXPECT_EQ(ReasonIdFrom(Verify(ek_, {issuing_}, {root_}, kAt, MakerRole::kCa)), "EK_CERTIFICATE_INVALID");
}

TEST_F(MakerChainTest, OldSignaturesCountDownToSha1AndAreTold) {
  const Made sha1 = MakeMaker({.name = "", .extensions = kEkExtensions, .hash = EVP_sha1()}, &issuing_);
  EXPECT_TRUE(Verify(sha1, {}, {issuing_}).ok());
  EXPECT_TRUE(Read(sha1).weak());
  EXPECT_FALSE(Read(ek_).weak());
  const Made rsa = MakeMaker({.name = "rsa", .key_type = "RSA", .extensions = kCaExtensions}, nullptr);
  const Made md5 = MakeMaker({.name = "", .extensions = kEkExtensions, .hash = EVP_md5()}, &rsa);
  EXPECT_THAT(MessageOf(Verify(md5, {}, {rsa}).status()), HasSubstr("broken hash"));
  EXPECT_TRUE(Verify(Ek(rsa), {}, {rsa}).ok());
}

TEST_F(MakerChainTest, ReadsWhatMakersWrite) {
  auto extensions = kEkExtensions;
  extensions.emplace_back("subjectAltName", "critical,dirName:san");
  const Made made =
      MakeMaker({.name = "", .key_type = "P-521", .extensions = extensions, .serial = "-0A0B"}, &issuing_);
  Bytes padded = made.der();
  padded.resize(padded.size() + 700, 0xFF);
  const auto read = MakerCertificate::FromDer(padded);
  ASSERT_TRUE(read.ok()) << Describe(read.status());
  EXPECT_EQ(read->padding(), 700u);
  EXPECT_EQ(read->der(), made.der());
  EXPECT_EQ(read->SerialText(), "-a0b");
  EXPECT_EQ(read->Model().manufacturer, "id:474F4F47");
  EXPECT_EQ(read->Model().model, "xCG fTPM");
  EXPECT_EQ(read->Model().version, "id:00010001");
  EXPECT_EQ(read->KeyTypeName(), "ec");
  EXPECT_EQ(read->key_bits(), 521);
  EXPECT_EQ(read->purposes(), std::vector<std::string>{kEndorsementKeyPurpose});
  padded.back() = 0;
  EXPECT_EQ(ReasonIdFrom(MakerCertificate::FromDer(padded)), "MALFORMED");
  for (std::size_t size = 0; size < made.der().size(); ++size) {
    EXPECT_FALSE(MakerCertificate::FromDer(ByteView(made.der()).first(size)).ok()) << size;
  }
}

TEST_F(MakerChainTest, ReadsAKeyNamedByItsEncryptionScheme) {
  const Made rsa = MakeMaker({.name = "", .key_type = "RSA", .extensions = kEkExtensions}, &issuing_);
  // 1.2.840.113549.1.1.1 becomes 1.1.7; signed again, since the signature covers it.
  Bytes key_der;
  unsigned char* raw = nullptr;
  const int size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(rsa.x509.get()), &raw);
  key_der.assign(raw, raw + size);
  OPENSSL_free(raw);
  const Bytes oid = HexDecode("2a864886f70d010101").value();
  const auto at = std::search(key_der.begin(), key_der.end(), oid.begin(), oid.end());
  ASSERT_NE(at, key_der.end());
  *(at + 8) = 7;
  const unsigned char* begin = key_der.data();
  const CPtr<X509_PUBKEY, X509_PUBKEY_free> oaep(
      d2i_X509_PUBKEY(nullptr, &begin, static_cast<long>(key_der.size())));
  ASSERT_NE(oaep, nullptr);
  ASSERT_EQ(X509_get0_pubkey(rsa.x509.get()) != nullptr, true);
  ASN1_OBJECT* algorithm = OBJ_nid2obj(NID_rsaesOaep);
  const unsigned char* bits = nullptr;
  int bit_size = 0;
  X509_PUBKEY_get0_param(nullptr, &bits, &bit_size, nullptr, oaep.get());
  auto* copy = static_cast<unsigned char*>(OPENSSL_memdup(bits, static_cast<std::size_t>(bit_size)));
  ASSERT_EQ(X509_PUBKEY_set0_param(X509_get_X509_PUBKEY(rsa.x509.get()), algorithm, V_ASN1_NULL, nullptr,
                                   copy, bit_size),
            1);
  ASSERT_GT(X509_sign(rsa.x509.get(), issuing_.key.get(), EVP_sha256()), 0);
  const MakerCertificate read = Read(rsa);
  ASSERT_NE(read.key(), nullptr);
  EXPECT_EQ(EVP_PKEY_eq(read.key(), rsa.key.get()), 1);
  EXPECT_EQ(read.KeyTypeName(), "rsa");
  EXPECT_EQ(read.key_bits(), 2048);
  EXPECT_TRUE(Verify(rsa, {issuing_}, {root_}).ok());
}

// Every CA signed every other: the number of paths is beyond counting.
TEST_F(MakerChainTest, ManyCrossCertificatesEndSoon) {
  constexpr int kCas = 14;
  std::vector<Made> selves, helpers;
  for (int i = 0; i < kCas; ++i) selves.push_back(Ca("mesh " + std::to_string(i)));
  for (int subject = 0; subject < kCas; ++subject) {
    for (int issuer = 0; issuer < kCas; ++issuer) {
      if (issuer == subject) continue;
      helpers.push_back(MakeMaker({.name = "mesh " + std::to_string(subject), .extensions = kCaExtensions},
                                  &selves[static_cast<std::size_t>(issuer)],
                                  selves[static_cast<std::size_t>(subject)].key));
    }
  }
  const Made leaf = Ek(selves[0]);
  const auto begin = std::chrono::steady_clock::now();
  ExpectPath(Verify(leaf, helpers, {selves[0]}), {leaf, selves[0]});
  EXPECT_FALSE(Verify(leaf, helpers, {root_}).ok());
  // An anchor that no path may lead to: it forbids every name.
  auto constrained = kCaExtensions;
  constrained.emplace_back("nameConstraints", "critical,permitted;dirName:b");
  const Made closed = MakeMaker({.name = "closed", .extensions = constrained}, nullptr);
  helpers.push_back(MakeMaker({.name = "mesh 13", .extensions = kCaExtensions}, &closed, selves[13].key));
  EXPECT_FALSE(Verify(leaf, helpers, {closed}).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(8));
}

}  // namespace
}  // namespace sealift::controller
