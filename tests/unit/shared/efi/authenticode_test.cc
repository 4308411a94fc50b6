#include "shared/efi/authenticode.h"

#include <gtest/gtest.h>

#include "shared/crypto/hash.h"
#include "shared/efi/image_signatures.h"
#include "shared/efi/signed_data.h"
#include "shared/efi/win_certificate.h"
#include "tests/support/status_matchers.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_keys.h"

namespace sealift::efi {
namespace {

using test::ReasonIdFrom;
using test::SyntheticPe;

const Guid kOwner = Guid::Parse("11223344-5566-7788-99aa-bbccddeeff00").value();
constexpr std::size_t kChecksum = 0x98 + 64;
constexpr std::size_t kSecurityEntry = 0x98 + 144;

class AuthenticodeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ca_ = new test::TestKey(test::MakeTestKey("vendor CA"));
    db_ = new test::TestKey(test::MakeTestKey("vendor db", ca_));
    other_ = new test::TestKey(test::MakeTestKey("other"));
  }
  static Bytes Sign(Bytes image, const test::TestKey& key) {
    return SignImage(std::move(image), *key.signer, key.certificate, "authenticode test").value().bytes;
  }
  static SignatureLists Trust(const test::TestKey& key) {
    return {X509SignatureList(kOwner, key.certificate)};
  }
  static std::string Verified(ByteView image, const SignatureLists& db, const SignatureLists& dbx = {}) {
    return ReasonIdFrom(VerifyImage(image, db, dbx));
  }
  static Sha256Digest DigestOf(ByteView image) { return AuthenticodeDigest(PeImage::Parse(image).value()); }

  static inline test::TestKey* ca_;
  static inline test::TestKey* db_;
  static inline test::TestKey* other_;
};

TEST_F(AuthenticodeTest, DigestLeavesOutChecksumEntryAndTable) {
  const Bytes image = SyntheticPe{.tail = "abc"}.Build();
  Bytes expected(image.begin(), image.begin() + kChecksum);
  expected.insert(expected.end(), image.begin() + kChecksum + 4, image.begin() + kSecurityEntry);
  expected.insert(expected.end(), image.begin() + kSecurityEntry + 8, image.end());
  expected.resize(expected.size() + 5);  // padding to 8
  EXPECT_EQ(DigestOf(image), Sha256(expected));
  EXPECT_EQ(DigestOf(Sign(image, *db_)), Sha256(expected));
}

TEST_F(AuthenticodeTest, SignedImageNamesTheDbEntryThatLetsItPass) {
  const Bytes image = Sign(SyntheticPe{}.Build(), *db_);
  SignatureLists db = Trust(*other_);
  db.push_back(X509SignatureList(kOwner, db_->certificate));
  const auto verified = VerifyImage(image, db, {});
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(verified->authority.data, db_->certificate);
  EXPECT_EQ(verified->authority_type, kCertX509);
  EXPECT_EQ(verified->signer_certificate, db_->certificate);
  EXPECT_EQ(verified->digest, DigestOf(image));
  // The issuer in db is as good.
  EXPECT_EQ(VerifyImage(image, Trust(*ca_), {})->authority.data, ca_->certificate);
}

TEST_F(AuthenticodeTest, OutputIsReproducibleAlignedAndTrueInItsLengths) {
  const Bytes image = Sign(SyntheticPe{.tail = "abc"}.Build(), *db_);
  EXPECT_EQ(image, Sign(SyntheticPe{.tail = "abc"}.Build(), *db_));
  EXPECT_EQ(image.size() % 8, 0u);
  const ByteView table = PeImage::Parse(image)->certificate_table();
  const std::uint32_t length = ByteReader(table, ByteReader::Endian::kLittle).U32();
  EXPECT_EQ((length + 7) / 8 * 8, table.size());
  ByteView blob = table.subspan(8, length - 8);
  ByteView content;
  ASSERT_TRUE(DerTake(blob, 0x30, content).ok());
  EXPECT_TRUE(blob.empty()) << "dwLength counts the padding";
  Bytes zeroed = image;
  for (std::size_t i = 0; i < 4; ++i) zeroed[kChecksum + i] = 0;
  EXPECT_EQ(ByteReader(ByteView(image).subspan(kChecksum), ByteReader::Endian::kLittle).U32(),
            PeChecksum(zeroed));
}

TEST_F(AuthenticodeTest, NamesWhyItRefuses) {
  const Bytes unsigned_image = SyntheticPe{}.Build();
  const Bytes image = Sign(unsigned_image, *db_);
  EXPECT_EQ(Verified(unsigned_image, Trust(*db_)), "IMAGE_UNSIGNED");
  EXPECT_EQ(Verified(image, Trust(*other_)), "IMAGE_SIGNER_UNKNOWN");
  EXPECT_EQ(Verified(image, {}), "IMAGE_SIGNER_UNKNOWN");
  EXPECT_EQ(Verified(image, Trust(*db_), Trust(*db_)), "IMAGE_REVOKED");
  EXPECT_EQ(Verified(image, Trust(*db_), Trust(*ca_)), "IMAGE_REVOKED");
  EXPECT_EQ(Verified(image, Trust(*db_), Trust(*other_)), "NONE");
  EXPECT_EQ(Verified(AsBytes("not an image"), Trust(*db_)), "IMAGE_MALFORMED");
  for (std::size_t size = 2; size < image.size(); ++size)
    ASSERT_EQ(Verified(ByteView(image).first(size), Trust(*db_)), "IMAGE_TRUNCATED") << size;
}

TEST_F(AuthenticodeTest, AnyChangedByteRefusesOrLeavesTheEvidenceAsItWas) {
  const Bytes image = Sign(SyntheticPe{.sections = {{".text", "c"}}, .header_bytes = 0x200}.Build(), *db_);
  const std::size_t table = image.size() - PeImage::Parse(image)->certificate_table().size();
  for (std::size_t i = 0; i < image.size(); ++i) {
    if (i >= kChecksum && i < kChecksum + 4) continue;  // not covered, as specified
    Bytes changed = image;
    changed[i] ^= 0x10;
    const auto verified = VerifyImage(changed, Trust(*db_), {});
    ASSERT_FALSE(i < table && verified.ok()) << "byte " << i;
    // PKCS#7 itself leaves some of its own bytes unsigned, such as versions.
    if (!verified.ok()) continue;
    ASSERT_EQ(verified->digest, DigestOf(image)) << "byte " << i;
    ASSERT_EQ(verified->authority.data, db_->certificate) << "byte " << i;
  }
}

TEST_F(AuthenticodeTest, WhoLooksAndWhoVerifiesSeeTheSameSignatures) {
  Bytes image = Sign(SyntheticPe{}.Build(), *db_);
  const std::size_t table = image.size() - PeImage::Parse(image)->certificate_table().size();
  image[table + 5] = 1;  // WIN_CERT_REVISION_1_0
  EXPECT_EQ(Verified(image, Trust(*db_)), "IMAGE_SIGNATURE_INVALID");
  const auto seen = ReadImageSignatures(PeImage::Parse(image)->certificate_table(), {});
  ASSERT_TRUE(seen.ok()) << seen.status();
  ASSERT_EQ(seen->size(), 1u);
  EXPECT_NE(seen->front().problem.find("revision"), std::string::npos) << seen->front().problem;
  // As many as are looked at, whatever their revision.
  Bytes entries;
  for (int i = 0; i < 17; ++i) {
    EXPECT_EQ(ImageCertificates(entries)->size(), static_cast<std::size_t>(i));
    Append(entries, Bytes{8, 0, 0, 0, 0, 1, 2, 0});
  }
  EXPECT_EQ(ReasonIdFrom(ImageCertificates(entries)), "IMAGE_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(ReadImageSignatures(entries, {})), "IMAGE_MALFORMED");
}

TEST_F(AuthenticodeTest, RevokedByDigestOfImageOrCertificate) {
  const Bytes image = Sign(SyntheticPe{}.Build(), *db_);
  const std::array<Sha256Digest, 1> digest = {DigestOf(image)};
  EXPECT_EQ(Verified(image, Trust(*db_), {Sha256SignatureList(kOwner, digest)}), "IMAGE_REVOKED");
  Bytes entry = ToBytes(CertificateTbsDigest(db_->certificate)->view());
  entry.resize(48);  // and a revocation time of zero
  const SignatureLists dbx = {{.type = kCertX509Sha256, .entries = {{kOwner, entry}}}};
  EXPECT_EQ(Verified(image, Trust(*db_), dbx), "IMAGE_REVOKED");
}

TEST_F(AuthenticodeTest, DigestInDbAuthorisesEvenUnsigned) {
  const Bytes image = SyntheticPe{}.Build();
  const std::array<Sha256Digest, 1> digest = {DigestOf(image)};
  const auto verified = VerifyImage(image, SignatureLists{Sha256SignatureList(kOwner, digest)}, {});
  ASSERT_TRUE(verified.ok());
  EXPECT_EQ(verified->authority_type, kCertSha256);
  EXPECT_TRUE(verified->signer_certificate.empty());
}

TEST_F(AuthenticodeTest, TwoSignaturesEachVerifyAndOneRevokedRefuses) {
  const Bytes image = Sign(Sign(SyntheticPe{.tail = "x"}.Build(), *db_), *other_);
  EXPECT_EQ(Verified(image, Trust(*db_)), "NONE");
  EXPECT_EQ(Verified(image, Trust(*other_)), "NONE");
  EXPECT_EQ(Verified(image, Trust(*db_), Trust(*other_)), "IMAGE_REVOKED");
}

TEST_F(AuthenticodeTest, SignatureOfAnotherImageIsInvalid) {
  const Bytes a = Sign(SyntheticPe{.sections = {{".text", "a"}}}.Build(), *db_);
  Bytes b = Sign(SyntheticPe{.sections = {{".text", "b"}}}.Build(), *db_);
  ASSERT_EQ(a.size(), b.size());
  const std::size_t table = a.size() - PeImage::Parse(a)->certificate_table().size();
  std::copy(a.begin() + static_cast<std::ptrdiff_t>(table), a.end(),
            b.begin() + static_cast<std::ptrdiff_t>(table));
  EXPECT_EQ(Verified(b, Trust(*db_)), "IMAGE_SIGNATURE_INVALID");
}

TEST_F(AuthenticodeTest, SignerWithTheIssuersNameButAnotherKeyIsUnknown) {
  // Same names and serial as the real one, another key.
  const test::TestKey false_ca = test::MakeTestKey("vendor CA");
  const test::TestKey false_db = test::MakeTestKey("vendor db", &false_ca);
  const Bytes image = Sign(SyntheticPe{}.Build(), false_db);
  EXPECT_EQ(Verified(image, Trust(*ca_)), "IMAGE_SIGNER_UNKNOWN");
  EXPECT_EQ(Verified(image, Trust(*db_)), "IMAGE_SIGNER_UNKNOWN");
}

TEST_F(AuthenticodeTest, IntentReachesTheSigner) {
  test::RecordingSigner recorder(*db_->signer);
  ASSERT_TRUE(SignImage(SyntheticPe{}.Build(), recorder, db_->certificate, "authenticode a.efi 1.0").ok());
  EXPECT_EQ(recorder.intents, std::vector<std::string>{"authenticode a.efi 1.0"});
  EXPECT_EQ(ReasonIdFrom(SignImage(SyntheticPe{}.Build(), *db_->signer, other_->certificate, "")),
            "KEY_MISMATCH");
}

}  // namespace
}  // namespace sealift::efi
