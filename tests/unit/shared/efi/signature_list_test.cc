#include "shared/efi/signature_list.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace sealift::efi {
namespace {

using test::ReasonIdFrom;

const Guid kOwner = Guid::Parse("11223344-5566-7788-99aa-bbccddeeff00").value();

TEST(GuidTest, TextAndMemoryOrderDifferInTheFirstThreeGroups) {
  EXPECT_EQ(HexEncode(kOwner.bytes),
            "44332211665588779"
            "9aabbccddeeff00");
  EXPECT_EQ(kOwner.text(), "11223344-5566-7788-99aa-bbccddeeff00");
  EXPECT_EQ(kGlobalVariable.text(), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
  EXPECT_EQ(kImageSecurityDatabase.text(), "d719b2cb-3d3a-4596-a3bc-dad00e67656f");
}

TEST(GuidTest, RefusesOtherForms) {
  for (const char* text : {"", "11223344-5566-7788-99aa-bbccddeeff0", "112233445566-7788-99aa-bbccddeeff00--",
                           "1122334g-5566-7788-99aa-bbccddeeff00", "{1223344-5566-7788-99aa-bbccddeeff0}"})
    EXPECT_EQ(ReasonIdFrom(Guid::Parse(text)), "MALFORMED") << text;
}

TEST(SignatureListTest, WritesTheLayoutOfTheSpecification) {
  const Bytes certificate = {0x30, 0x01, 0xaa};
  const Bytes bytes = SerializeSignatureLists(SignatureLists{X509SignatureList(kOwner, certificate)});
  EXPECT_EQ(HexEncode(bytes),
            "a159c0a5e494a74a87b5ab155c2bf072"  // type
            "2f000000"
            "00000000"
            "13000000"  // sizes
            "44332211665588779"
            "9aabbccddeeff00"
            "3001aa");
}

TEST(SignatureListTest, KeepsListsItDoesNotKnow) {
  Bytes bytes = SerializeSignatureLists(SignatureLists{
      X509SignatureList(kOwner, Bytes(700, 7)), Sha256SignatureList(kOwner, std::vector<Sha256Digest>(3)),
      SignatureList{.type = kLoaderVendor, .header = {1, 2, 3}, .entries = {{kOwner, {9}}, {kOwner, {8}}}}});
  const auto lists = ParseSignatureLists(bytes);
  ASSERT_TRUE(lists.ok()) << lists.status();
  EXPECT_EQ(lists->size(), 3u);
  EXPECT_EQ(SerializeSignatureLists(*lists), bytes);
  EXPECT_EQ(EntriesOfType(*lists, kCertSha256).size(), 3u);
  EXPECT_EQ(EntriesOfType(*lists, kCertX509).front()->data, Bytes(700, 7));
}

TEST(SignatureListTest, EmptyIsAnEmptyDatabase) { EXPECT_TRUE(ParseSignatureLists({})->empty()); }

TEST(SignatureListTest, RefusesEveryTruncation) {
  const Bytes bytes = SerializeSignatureLists(SignatureLists{
      X509SignatureList(kOwner, Bytes(30, 7)), Sha256SignatureList(kOwner, std::vector<Sha256Digest>(2))});
  const std::size_t first = 28 + 16 + 30;
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    const bool whole = size == first;
    EXPECT_EQ(ParseSignatureLists(ByteView(bytes).first(size)).ok(), whole) << size;
  }
}

TEST(SignatureListTest, KnowsTheSizesOfHashTypes) {
  const std::pair<Guid, std::size_t> types[] = {{kCertSha1, 20},     {kCertSha384, 48},
                                                {kCertSha512, 64},   {kCertSha256, 32},
                                                {kCertRsa2048, 256}, {kCertX509Sha256, 48}};
  for (const auto& [type, bytes] : types) {
    for (const std::size_t wrong : {std::size_t{0}, std::size_t{1}}) {
      const SignatureLists lists = {{.type = type, .entries = {{kOwner, Bytes(bytes + wrong, 1)}}}};
      EXPECT_EQ(ParseSignatureLists(SerializeSignatureLists(lists)).ok(), wrong == 0) << type.text();
    }
  }
  EXPECT_EQ(SignatureTypeName(kLoaderVendor), "unknown");
  EXPECT_EQ(HashOfEntry(kCertX509Sha256, Bytes(48)).size(), 32u);
  EXPECT_TRUE(HashOfEntry(kCertX509, Bytes(48)).empty());
}

TEST(SignatureListTest, RefusesSizesThatContradictEachOther) {
  const Bytes good =
      SerializeSignatureLists(SignatureLists{Sha256SignatureList(kOwner, std::vector<Sha256Digest>(2))});
  const auto with = [&](std::size_t offset, std::uint8_t value) {
    Bytes bytes = good;
    bytes[offset] = value;
    return ReasonIdFrom(ParseSignatureLists(bytes));
  };
  EXPECT_EQ(with(16, 27), "MALFORMED");    // list smaller than its header
  EXPECT_EQ(with(19, 0x80), "MALFORMED");  // list far beyond the input
  EXPECT_EQ(with(20, 1), "MALFORMED");     // header where none belongs
  EXPECT_EQ(with(24, 16), "MALFORMED");    // entry without data
  EXPECT_EQ(with(24, 0), "MALFORMED");     // division by zero
  EXPECT_EQ(with(24, 32), "MALFORMED");    // SHA-256 entries of another size
}

}  // namespace
}  // namespace sealift::efi
