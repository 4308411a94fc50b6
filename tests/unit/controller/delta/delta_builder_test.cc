#include "controller/delta/delta_builder.h"

#include <gtest/gtest.h>

#include <map>

#include "controller/delta/image_objects.h"
#include "shared/crypto/hash.h"
#include "shared/delta/apply_delta.h"
#include "shared/delta/assemble_image.h"
#include "tests/support/delta_images.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::controller {
namespace {

using delta::OpenFile;
using test::CodeLike;
using test::ImageRecipe;
using test::ReasonIdFrom;

class DeltaTest : public ::testing::Test {
 protected:
  DeltaTest() {
    old_.frames = {CodeLike(1, 5000), CodeLike(2, 60000), CodeLike(3, 40000), CodeLike(4, 300)};
    old_.kernel = CodeLike(5, 200000);
    new_ = old_;
    new_.frames[1].insert(20000, "something new in the middle");
    new_.frames[1][50000] = '!';
    new_.kernel.replace(1000, 8, "released");
    new_.os_release = "ID=test\nVERSION=2\n";
  }

  std::filesystem::path folder() const { return temp_.path(); }
  DeltaImage Source() { return {.file = old_.Write(folder() / "old"), .frames = {}}; }
  DeltaImage Target() { return {.file = new_.Write(folder() / "new"), .frames = {}}; }

  Result<Bytes> Apply(ByteView bytes, const std::filesystem::path& source) {
    EXPECT_TRUE(WriteFileAtomically(folder() / "delta", bytes).ok());
    SEALIFT_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(folder() / "delta"));
    SEALIFT_ASSIGN_OR_RETURN(const OpenFile old, OpenFile::Open(source));
    Bytes out;
    SEALIFT_RETURN_IF_ERROR(
        delta::ApplyDelta(file, old, {.work_folder = folder(), .progress = {}}, [&](ByteView piece) {
          Append(out, piece);
          return OkStatus();
        }));
    return out;
  }

  TempDir temp_ = TempDir::Create("sealift-delta").value();
  ImageRecipe old_;
  ImageRecipe new_;
};

TEST_F(DeltaTest, RebuildsTheImageFromItsPredecessor) {
  const auto delta = BuildDelta(Source(), Target(), folder());
  ASSERT_TRUE(delta.ok()) << delta.status();
  EXPECT_EQ(Apply(delta->bytes, folder() / "old").value(), new_.Build());
  EXPECT_EQ(delta->opaque, 0u);
  EXPECT_LT(delta->bytes.size(), 1500u);
  EXPECT_EQ(delta->target, Sha256(new_.Build()));
  EXPECT_EQ(delta->source, Sha256(old_.Build()));
}

TEST_F(DeltaTest, EqualImagesNeedNextToNothing) {
  new_ = old_;
  const auto delta = BuildDelta(Source(), Target(), folder());
  ASSERT_TRUE(delta.ok());
  EXPECT_EQ(delta->patched, 0u);
  EXPECT_LT(delta->bytes.size(), 200u);
  EXPECT_EQ(Apply(delta->bytes, folder() / "old").value(), old_.Build());
}

TEST_F(DeltaTest, FramesOfAnotherLevelAreFoundOutAndRebuilt) {
  new_.zstd_level = 3;
  const auto delta = BuildDelta(Source(), Target(), folder());
  ASSERT_TRUE(delta.ok()) << delta.status();
  EXPECT_EQ(delta->opaque, 0u);
  EXPECT_LT(delta->bytes.size(), 2000u);
  EXPECT_EQ(Apply(delta->bytes, folder() / "old").value(), new_.Build());
}

TEST_F(DeltaTest, WhatDoesNotReproduceIsSentAsItIs) {
  new_.zstd_level = 7;  // no level that is tried
  const auto delta = BuildDelta(Source(), Target(), folder());
  ASSERT_TRUE(delta.ok()) << delta.status();
  EXPECT_GE(delta->opaque, 3u);
  EXPECT_EQ(Apply(delta->bytes, folder() / "old").value(), new_.Build());
}

TEST_F(DeltaTest, TheIndexOfFramesTellsWhatAFrameCameFrom) {
  // Two frames change places: without names each would be compared with another's.
  std::swap(new_.frames[1], new_.frames[2]);
  const auto index = [](const ImageRecipe& recipe, const std::vector<std::string>& names) {
    content::FrameIndex frames{.zstd_version = "", .zstd_level = 9, .size = 0, .digest = {}, .frames = {}};
    for (std::size_t i = 0; i < recipe.frames.size(); ++i) {
      content::FrameRecord record;
      record.size = test::Encoded(delta::Encoding::kZstdFrame, 9, recipe.frames[i]).size();
      record.raw_size = recipe.frames[i].size();
      record.files = {{.path = names[i], .size = record.raw_size, .digest = {}}};
      frames.frames.push_back(record);
    }
    return frames;
  };
  DeltaImage source = Source();
  DeltaImage target = Target();
  const auto without = BuildDelta(source, target, folder());
  source.frames = index(old_, {"dirs", "lib/a-1.0", "lib/b", "etc/c"});
  target.frames = index(new_, {"dirs", "lib/b", "lib/a-1.2", "etc/c"});
  const auto with = BuildDelta(source, target, folder());
  ASSERT_TRUE(with.ok() && without.ok());
  EXPECT_EQ(Apply(with->bytes, folder() / "old").value(), new_.Build());
  EXPECT_LT(with->bytes.size() * 5, without->bytes.size());
}

TEST_F(DeltaTest, ProgramsAreComparedInCodeForm) {
  std::string program(AsText(ReadFile("/bin/bash").value()));
  old_.frames[1] = "070701" + std::string(106, '0') + program;
  program.replace(program.size() / 2, 8, "modified");
  new_.frames[1] = "070701" + std::string(106, '1') + program;
  const auto delta = BuildDelta(Source(), Target(), folder());
  ASSERT_TRUE(delta.ok()) << delta.status();
  EXPECT_LT(delta->bytes.size(), 2000u);
  EXPECT_EQ(Apply(delta->bytes, folder() / "old").value(), new_.Build());
  std::map<delta::Method, int> methods;
  const auto layout = delta::ReadDelta(OpenFile::Open(folder() / "delta").value()).value();
  for (const auto& operation : layout.program.operations)
    if (const auto* part = std::get_if<delta::PartOperation>(&operation)) ++methods[part->method];
  EXPECT_EQ(methods[delta::Method::kBsdiffCode], 1);
  EXPECT_GE(methods[delta::Method::kBsdiff], 1);
}

TEST_F(DeltaTest, ImagesThatAreNoneAreOnePart) {
  ASSERT_TRUE(WriteFileAtomically(folder() / "old", AsBytes(CodeLike(1, 10000))).ok());
  std::string changed = CodeLike(1, 10000);
  changed[5000] = '!';
  ASSERT_TRUE(WriteFileAtomically(folder() / "new", AsBytes(changed)).ok());
  const auto delta = BuildDelta({.file = folder() / "old", .frames = {}},
                                {.file = folder() / "new", .frames = {}}, folder());
  ASSERT_TRUE(delta.ok()) << delta.status();
  EXPECT_LT(delta->bytes.size(), 300u);
  EXPECT_EQ(Apply(delta->bytes, folder() / "old").value(), ToBytes(changed));
}

TEST_F(DeltaTest, AnotherSourceIsRefused) {
  const auto delta = BuildDelta(Source(), Target(), folder());
  ASSERT_TRUE(delta.ok());
  EXPECT_EQ(ReasonIdFrom(Apply(delta->bytes, folder() / "new")), "DELTA_INVALID");
  Bytes same_size = old_.Build();
  for (std::size_t i = 0; i < same_size.size(); i += 97) same_size[i] ^= 1;
  ASSERT_TRUE(WriteFileAtomically(folder() / "damaged", same_size).ok());
  EXPECT_EQ(ReasonIdFrom(Apply(delta->bytes, folder() / "damaged")), "DELTA_INVALID");
}

TEST_F(DeltaTest, NoDamagedByteGivesAnImage) {
  const auto delta = BuildDelta(Source(), Target(), folder());
  ASSERT_TRUE(delta.ok());
  const Bytes good = new_.Build();
  for (std::size_t i = 0; i < delta->bytes.size(); i += i < 40 ? 1 : 5) {
    Bytes bad = delta->bytes;
    bad[i] ^= 0x41;
    const auto out = Apply(bad, folder() / "old");
    // The digest of the source, which is the caller's to check, changes nothing.
    if (out.ok()) {
      EXPECT_EQ(*out, good) << i;
    } else {
      EXPECT_EQ(ReasonIdFrom(out), "DELTA_INVALID") << i;
    }
  }
  for (std::size_t size = 0; size < delta->bytes.size(); size += 31)
    EXPECT_EQ(ReasonIdFrom(Apply(ByteView(delta->bytes).first(size), folder() / "old")), "DELTA_INVALID");
}

class ObjectsTest : public DeltaTest {
 protected:
  Result<Bytes> Assemble(const delta::ImageIndex& index, const std::vector<std::filesystem::path>& seeds) {
    delta::Seeds have;
    for (const auto& seed : seeds) EXPECT_TRUE(have.Add(seed).ok());
    SEALIFT_ASSIGN_OR_RETURN(missing_, MissingObjects(index, have));
    Bytes out;
    std::map<Sha256Digest, delta::OpenFile> files;
    for (const delta::ObjectName& object : missing_) {
      SEALIFT_ASSIGN_OR_RETURN(auto file, delta::OpenFile::Open(objects() / object.digest.hex()));
      files.emplace(object.digest, std::move(file));
    }
    SEALIFT_RETURN_IF_ERROR(AssembleImage(
        index, have,
        [&files](const Sha256Digest& digest) -> const delta::OpenFile& { return files.at(digest); },
        [&out](ByteView piece) {
          Append(out, piece);
          return OkStatus();
        }));
    return out;
  }
  std::filesystem::path objects() const {
    const std::filesystem::path path = folder() / "objects";
    std::filesystem::create_directories(path);
    return path;
  }
  std::vector<delta::ObjectName> missing_;
};

TEST_F(ObjectsTest, AnImageIsPutTogetherFromSeedsAndObjects) {
  const auto built = BuildImageObjects(
      Target(), {.folder = objects(), .before = {}, .seeds = {}, .threads = 2, .progress = {}});
  ASSERT_TRUE(built.ok()) << built.status();
  const auto index = delta::ParseImageIndex(built->index_bytes);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(*index, built->index);
  EXPECT_EQ(Assemble(*index, {}).value(), new_.Build());
  const std::size_t all = missing_.size();
  EXPECT_EQ(Assemble(*index, {Source().file}).value(), new_.Build());
  // The frame, the kernel's payload and code around them that changed, nothing else.
  EXPECT_LE(missing_.size(), 8u);
  EXPECT_GE(all, missing_.size() + 4) << "three frames and the stub's code did not change";
  EXPECT_EQ(Assemble(*index, {folder() / "new"}).value(), new_.Build());
  EXPECT_TRUE(missing_.empty());
}

TEST_F(ObjectsTest, WhatAnEarlierReleaseHasIsNotMadeAgain) {
  const auto first = BuildImageObjects(
      Source(), {.folder = objects(), .before = {}, .seeds = {}, .threads = 1, .progress = {}});
  ASSERT_TRUE(first.ok());
  const auto second = BuildImageObjects(
      Target(), {.folder = objects(), .before = {first->index}, .seeds = {}, .threads = 1, .progress = {}});
  ASSERT_TRUE(second.ok());
  EXPECT_LE(second->fresh.size(), 8u);
  EXPECT_EQ(Assemble(second->index, {}).value(), new_.Build());
  const auto whole = BuildImageObjects(
      Target(), {.folder = objects(), .before = {}, .seeds = {}, .threads = 2, .progress = {}});
  EXPECT_EQ(whole->index, second->index);
}

TEST_F(ObjectsTest, WhatNodesHaveGetsNoObjects) {
  const auto built = BuildImageObjects(
      Target(), {.folder = objects(), .before = {}, .seeds = {Source().file}, .threads = 1, .progress = {}});
  ASSERT_TRUE(built.ok());
  EXPECT_LE(built->fresh.size(), 8u);
  EXPECT_EQ(Assemble(delta::ParseImageIndex(built->index_bytes).value(), {Source().file}).value(),
            new_.Build());
  EXPECT_EQ(ReasonIdFrom(Assemble(built->index, {})), "CONTENT_UNKNOWN");
}

TEST_F(ObjectsTest, DamagedObjectsGiveNoImage) {
  const auto built = BuildImageObjects(
      Target(), {.folder = objects(), .before = {}, .seeds = {}, .threads = 1, .progress = {}});
  ASSERT_TRUE(built.ok());
  for (const delta::ObjectName& object : built->fresh) {
    const std::filesystem::path file = objects() / object.digest.hex();
    const Bytes good = ReadFile(file).value();
    for (const std::size_t at : {std::size_t{0}, good.size() / 2, good.size() - 1}) {
      Bytes bad = good;
      bad[at] ^= 0x10;
      ASSERT_TRUE(WriteFileAtomically(file, bad).ok());
      const auto out = Assemble(built->index, {});
      if (out.ok()) {
        EXPECT_EQ(*out, new_.Build());
      } else {
        EXPECT_EQ(ReasonIdFrom(out), "DELTA_INVALID");
      }
    }
    ASSERT_TRUE(WriteFileAtomically(file, good).ok());
  }
}

TEST_F(DeltaTest, KernelsArePackedAsTheToolDoes) {
  SEALIFT_NEED_TOOL("lz4");
  // Two blocks of the legacy format.
  const std::string raw = CodeLike(9, (8u << 20) + 100000);
  ASSERT_TRUE(WriteFileAtomically(folder() / "vmlinux", AsBytes(raw)).ok());
  const auto tool = test::RunTool(
      {"lz4", "-l", "-9", "-q", "-f", (folder() / "vmlinux").string(), (folder() / "vmlinux.lz4").string()});
  ASSERT_EQ(tool.exit_code, 0) << tool.err;
  const Bytes theirs = ReadFile(folder() / "vmlinux.lz4").value();
  EXPECT_EQ(ToText(theirs), test::Encoded(delta::Encoding::kLz4Legacy, 9, raw));
  std::string back;
  const OpenFile file = OpenFile::Open(folder() / "vmlinux.lz4").value();
  ASSERT_TRUE(
      delta::Decode(file, 0, file.size(), delta::Encoding::kLz4Legacy, raw.size(), [&](ByteView piece) {
        back += AsText(piece);
        return OkStatus();
      }).ok());
  EXPECT_EQ(back, raw);
}

TEST_F(ObjectsTest, ToolsUnpackTheObjects) {
  SEALIFT_NEED_TOOL("zstd");
  SEALIFT_NEED_TOOL("xz");
  const auto built = BuildImageObjects(
      Target(), {.folder = objects(), .before = {}, .seeds = {}, .threads = 1, .progress = {}});
  ASSERT_TRUE(built.ok());
  int xz = 0;
  for (const delta::IndexedPart& part : built->index.parts) {
    ASSERT_NE(part.object.codec, delta::ObjectCodec::kXzCode);
    const bool is_xz = part.object.codec == delta::ObjectCodec::kXz;
    xz += is_xz ? 1 : 0;
    const auto tool = test::RunTool({is_xz ? "xz" : "zstd", "-d", "-q", "-c"},
                                    ToText(ReadFile(objects() / part.object.digest.hex()).value()));
    ASSERT_EQ(tool.exit_code, 0) << tool.err;
    EXPECT_EQ(tool.out.size(), part.part.raw_size);
    if (part.part.encoding == delta::Encoding::kLz4Legacy) {
      EXPECT_EQ(tool.out, new_.kernel);
    }
  }
  EXPECT_EQ(xz, 5) << "the kernel and four frames";
}

TEST_F(ObjectsTest, ProgramsTravelInCodeForm) {
  SEALIFT_NEED_TOOL("xz");
  const std::string program(AsText(ReadFile("/bin/bash").value()));
  new_.frames[2] = program;
  const auto built = BuildImageObjects(
      Target(), {.folder = objects(), .before = {}, .seeds = {}, .threads = 1, .progress = {}});
  ASSERT_TRUE(built.ok()) << built.status();
  int code = 0;
  for (const delta::IndexedPart& part : built->index.parts) {
    if (part.object.codec != delta::ObjectCodec::kXzCode) continue;
    ++code;
    EXPECT_EQ(part.part.raw_size, program.size());
    EXPECT_LT(part.object.size, test::RunTool({"xz", "-6e", "-c"}, program).out.size());
    const auto tool = test::RunTool({"xz", "-d", "-q", "-c"},
                                    ToText(ReadFile(objects() / part.object.digest.hex()).value()));
    EXPECT_EQ(tool.out.size(), program.size());
    EXPECT_NE(tool.out, program);
  }
  EXPECT_EQ(code, 1);
  EXPECT_EQ(Assemble(built->index, {}).value(), new_.Build());
}

}  // namespace
}  // namespace sealift::controller
