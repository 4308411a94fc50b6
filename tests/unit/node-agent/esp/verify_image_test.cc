// What may not reach the ESP, and under which name it is refused.
#include <gtest/gtest.h>

#include "shared/efi/authenticode.h"
#include "shared/efi/pe_image.h"
#include "shared/efi/signature_list.h"
#include "shared/uki/companion_archive.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_keys.h"
#include "tests/unit/node-agent/esp/esp_fixture.h"

namespace sealift::agent {
namespace {

constexpr efi::Guid kOwner = efi::Guid::Make(0x11223344, 0x5566, 0x7788, {1, 2, 3, 4, 5, 6, 7, 8});

const test::TestKey& DbKey() {
  static const test::TestKey key = test::MakeTestKey("db");
  return key;
}
const test::TestKey& OtherKey() {
  static const test::TestKey key = test::MakeTestKey("other db");
  return key;
}
const test::TestKey& PcrKey() {
  static const test::TestKey key = test::MakeTestKey("pcr");
  return key;
}

Bytes Uki(const std::string& version, const test::TestKey& pcr = PcrKey()) {
  test::SyntheticPe pe;
  pe.sections = {{".osrel", fmt::format("ID=test\nVERSION_ID=\"12\"\nIMAGE_VERSION={}\n", version)},
                 {".linux", "a kernel"},
                 {".pcrpkey", pcr.signer->public_key().Pem()}};
  return pe.Build();
}

Bytes Signed(Bytes image, const test::TestKey& key) {
  return efi::SignImage(std::move(image), *key.signer, key.certificate, "test").value().bytes;
}

class VerifyImage : public testing::Test {
 protected:
  VerifyImage() : temp_(TempDir::Create("sealift-verify").value()) {
    SetDatabase("db", efi::X509SignatureList(kOwner, DbKey().certificate));
  }

  void SetDatabase(std::string_view name, const efi::SignatureList& list) {
    const efi::SignatureLists lists = {list};
    node_.variables.Set(name, kImageSecurityVendor, efi::SerializeSignatureLists(lists));
  }

  static ImageExpectations Expect(const std::string& version, ByteView image) {
    return {.version = version,
            .digest = Sha256(image),
            .size = image.size(),
            .allowed_pcr_keys = {PcrKey().signer->public_key().key_id()}};
  }

  Result<VerifiedImage> Verify(const Bytes& image, const ImageExpectations& expectations) {
    const std::filesystem::path file = temp_.path() / "image";
    EXPECT_TRUE(WriteFileAtomically(file, image).ok());
    EspStager stager = node_.Stager();
    const std::size_t before = node_.fs.steps();
    Result<VerifiedImage> result = stager.VerifyImage({.file = file}, expectations);
    EXPECT_EQ(node_.fs.steps(), before) << "verification touched the ESP";
    return result;
  }
  std::string Refusal(const Bytes& image, const std::string& version = "2.0") {
    return ReasonIdOf(Verify(image, Expect(version, image)).status());
  }

  EspNode node_;
  TempDir temp_;
};

TEST_F(VerifyImage, AcceptsWhatTheFirmwareWouldStartAndStagesIt) {
  const Bytes image = Signed(Uki("2.0"), DbKey());
  auto verified = Verify(image, Expect("2.0", image));
  ASSERT_TRUE(verified.ok()) << Describe(verified.status());
  EXPECT_EQ(verified->digest(), Sha256(image));
  EXPECT_EQ(verified->signer(), Sha256(DbKey().certificate));
  EXPECT_EQ(verified->pcr_key(), PcrKey().signer->public_key().key_id());
  EXPECT_EQ(verified->authenticode(), efi::AuthenticodeDigest(*efi::PeImage::Parse(image)));
  EspStager stager = node_.Stager();
  auto staged = stager.Stage(*verified);
  ASSERT_TRUE(staged.ok()) << Describe(staged.status());
  EXPECT_EQ(node_.fs.Measure(RelativePath(staged->image_path()))->digest, Sha256(image));
}

TEST_F(VerifyImage, TakesExtensionsThatAreTheReleasesAndMeasureAsItSays) {
  const Bytes image = Signed(Uki("2.0"), DbKey());
  const std::string tools = "the tools";
  LocalImage local{.file = temp_.path() / "image", .companions = {temp_.path() / "fetched"}};
  ASSERT_TRUE(WriteFileAtomically(local.file, image).ok());
  ASSERT_TRUE(WriteFileAtomically(local.companions[0], AsBytes(tools)).ok());
  ImageExpectations expected = Expect("2.0", image);
  expected.companions = {{.name = "tools.raw", .digest = Sha256(AsBytes(tools)), .size = tools.size()}};
  const std::vector<uki::CompanionFile> measured = {{.name = "tools.raw", .content = AsBytes(tools)}};
  expected.pcr13_event = uki::PredictPcr13(measured)->events.front().digest;
  EspStager stager = node_.Stager();
  const auto verified = stager.VerifyImage(local, expected);
  ASSERT_TRUE(verified.ok()) << verified.status();
  ASSERT_EQ(verified->companions().size(), 1u);
  EXPECT_EQ(verified->companions()[0].file, local.companions[0]);

  ImageExpectations other = expected;
  // A configuration extension that the release measures, and that is not there.
  other.pcr12_event = Sha256(AsBytes("settings"));
  EXPECT_EQ(ReasonIdOf(stager.VerifyImage(local, other).status()), "EXTENSION_INVALID");
  other = expected;
  other.pcr13_event->bytes[0] ^= 1;
  EXPECT_EQ(ReasonIdOf(stager.VerifyImage(local, other).status()), "EXTENSION_INVALID");
  other = expected;
  other.companions[0].name = "renamed.raw";
  EXPECT_EQ(ReasonIdOf(stager.VerifyImage(local, other).status()), "EXTENSION_INVALID")
      << "names are measured";
  for (const char* bytes : {"the toolz", "the", "the tools and more"}) {
    ASSERT_TRUE(WriteFileAtomically(local.companions[0], AsBytes(bytes)).ok());
    EXPECT_EQ(ReasonIdOf(stager.VerifyImage(local, expected).status()), "IMAGE_DIGEST_MISMATCH") << bytes;
  }
  std::filesystem::remove(local.companions[0]);
  std::filesystem::create_symlink("/dev/zero", local.companions[0]);
  EXPECT_EQ(ReasonIdOf(stager.VerifyImage(local, expected).status()), "FILE_UNREADABLE");
}

TEST_F(VerifyImage, RefusesAnUnsignedImage) { EXPECT_EQ(Refusal(Uki("2.0")), "IMAGE_UNSIGNED"); }

TEST_F(VerifyImage, RefusesAnImageSignedByAnotherKey) {
  EXPECT_EQ(Refusal(Signed(Uki("2.0"), OtherKey())), "IMAGE_SIGNER_UNKNOWN");
}

TEST_F(VerifyImage, RefusesEveryTamperedSection) {
  const Bytes good = Signed(Uki("2.0"), DbKey());
  const efi::PeImage parsed = *efi::PeImage::Parse(good);
  for (const efi::PeSection& section : parsed.sections()) {
    Bytes image = good;
    image[section.raw_offset + 3] ^= 1;
    EXPECT_EQ(Refusal(image), "IMAGE_SIGNATURE_INVALID") << section.name;
  }
}

TEST_F(VerifyImage, RefusesATruncatedImageWhetherOrNotTheReleaseSaysSo) {
  const Bytes good = Signed(Uki("2.0"), DbKey());
  const Bytes half(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(good.size() / 2));
  EXPECT_EQ(Refusal(half), "IMAGE_TRUNCATED");
  EXPECT_EQ(ReasonIdOf(Verify(half, Expect("2.0", good)).status()), "IMAGE_TRUNCATED");
}

TEST_F(VerifyImage, RefusesOtherBytesThanTheRelease) {
  const Bytes good = Signed(Uki("2.0"), DbKey());
  Bytes other = good;
  other.back() ^= 1;
  EXPECT_EQ(ReasonIdOf(Verify(other, Expect("2.0", good)).status()), "IMAGE_DIGEST_MISMATCH");
  other = good;
  other.push_back(0);
  EXPECT_EQ(ReasonIdOf(Verify(other, Expect("2.0", good)).status()), "IMAGE_DIGEST_MISMATCH");
}

TEST_F(VerifyImage, RefusesAnotherAuthenticodeDigestThanTheRelease) {
  const Bytes image = Signed(Uki("2.0"), DbKey());
  ImageExpectations expectations = Expect("2.0", image);
  expectations.authenticode = Sha256(AsBytes("other"));
  EXPECT_EQ(ReasonIdOf(Verify(image, expectations).status()), "IMAGE_DIGEST_MISMATCH");
}

TEST_F(VerifyImage, RefusesWhatDbxForbids) {
  const Bytes image = Signed(Uki("2.0"), DbKey());
  SetDatabase("dbx", efi::X509SignatureList(kOwner, DbKey().certificate));
  EXPECT_EQ(Refusal(image), "IMAGE_REVOKED");
  const std::vector<Sha256Digest> digests = {efi::AuthenticodeDigest(*efi::PeImage::Parse(image))};
  SetDatabase("dbx", efi::Sha256SignatureList(kOwner, digests));
  EXPECT_EQ(Refusal(image), "IMAGE_REVOKED");
  SetDatabase("dbx", efi::X509SignatureList(kOwner, OtherKey().certificate));
  EXPECT_EQ(Refusal(image), "NONE");
}

TEST_F(VerifyImage, RefusesAnotherVersionInside) {
  EXPECT_EQ(Refusal(Signed(Uki("1.9"), DbKey())), "IMAGE_VERSION_MISMATCH");
}

TEST_F(VerifyImage, RefusesAPcrKeyThatTheReleaseDoesNotList) {
  EXPECT_EQ(Refusal(Signed(Uki("2.0", OtherKey()), DbKey())), "IMAGE_PCR_KEY_UNKNOWN");
}

TEST_F(VerifyImage, RefusesAnImageThatIsNoUki) {
  test::SyntheticPe pe;
  EXPECT_EQ(Refusal(Signed(pe.Build(), DbKey())), "IMAGE_MALFORMED");
  EXPECT_EQ(Refusal(ToBytes("not a PE image at all")), "IMAGE_MALFORMED");
}

// A failure of the machine is not the image's fault: the version must not be remembered as bad.
TEST_F(VerifyImage, BlamesTheFirmwareWhenItsDatabasesCannotBeRead) {
  const Bytes image = Signed(Uki("2.0"), DbKey());
  node_.variables.Set("dbx", kImageSecurityVendor, ToBytes("garbage"));
  EXPECT_EQ(Refusal(image), "FIRMWARE_VARIABLE_UNREADABLE");
  node_.variables.SetUnreadable(true);
  EXPECT_EQ(Refusal(image), "FIRMWARE_VARIABLE_UNREADABLE");
}

// A process that finds an image staged by an earlier one asks the firmware's databases of now.
class FindStaged : public VerifyImage {
 protected:
  std::string Find(const Bytes& image, const ImageExpectations& expectations) {
    node_.PutFile(ImageFilePath(expectations.version, expectations.digest), image);
    EspStager stager = node_.Stager();
    return ReasonIdOf(stager.FindStaged(expectations).status());
  }
};

TEST_F(FindStaged, AcceptsWhatTheFirmwareWouldStart) {
  const Bytes image = Signed(Uki("2.0"), DbKey());
  EXPECT_EQ(Find(image, Expect("2.0", image)), "NONE");
}

TEST_F(FindStaged, RefusesWhatDbxForbidsByNow) {
  const Bytes image = Signed(Uki("2.0"), DbKey());
  SetDatabase("dbx", efi::X509SignatureList(kOwner, DbKey().certificate));
  EXPECT_EQ(Find(image, Expect("2.0", image)), "IMAGE_REVOKED");
}

TEST_F(FindStaged, RefusesWhatOnlyADigestVouchesFor) {
  const Bytes unsigned_image = Uki("2.0");
  EXPECT_EQ(Find(unsigned_image, Expect("2.0", unsigned_image)), "IMAGE_UNSIGNED");
  const Bytes foreign = Signed(Uki("2.0"), OtherKey());
  EXPECT_EQ(Find(foreign, Expect("2.0", foreign)), "IMAGE_SIGNER_UNKNOWN");
  const Bytes locked = Signed(Uki("2.0", OtherKey()), DbKey());
  EXPECT_EQ(Find(locked, Expect("2.0", locked)), "IMAGE_PCR_KEY_UNKNOWN");
  const Bytes other = Signed(Uki("1.9"), DbKey());
  EXPECT_EQ(Find(other, Expect("2.0", other)), "IMAGE_VERSION_MISMATCH");
}

TEST_F(FindStaged, FindsNothingWhereTheBytesAreOthers) {
  const Bytes image = Signed(Uki("2.0"), DbKey());
  EspStager stager = node_.Stager();
  EXPECT_EQ(ReasonIdOf(stager.FindStaged(Expect("2.0", image)).status()), "IMAGE_NOT_STAGED");
  Bytes other = image;
  other.back() ^= 1;
  EXPECT_EQ(Find(other, Expect("2.0", image)), "IMAGE_NOT_STAGED");
  other.push_back(0);
  EXPECT_EQ(Find(other, Expect("2.0", image)), "IMAGE_NOT_STAGED");
  EXPECT_EQ(Find(Bytes(image.begin(), image.end() - 1), Expect("2.0", image)), "IMAGE_NOT_STAGED");
}

TEST_F(VerifyImage, TrustsNobodyWhenDbIsEmpty) {
  node_.variables.Set("db", kImageSecurityVendor, {});
  EXPECT_EQ(Refusal(Signed(Uki("2.0"), DbKey())), "IMAGE_SIGNER_UNKNOWN");
}

}  // namespace
}  // namespace sealift::agent
