#include "controller/media/iso_image.h"

#include <gtest/gtest.h>

#include "tests/support/iso_maker.h"
#include "tests/support/status_matchers.h"

namespace sealift::media {
namespace {

using test::MakeIso;
using test::PutLittle;
using test::ReasonIdFrom;

constexpr std::size_t kBlock = 2048;

Result<IsoImage> Parse(const Bytes& file) {
  return ParseIso(file.size(), [&](std::uint64_t offset, std::size_t size) -> Result<Bytes> {
    EXPECT_LE(offset + size, file.size());
    return ToBytes(ByteView(file).subspan(static_cast<std::size_t>(offset), size));
  });
}

TEST(IsoImageTest, BootCatalogueAndPartitionTableAreRead) {
  const Result<IsoImage> iso = Parse(MakeIso());
  ASSERT_TRUE(iso.ok()) << iso.status();
  EXPECT_EQ(iso->volume_id, "UKI_ISO_INSTALL");
  EXPECT_EQ(iso->volume_bytes, 24 * kBlock);
  ASSERT_EQ(iso->boot_images.size(), 1u);
  EXPECT_EQ(iso->boot_images[0].platform, 0xef);
  ASSERT_EQ(iso->partitions.size(), 1u);
  EXPECT_EQ(iso->partitions[0].name, "E");
  EXPECT_EQ(iso->partitions[0].size, 8u * 512);
  EXPECT_EQ(iso->cd_esp(), 20 * kBlock);
  EXPECT_EQ(iso->disk_esp(), 20 * kBlock);
}

TEST(IsoImageTest, WithoutAPartitionTableItIsACdOnly) {
  Bytes file = MakeIso();
  file[512] = 'X';
  EXPECT_FALSE(Parse(file)->disk_esp().has_value());
  EXPECT_TRUE(Parse(file)->cd_esp().has_value());
  file = MakeIso();
  file[19 * kBlock + 32] = 0;  // not bootable
  EXPECT_FALSE(Parse(file)->cd_esp().has_value());
}

TEST(IsoImageTest, LyingNumbersAreRefused) {
  const std::vector<std::pair<const char*, std::function<void(Bytes&)>>> cases = {
      {"no descriptors", [](Bytes& file) { file[16 * kBlock + 1] = 'X'; }},
      {"no end of descriptors", [](Bytes& file) { file[18 * kBlock] = 2; }},
      {"no primary descriptor", [](Bytes& file) { file[16 * kBlock] = 2; }},
      {"other blocks", [](Bytes& file) { PutLittle(file, 16 * kBlock + 128, 512, 2); }},
      {"volume beyond the file", [](Bytes& file) { PutLittle(file, 16 * kBlock + 80, 25, 4); }},
      {"odd label", [](Bytes& file) { file[16 * kBlock + 40] = 7; }},
      {"catalogue beyond the file", [](Bytes& file) { PutLittle(file, 17 * kBlock + 71, 0xffffffff, 4); }},
      {"catalogue checksum", [](Bytes& file) { file[19 * kBlock + 5] ^= 1; }},
      {"image beyond the file", [](Bytes& file) { PutLittle(file, 19 * kBlock + 40, 24, 4); }},
      {"image longer than the file", [](Bytes& file) { PutLittle(file, 19 * kBlock + 38, 17, 2); }},
      {"entries beyond the file", [](Bytes& file) { PutLittle(file, 512 + 72, ~0ull, 8); }},
      {"many entries", [](Bytes& file) { PutLittle(file, 512 + 80, 257, 4); }},
      {"odd entries", [](Bytes& file) { PutLittle(file, 512 + 84, 0, 4); }},
      {"partition beyond the file", [](Bytes& file) { PutLittle(file, 1024 + 40, 96, 8); }},
      {"partition that ends before it begins", [](Bytes& file) { PutLittle(file, 1024 + 40, 79, 8); }}};
  for (const auto& [name, change] : cases) {
    Bytes file = MakeIso();
    change(file);
    EXPECT_EQ(ReasonIdFrom(Parse(file)), "MALFORMED") << name;
  }
  for (std::size_t size = 0; size < MakeIso().size(); size += 700) {
    Bytes file = MakeIso();
    file.resize(size);
    EXPECT_EQ(ReasonIdFrom(Parse(file)), "MALFORMED") << size;
  }
}

}  // namespace
}  // namespace sealift::media
