// Streaming against the same done in memory, SBAT, and what a stub sees of profiles.
#include "shared/uki/uki_writer.h"

#include <gtest/gtest.h>

#include "shared/crypto/hash.h"
#include "shared/uki/sbat.h"
#include "shared/uki/sections.h"
#include "tests/support/status_matchers.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_keys.h"

namespace sealift::uki {
namespace {

using test::ReasonIdFrom;
using test::SyntheticPe;

constexpr std::string_view kHeader = "sbat,1,SBAT Version,sbat,1,https://example.org\n";

SyntheticPe Stub() {
  return {
      .sections = {{".text", "code"}, {".sbat", std::string(kHeader) + "systemd,1,x\n"}, {".sdmagic", "m"}},
      .section_alignment = 0x200};
}

class UkiWriterTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { db_ = new test::TestKey(test::MakeTestKey("writer db")); }
  static ImageSigner Signer() {
    return {.signer = db_->signer.get(), .certificate = db_->certificate, .intent = "test"};
  }
  static inline test::TestKey* db_;
  const Bytes stub_ = Stub().Build();
  const Bytes kernel_ = SyntheticPe{}.Build();
  // Longer than two buffers, and odd.
  const Bytes initrd_ = RandomBytes((512 << 10) + 4567);
  TempDir folder_ = TempDir::Create("sealift-writer").value();
};

TEST_F(UkiWriterTest, StreamedImagesAreThoseThatAreSignedInMemory) {
  const std::string initrd = (folder_.path() / "initrd").string();
  ASSERT_TRUE(WriteFileAtomically(initrd, initrd_).ok());
  const SourceFile file = OpenSource(initrd, 1u << 30).value();
  const std::vector<UkiSection> in_memory = {
      {".osrel", std::string_view("ID=x\n")}, {".linux", kernel_}, {".initrd", initrd_}};
  std::vector<UkiSection> in_file = in_memory;
  in_file[2].content = file.source;
  const efi::SignedImage wanted =
      efi::SignImage(AssembleUki(stub_, in_memory).value(), *db_->signer, db_->certificate, "test").value();
  const UkiLayout layout = LayOutUki(stub_, in_file).value();
  const auto written = WriteUkiFile(layout, Signer(), folder_.path() / "uki.efi");
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->digest, wanted.digest);
  EXPECT_EQ(written->size, wanted.bytes.size());
  EXPECT_TRUE(ReadFile(folder_.path() / "uki.efi").value() == wanted.bytes);
  EXPECT_TRUE(WriteUki(layout, Signer())->bytes == wanted.bytes);
}

TEST_F(UkiWriterTest, AnotherKeysCertificateLeavesNoFile) {
  const test::TestKey other = test::MakeTestKey("other");
  ImageSigner signer = Signer();
  signer.certificate = other.certificate;
  const std::vector<UkiSection> sections = {{".linux", kernel_}};
  const auto written = WriteUkiFile(LayOutUki(stub_, sections).value(), signer, folder_.path() / "uki.efi");
  EXPECT_EQ(ReasonIdFrom(written), "KEY_MISMATCH");
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(UkiWriterTest, SourcesGiveTheSameInPiecesOfAnySize) {
  const std::string path = (folder_.path() / "file").string();
  ASSERT_TRUE(WriteFileAtomically(path, initrd_).ok());
  const SourceFile file = OpenSource(path, 1u << 30).value();
  Bytes scratch(1000);
  Bytes got;
  std::size_t first = 0;
  ASSERT_TRUE(file.source.Part(7, 5000)
                  .ForEach(scratch, 990,
                           [&](ByteView piece) -> Status {
                             if (got.empty()) first = piece.size();
                             Append(got, piece);
                             return OkStatus();
                           })
                  .ok());
  EXPECT_EQ(first, 10u);
  EXPECT_TRUE(std::equal(got.begin(), got.end(), initrd_.begin() + 7, initrd_.begin() + 5007));
  EXPECT_EQ(DigestSource(file.source).value(), Sha256(initrd_));
  EXPECT_EQ(file.source.Head(10)->size(), 10u);
  EXPECT_EQ(ReasonIdFrom(OpenSource(path, 100)), "FILE_TOO_LARGE");
  EXPECT_EQ(ReasonIdFrom(OpenSource(folder_.path(), 100)), "FILE_UNREADABLE");
}

TEST(PeChecksumTest, PiecesOfOddLengthSumToTheWhole) {
  const Bytes bytes = RandomBytes(10'001);
  for (const std::size_t step : {1u, 3u, 8u, 997u}) {
    efi::PeChecksumSum sum;
    for (std::size_t at = 0; at < bytes.size(); at += step)
      sum.Add(at, ByteView(bytes).subspan(at, std::min(step, bytes.size() - at)));
    EXPECT_EQ(sum.Finish(bytes.size()), efi::PeChecksum(bytes)) << step;
  }
}

TEST(PeHeadTest, IsReadWithoutTheRest) {
  const Bytes image = Stub().Build();
  const auto head = efi::PeImage::ParseHead(ByteView(image).first(0x400), image.size());
  ASSERT_TRUE(head.ok()) << head.status();
  const efi::PeImage whole = efi::PeImage::Parse(image).value();
  EXPECT_EQ(efi::AuthenticodeRanges(*head), efi::AuthenticodeRanges(whole));
  EXPECT_EQ(ReasonIdFrom(head->Contents(head->sections()[0])), "IMAGE_TRUNCATED");
  EXPECT_EQ(ReasonIdFrom(efi::PeImage::ParseHead(ByteView(image).first(0x400), image.size() - 0x200)),
            "IMAGE_TRUNCATED");
}

TEST(SbatTest, LinesFollowThoseOfTheStubOnce) {
  const std::string own = std::string(kHeader) + "systemd,1,x\n" + std::string(3, '\0');
  EXPECT_EQ(MergeSbat(own, "uki,1,U\r\n\nsystemd,1,other\nuki,1,again").value(),
            std::string(kHeader) + "systemd,1,x\nuki,1,U\n");
  EXPECT_EQ(MergeSbat("systemd,1", std::string(kHeader)).value(), std::string(kHeader) + "systemd,1\n");
  EXPECT_TRUE(MergeSbat("", "uki,1")->starts_with("sbat,1,SBAT Version,"));
  for (const char* bad : {"uki", ",1", "uki,", "uki,1x", "uki,1234567890", "u\tki,1", "systemd,2"})
    EXPECT_EQ(ReasonIdFrom(MergeSbat(own, bad)), "UKI_LAYOUT_INVALID") << bad;
  EXPECT_EQ(ReasonIdFrom(MergeSbat(own, std::string(17 << 10, '\n'))), "UKI_LAYOUT_INVALID");
}

TEST(UkiLayoutTest, SbatGrowsBehindTheStubsSections) {
  const Bytes stub = Stub().Build();
  const std::string sbat(5000, 's');
  const std::vector<UkiSection> sections = {{".sbat", sbat}};
  const Bytes image = AssembleUki(stub, sections).value();
  const efi::PeImage parsed = efi::PeImage::Parse(image).value();
  ASSERT_EQ(parsed.sections().size(), 3u);
  EXPECT_EQ(parsed.sections()[2].name, ".sbat");
  EXPECT_GT(parsed.sections()[2].virtual_address, parsed.sections()[1].virtual_address);
  EXPECT_EQ(AsText(UkiSectionContents(parsed, ".sbat").value()), sbat);
  EXPECT_EQ(AsText(image).find("systemd,1,x"), std::string_view::npos) << "the old one stayed in the file";
}

TEST(ProfileTest, OverridesWhatIsBeforeTheFirst) {
  const Bytes stub = Stub().Build();
  const std::vector<UkiSection> sections = {{".osrel", std::string_view("base")},
                                            {".cmdline", std::string_view("base")},
                                            {".profile", std::string_view("a")},
                                            {".cmdline", std::string_view("of a")},
                                            {".profile", std::string_view("b")}};
  const Bytes image = AssembleUki(stub, sections).value();
  const efi::PeImage parsed = efi::PeImage::Parse(image).value();
  const auto profiles = SectionsByProfile(parsed);
  ASSERT_EQ(profiles.size(), 2u);
  const auto text = [&](std::size_t profile, std::string_view name) {
    return AsText(parsed.Contents(*profiles[profile].at(name)).value());
  };
  EXPECT_EQ(text(0, ".cmdline"), "of a");
  EXPECT_EQ(text(1, ".cmdline"), "base");
  EXPECT_EQ(text(0, ".osrel"), "base");
  EXPECT_EQ(text(1, ".profile"), "b");
  EXPECT_EQ(text(1, ".text"), "code");
  const efi::PeImage alone = efi::PeImage::Parse(stub).value();
  EXPECT_EQ(SectionsByProfile(alone).size(), 1u);
}

TEST(KnownSectionsTest, GrowWithTheStub) {
  for (const char* name : {".linux", ".uname", ".sbat", ".pcrsig", ".dtb"})
    EXPECT_TRUE(CheckSectionKnown(name, 252).ok()) << name;
  EXPECT_EQ(ReasonIdFrom(CheckSectionKnown(".ucode", 255)), "UKI_STUB_UNSUPPORTED");
  EXPECT_TRUE(CheckSectionKnown(".ucode", 256).ok());
  EXPECT_EQ(ReasonIdFrom(CheckSectionKnown(".profile", 256)), "UKI_STUB_UNSUPPORTED");
  EXPECT_TRUE(CheckSectionKnown(".profile", 257).ok());
  EXPECT_EQ(ReasonIdFrom(CheckSectionKnown(".text", 262)), "UKI_STUB_UNSUPPORTED");
}

}  // namespace
}  // namespace sealift::uki
