#include <gtest/gtest.h>

#include "shared/delta/content_list.h"
#include "shared/delta/delta_format.h"
#include "shared/delta/image_index.h"
#include "tests/support/delta_images.h"
#include "tests/support/status_matchers.h"

namespace sealift::delta {
namespace {

using test::ReasonIdFrom;

std::vector<ImagePart> SplitBytes(ByteView bytes) {
  const TempDir temp = TempDir::Create("sealift-split").value();
  EXPECT_TRUE(WriteFileAtomically(temp.path() / "image", bytes).ok());
  return SplitImage(OpenFile::Open(temp.path() / "image").value()).value();
}

std::vector<Encoding> EncodingsOf(const std::vector<ImagePart>& parts) {
  std::vector<Encoding> encodings;
  for (const ImagePart& part : parts)
    if (part.encoding != Encoding::kPlain) encodings.push_back(part.encoding);
  return encodings;
}

TEST(SplitImageTest, FindsKernelPayloadAndFrames) {
  const test::ImageRecipe recipe{.frames = {test::CodeLike(1, 3000), test::CodeLike(2, 300000), "x"},
                                 .kernel = test::CodeLike(3, 50000)};
  const Bytes image = recipe.Build();
  const auto parts = SplitBytes(image);
  EXPECT_EQ(EncodingsOf(parts), (std::vector{Encoding::kLz4Legacy, Encoding::kZstdFrame, Encoding::kZstdFrame,
                                             Encoding::kZstdFrame}));
  std::uint64_t end = 0;
  std::vector<std::uint64_t> raw;
  for (const ImagePart& part : parts) {
    EXPECT_EQ(part.offset, end);
    end += part.size;
    if (part.encoding != Encoding::kPlain) raw.push_back(part.raw_size);
  }
  EXPECT_EQ(end, image.size());
  EXPECT_EQ(raw, (std::vector<std::uint64_t>{50000, 3000, 300000, 1}));
}

TEST(SplitImageTest, CoversDamagedImagesToo) {
  const test::ImageRecipe recipe{.frames = {test::CodeLike(1, 3000), test::CodeLike(2, 9000)},
                                 .kernel = test::CodeLike(3, 5000)};
  const Bytes image = recipe.Build();
  for (std::size_t i = 0; i < image.size(); i += i < 0x400 ? 7 : 61) {
    Bytes bad = image;
    bad[i] ^= 0xff;
    std::uint64_t end = 0;
    for (const ImagePart& part : SplitBytes(bad)) {
      ASSERT_EQ(part.offset, end) << i;
      end += part.size;
    }
    ASSERT_EQ(end, image.size()) << i;
  }
}

DeltaProgram SomeProgram() {
  DeltaProgram program{.source_size = 1000, .source = {}, .target_size = 350, .target = {}, .operations = {}};
  program.operations.emplace_back(CopyOperation{.offset = 500, .size = 100});
  program.operations.emplace_back(CopyOperation{.offset = 0, .size = 100});
  PartOperation part{.encoding = Encoding::kZstdFrame, .level = 9, .size = 100, .raw_size = 400};
  part.references = {{.encoding = Encoding::kZstdFrame, .offset = 10, .size = 20, .raw_size = 50},
                     {.encoding = Encoding::kPlain, .offset = 100, .size = 20, .raw_size = 20}};
  program.operations.emplace_back(part);
  program.operations.emplace_back(PartOperation{.size = 50, .raw_size = 50});
  return program;
}

Result<DeltaLayout> ReadBack(ByteView bytes) {
  const TempDir temp = TempDir::Create("sealift-delta").value();
  EXPECT_TRUE(WriteFileAtomically(temp.path() / "delta", bytes).ok());
  return ReadDelta(OpenFile::Open(temp.path() / "delta").value());
}

TEST(DeltaFormatTest, ReadsWhatItWrites) {
  Bytes bytes = SerializeDeltaHead(SomeProgram(), {3, 4, 2, 1, 0});
  Append(bytes, AsBytes("cccppppdde"));
  const auto layout = ReadBack(bytes);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->program, SomeProgram());
  EXPECT_EQ(layout->control.size, 3u);
  EXPECT_EQ(layout->places.size, 4u);
  EXPECT_EQ(layout->extra.offset, bytes.size() - 1);
  bytes.push_back(0);
  EXPECT_EQ(ReasonIdFrom(ReadBack(bytes)), "DELTA_INVALID");
}

TEST(DeltaFormatTest, RefusesProgramsThatReachOut) {
  const auto with = [](const auto& change) {
    DeltaProgram program = SomeProgram();
    change(program);
    return ReasonIdFrom(ReadBack(SerializeDeltaHead(program, {})));
  };
  EXPECT_EQ(with([](DeltaProgram&) {}), "NONE");
  EXPECT_EQ(with([](DeltaProgram& program) { program.source_size = 550; }), "DELTA_INVALID");
  EXPECT_EQ(with([](DeltaProgram& program) { program.target_size = 351; }), "DELTA_INVALID");
  EXPECT_EQ(with([](DeltaProgram& program) { program.target_size = 349; }), "DELTA_INVALID");
  const auto part = [&](const auto& change) {
    return with([&](DeltaProgram& program) { change(std::get<PartOperation>(program.operations[2])); });
  };
  EXPECT_EQ(part([](PartOperation& one) { one.raw_size = kMaxRawBytes + 1; }), "DELTA_INVALID");
  EXPECT_EQ(part([](PartOperation& one) { one.references[0].raw_size = kMaxReferenceBytes; }),
            "DELTA_INVALID");
  EXPECT_EQ(part([](PartOperation& one) { one.references[1].offset = 981; }), "DELTA_INVALID");
  EXPECT_EQ(part([](PartOperation& one) { one.method = Method::kZstd, one.patch_size = 5; }),
            "DELTA_INVALID");
  const auto code = [](std::uint64_t raw_size, std::uint64_t referred) {
    return [=](PartOperation& one) {
      one.method = Method::kBsdiffCode;
      one.raw_size = raw_size;
      one.references[0].raw_size = referred - 20;
    };
  };
  EXPECT_EQ(part(code(kMaxCodeBytes, kMaxCodeBytes)), "NONE");
  EXPECT_EQ(part(code(kMaxCodeBytes + 1, kMaxCodeBytes)), "DELTA_INVALID");
  EXPECT_EQ(part(code(kMaxCodeBytes, kMaxCodeBytes + 1)), "DELTA_INVALID");
}

TEST(ContentListTest, ReadsWhatItWrites) {
  ContentList list;
  Sha256Digest image;
  image.bytes[0] = 1;
  list.images[image].index = ContentName{.digest = image, .size = 7};
  list.images[image].deltas[Sha256Digest{}] = {.digest = image, .size = 9};
  list.images[Sha256Digest{}];
  const std::string text = SerializeContentList(list);
  EXPECT_EQ(ParseContentList(text).value(), list);
  for (const std::string bad :
       {R"({})", R"([])", R"({"format":2,"images":{}})", R"({"format":1,"images":[]})",
        R"({"format":1,"images":{"aa":{}}})", R"({"format":1)"})
    EXPECT_EQ(ReasonIdFrom(ParseContentList(bad)), "DELTA_INVALID") << bad;
}

TEST(ImageIndexTest, RefusesWhatIsNoWholeImage) {
  ImageIndex index{.size = 30, .digest = {}, .parts = {}};
  IndexedPart part;
  part.part = {.offset = 0, .size = 10, .encoding = Encoding::kZstdFrame, .raw_size = 40};
  part.level = 9;
  index.parts.push_back(part);
  part.part = {.offset = 10, .size = 20, .raw_size = 20};
  part.level = 0;
  index.parts.push_back(part);
  EXPECT_EQ(ParseImageIndex(SerializeImageIndex(index)).value(), index);
  index.size = 31;
  EXPECT_EQ(ReasonIdFrom(ParseImageIndex(SerializeImageIndex(index))), "DELTA_INVALID");
  index.size = 29;
  EXPECT_EQ(ReasonIdFrom(ParseImageIndex(SerializeImageIndex(index))), "DELTA_INVALID");
}

}  // namespace
}  // namespace sealift::delta
