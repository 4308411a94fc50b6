// Our signatures and lists against the programs that the rest of the world uses.
#include <gtest/gtest.h>

#include <filesystem>

#include "shared/base/files.h"
#include "shared/efi/auth_variable.h"
#include "shared/efi/authenticode.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_keys.h"
#include "tests/support/tools.h"

namespace sealift::efi {
namespace {

using test::RunTool;

constexpr const char* kBootLoader = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const Guid kOwner = Guid::Parse("11223344-5566-7788-99aa-bbccddeeff00").value();
const UnixMillis kTime = ParseRfc3339("2026-11-23T02:51:58Z").value();

class EfiDifferentialTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    key_ = new test::TestKey(test::MakeTestKey("db"));
    other_ = new test::TestKey(test::MakeTestKey("other db"));
  }
  void SetUp() override {
    Write("db.pem", AsBytes(key_->certificate_pem));
    Write("other.pem", AsBytes(other_->certificate_pem));
    Write("db.key", AsBytes(key_->signer->PrivatePem()));
  }
  std::string Path(const std::string& name) const { return (folder_.path() / name).string(); }
  void Write(const std::string& name, ByteView bytes) {
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / name, bytes, 0600).ok());
  }
  // The images that tests sign: a real loader of odd length, a signed twice, a tiny one.
  static std::vector<Bytes> Samples() {
    std::vector<Bytes> samples = {test::SyntheticPe{}.Build(), test::SyntheticPe{.tail = "odd"}.Build()};
    if (std::filesystem::exists(kBootLoader)) samples.push_back(ReadFile(kBootLoader).value());
    return samples;
  }
  Bytes Sign(Bytes image, const test::TestKey& key) const {
    return SignImage(std::move(image), *key.signer, key.certificate, "test").value().bytes;
  }

  TempDir folder_ = TempDir::Create("sealift-efi").value();
  static inline test::TestKey* key_;
  static inline test::TestKey* other_;
};

TEST_F(EfiDifferentialTest, SbverifyAcceptsOursAndRefusesAnotherKey) {
  SEALIFT_NEED_TOOL("sbverify");
  for (const Bytes& image : Samples()) {
    Write("signed.efi", Sign(image, *key_));
    const CommandOutput good = RunTool({"sbverify", "--cert", Path("db.pem"), Path("signed.efi")});
    EXPECT_EQ(good.exit_code, 0) << good.out << good.err;
    EXPECT_NE(RunTool({"sbverify", "--cert", Path("other.pem"), Path("signed.efi")}).exit_code, 0);
    Write("twice.efi", Sign(Sign(image, *key_), *other_));
    EXPECT_EQ(RunTool({"sbverify", "--cert", Path("db.pem"), Path("twice.efi")}).exit_code, 0);
    EXPECT_EQ(RunTool({"sbverify", "--cert", Path("other.pem"), Path("twice.efi")}).exit_code, 0);
  }
}

TEST_F(EfiDifferentialTest, OsslsigncodeAcceptsOursAndAgreesOnDigestAndChecksum) {
  SEALIFT_NEED_TOOL("osslsigncode");
  for (const Bytes& image : Samples()) {
    const SignedImage ours = SignImage(image, *key_->signer, key_->certificate, "test").value();
    Write("signed.efi", ours.bytes);
    const CommandOutput result =
        RunTool({"osslsigncode", "verify", "-CAfile", Path("db.pem"), Path("signed.efi")});
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    std::string hex = ours.digest.hex();
    for (char& c : hex) c = static_cast<char>(std::toupper(c));
    EXPECT_NE(result.out.find("Calculated message digest : " + hex), std::string::npos) << result.out;
    EXPECT_EQ(result.out.find("invalid PE checksum"), std::string::npos) << result.out;
  }
}

TEST_F(EfiDifferentialTest, PesignAgreesOnTheDigest) {
  SEALIFT_NEED_TOOL("pesign");
  for (const Bytes& image : Samples()) {
    Write("image.efi", image);
    const CommandOutput result = RunTool({"pesign", "-h", "-P", "-i", Path("image.efi")});
    EXPECT_NE(result.out.find(AuthenticodeDigest(PeImage::Parse(image).value()).hex()), std::string::npos)
        << result.out << result.err;
  }
}

TEST_F(EfiDifferentialTest, WeAcceptWhatSbsignAndOsslsigncodeSign) {
  SEALIFT_NEED_TOOL("sbsign");
  SEALIFT_NEED_TOOL("osslsigncode");
  const SignatureLists db = {X509SignatureList(kOwner, key_->certificate)};
  for (const Bytes& image : Samples()) {
    Write("image.efi", image);
    ASSERT_EQ(RunTool({"sbsign", "--key", Path("db.key"), "--cert", Path("db.pem"), "--output",
                       Path("sb.efi"), Path("image.efi")})
                  .exit_code,
              0);
    const auto sb = VerifyImage(ReadFile(Path("sb.efi")).value(), db, {});
    ASSERT_TRUE(sb.ok()) << sb.status();
    EXPECT_EQ(sb->digest, AuthenticodeDigest(PeImage::Parse(image).value()));
    std::filesystem::remove(Path("ossl.efi"));
    ASSERT_EQ(RunTool({"osslsigncode", "sign", "-h", "sha256", "-key", Path("db.key"), "-certs",
                       Path("db.pem"), "-in", Path("image.efi"), "-out", Path("ossl.efi")})
                  .exit_code,
              0);
    const auto ossl = VerifyImage(ReadFile(Path("ossl.efi")).value(), db, {});
    EXPECT_TRUE(ossl.ok()) << ossl.status();
    EXPECT_FALSE(VerifyImage(ReadFile(Path("ossl.efi")).value(), {}, {}).ok());
  }
}

TEST_F(EfiDifferentialTest, SignatureListsEqualThoseOfEfitools) {
  SEALIFT_NEED_TOOL("cert-to-efi-sig-list");
  SEALIFT_NEED_TOOL("sig-list-to-certs");
  ASSERT_EQ(
      RunTool({"cert-to-efi-sig-list", "-g", kOwner.text(), Path("db.pem"), Path("theirs.esl")}).exit_code,
      0);
  const Bytes ours = SerializeSignatureLists(SignatureLists{X509SignatureList(kOwner, key_->certificate)});
  EXPECT_EQ(ReadFile(Path("theirs.esl")).value(), ours);
  Write("ours.esl", ours);
  ASSERT_EQ(RunTool({"sig-list-to-certs", Path("ours.esl"), Path("back")}).exit_code, 0);
  EXPECT_EQ(ReadFile(Path("back-0.der")).value(), key_->certificate);
}

TEST_F(EfiDifferentialTest, AuthenticatedVariablesEqualThoseOfEfitools) {
  SEALIFT_NEED_TOOL("sign-efi-sig-list");
  const Bytes content = SerializeSignatureLists(SignatureLists{X509SignatureList(kOwner, key_->certificate)});
  Write("db.esl", content);
  ASSERT_EQ(RunTool({"sign-efi-sig-list", "-t", "2026-11-23 02:51:58", "-g", kOwner.text(), "-k",
                     Path("db.key"), "-c", Path("db.pem"), "db", Path("db.esl"), Path("db.auth")})
                .exit_code,
            0);
  const Bytes theirs = ReadFile(Path("db.auth")).value();
  const VariableTarget target = SecureBootVariable("db").value();
  // What they signed verifies here, so both sign the same bytes.
  const SignatureLists trusted = {X509SignatureList(kOwner, key_->certificate)};
  const auto verified = VerifyAuthenticatedVariable(theirs, target, trusted);
  ASSERT_TRUE(verified.ok()) << verified.status();
  const Bytes ours =
      BuildAuthenticatedVariable(target, kTime, content, *key_->signer, key_->certificate).value();
  EXPECT_EQ(verified->time, VerifyAuthenticatedVariable(ours, target, trusted)->time);
  // PKCS#1 signatures are deterministic: the very same signature is inside both.
  const Bytes theirs_data = ParseAuthenticatedVariable(theirs)->signed_data;
  const Bytes ours_data = ParseAuthenticatedVariable(ours)->signed_data;
  ASSERT_GT(ours_data.size(), 256u);
  EXPECT_EQ(Bytes(theirs_data.end() - 256, theirs_data.end()), Bytes(ours_data.end() - 256, ours_data.end()));
}

TEST_F(EfiDifferentialTest, SbvarsignSignsTheSameBytes) {
  SEALIFT_NEED_TOOL("sbvarsign");
  const Bytes content =
      SerializeSignatureLists(SignatureLists{X509SignatureList(kOwner, other_->certificate)});
  Write("db.esl", content);
  const CommandOutput made =
      RunTool({"sbvarsign", "--key", Path("db.key"), "--cert", Path("db.pem"), "--attr",
               "NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS,TIME_BASED_AUTHENTICATED_WRITE_ACCESS",
               "--output", Path("db.auth"), "db", Path("db.esl")});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  Bytes theirs = ReadFile(Path("db.auth")).value();
  // Its month counts from zero: in January there is none.
  if (theirs[2] == 0) GTEST_SKIP() << "sbvarsign writes no valid time this month";
  const SignatureLists trusted = {X509SignatureList(kOwner, key_->certificate)};
  const VariableTarget target = SecureBootVariable("db").value();
  const auto verified = VerifyAuthenticatedVariable(theirs, target, trusted);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ(SerializeSignatureLists(verified->content), content);
}

TEST_F(EfiDifferentialTest, OpensslVerifiesTheDetachedSignature) {
  SEALIFT_NEED_TOOL("openssl");
  const Bytes content = SerializeSignatureLists(SignatureLists{X509SignatureList(kOwner, key_->certificate)});
  const VariableTarget target = SecureBootVariable("db").value();
  const Bytes auth =
      BuildAuthenticatedVariable(target, kTime, content, *key_->signer, key_->certificate).value();
  Bytes message = Utf16Le("db");
  Append(message, target.vendor.view());
  Append(message, Bytes{0x27, 0, 0, 0});
  Append(message, ByteView(auth).first(16));
  Append(message, content);
  Write("message", message);
  Write("bare.p7", ParseAuthenticatedVariable(auth)->signed_data);
  // OpenSSL reads ContentInfo only: put it around, as firmware does.
  ASSERT_EQ(RunTool({"openssl", "asn1parse", "-inform", "DER", "-in", Path("bare.p7")}).exit_code, 0);
  Bytes wrapped = {0x30, 0x82, 0,    0,    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
                   0xf7, 0x0d, 0x01, 0x07, 0x02, 0xa0, 0x82, 0,    0};
  const Bytes bare = ParseAuthenticatedVariable(auth)->signed_data;
  const auto put = [&](std::size_t at, std::size_t value) {
    wrapped[at] = static_cast<std::uint8_t>(value >> 8);
    wrapped[at + 1] = static_cast<std::uint8_t>(value & 0xff);
  };
  put(2, bare.size() + 15);
  put(17, bare.size());
  Append(wrapped, bare);
  Write("wrapped.p7", wrapped);
  const CommandOutput result = RunTool({"openssl", "smime", "-verify", "-inform", "DER", "-in",
                                        Path("wrapped.p7"), "-content", Path("message"), "-binary", "-CAfile",
                                        Path("db.pem"), "-purpose", "any", "-out", "/dev/null"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

}  // namespace
}  // namespace sealift::efi
