#include "shared/efi/pe_image.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "tests/support/synthetic_pe.h"

namespace sealift::efi {
namespace {

using test::ReasonIdFrom;
using test::SyntheticPe;

void PutU32(Bytes& bytes, std::size_t offset, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i) bytes[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
}

std::string Parsed(const Bytes& bytes) { return ReasonIdFrom(PeImage::Parse(bytes)); }

// Offsets of the synthetic image.
constexpr std::size_t kCoff = 0x84;
constexpr std::size_t kOptional = 0x98;
constexpr std::size_t kTable = 0x188;

TEST(PeImageTest, ReadsSectionsExactly) {
  const Bytes bytes =
      SyntheticPe{.sections = {{".text", "code"}, {".longest", std::string(600, 'x')}}}.Build();
  const auto image = PeImage::Parse(bytes);
  ASSERT_TRUE(image.ok()) << image.status();
  ASSERT_EQ(image->sections().size(), 2u);
  const PeSection* section = image->Find(".longest");
  ASSERT_NE(section, nullptr);
  EXPECT_EQ(section->virtual_size, 600u);
  EXPECT_EQ(section->raw_size, 1024u);
  EXPECT_EQ(section->virtual_address, 0x5000u);
  EXPECT_EQ(AsText(image->Contents(*section).value()), std::string(600, 'x'));
  EXPECT_EQ(image->Find(".absent"), nullptr);
  EXPECT_EQ(image->checksum_offset(), kOptional + 64);
  EXPECT_EQ(image->security_entry_offset(), kOptional + 144);
  EXPECT_TRUE(image->certificate_table().empty());
}

TEST(PeImageTest, EveryTruncationIsNamedSo) {
  const Bytes bytes = SyntheticPe{}.Build();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::string reason = ReasonIdFrom(PeImage::Parse(ByteView(bytes).first(size)));
    ASSERT_EQ(reason, size < 2 ? "IMAGE_MALFORMED" : "IMAGE_TRUNCATED") << size;
  }
}

TEST(PeImageTest, RefusesWhatIsNoPe32Plus) {
  Bytes bytes = SyntheticPe{}.Build();
  bytes[0] = 'Z';
  EXPECT_EQ(Parsed(bytes), "IMAGE_MALFORMED");
  bytes = SyntheticPe{}.Build();
  bytes[0x80] = 'X';
  EXPECT_EQ(Parsed(bytes), "IMAGE_MALFORMED");
  bytes = SyntheticPe{}.Build();
  bytes[kOptional] = 0x0b;
  bytes[kOptional + 1] = 0x01;  // PE32
  EXPECT_EQ(Parsed(bytes), "IMAGE_MALFORMED");
}

TEST(PeImageTest, BelievesNoLength) {
  const Bytes good = SyntheticPe{}.Build();
  const auto with = [&](std::size_t offset, std::uint32_t value) {
    Bytes bytes = good;
    PutU32(bytes, offset, value);
    return Parsed(bytes);
  };
  EXPECT_EQ(with(0x3c, 0xffffffff), "IMAGE_TRUNCATED");  // PE header offset
  EXPECT_EQ(with(0x3c, 0xfffffff0), "IMAGE_TRUNCATED");
  EXPECT_EQ(with(kCoff + 2, 0), "IMAGE_MALFORMED");                 // no sections
  EXPECT_EQ(with(kCoff + 2, 0xffff), "IMAGE_MALFORMED");            // 65535 sections
  EXPECT_EQ(with(kCoff + 2, 100), "IMAGE_TRUNCATED");               // table beyond the end
  EXPECT_EQ(with(kOptional + 60, 0x1000000), "IMAGE_TRUNCATED");    // headers
  EXPECT_EQ(with(kOptional + 60, 0x100), "IMAGE_MALFORMED");        // headers that end before the table
  EXPECT_EQ(with(kOptional + 108, 4), "IMAGE_MALFORMED");           // no security entry
  EXPECT_EQ(with(kOptional + 108, 0x20000000), "IMAGE_MALFORMED");  // times 8 overflows
  EXPECT_EQ(with(kOptional + 36, 0x201), "IMAGE_MALFORMED");        // alignment
  EXPECT_EQ(with(kTable + 16, 0xffffffff), "IMAGE_TRUNCATED");      // raw size
  EXPECT_EQ(with(kTable + 20, 0xfffffff0), "IMAGE_TRUNCATED");      // raw offset
  EXPECT_EQ(with(kTable + 12, 0xffffffff), "IMAGE_MALFORMED");      // address
  EXPECT_EQ(with(kTable + 20, 0x200), "IMAGE_MALFORMED");           // over the headers
  EXPECT_EQ(with(kTable + 40 + 20, 0x400), "IMAGE_MALFORMED");      // over the other section
}

TEST(PeImageTest, CertificateTableIsTheLastThing) {
  const Bytes good = SyntheticPe{.tail = std::string(64, 't')}.Build();
  const std::size_t entry = kOptional + 144;
  const auto with = [&](std::uint32_t offset, std::uint32_t size) {
    Bytes bytes = good;
    PutU32(bytes, entry, offset);
    PutU32(bytes, entry + 4, size);
    return Parsed(bytes);
  };
  const auto end = static_cast<std::uint32_t>(good.size());
  EXPECT_EQ(with(end - 64, 64), "NONE");
  EXPECT_EQ(with(end - 64, 32), "IMAGE_MALFORMED");
  EXPECT_EQ(with(end - 64, 65), "IMAGE_TRUNCATED");
  EXPECT_EQ(with(end - 63, 63), "IMAGE_MALFORMED");
  EXPECT_EQ(with(end - 128, 128), "IMAGE_MALFORMED");
  EXPECT_EQ(with(0xfffffff8, 0xfffffff8), "IMAGE_TRUNCATED");
  EXPECT_EQ(with(0, end), "IMAGE_MALFORMED");
}

TEST(PeImageTest, ContentsNeverInventZeros) {
  Bytes bytes = SyntheticPe{}.Build();
  PutU32(bytes, kTable + 8, 0x201);  // one byte more than the file has
  const auto image = PeImage::Parse(bytes);
  ASSERT_TRUE(image.ok());
  EXPECT_EQ(ReasonIdFrom(image->Contents(image->sections()[0])), "IMAGE_MALFORMED");
}

TEST(PeImageTest, ChecksumOfKnownBytes) {
  // 0x0201 + 0x0403 + 0x05 = 0x0609, plus length 5.
  EXPECT_EQ(PeChecksum(Bytes{1, 2, 3, 4, 5}), 0x0609u + 5u);
  // A carry comes back in: 0xffff + 0x0001 -> 0x0001.
  EXPECT_EQ(PeChecksum(Bytes{0xff, 0xff, 0x01, 0x00}), 0x0001u + 4u);
}

}  // namespace
}  // namespace sealift::efi
