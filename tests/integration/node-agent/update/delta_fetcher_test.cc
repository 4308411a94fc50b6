// What a publication makes, as a node fetches it: by delta, by parts, whole, and what happens in between.
#include "node-agent/update/delta_fetcher.h"

#include <gtest/gtest.h>

#include <fstream>

#include "controller/publish/release_content.h"
#include "node-agent/update/content_fetcher.h"
#include "shared/crypto/hash.h"
#include "tests/support/delta_images.h"
#include "tests/support/small_disk.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;
using controller::MakeReleaseContent;
using controller::ReleaseContent;

// A mirror that can be told to lack objects or to change them.
class MapSource final : public content::ContentSource {
 public:
  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override {
    const auto found = objects.find(digest);
    if (found == objects.end() || missing == digest)
      return MakeError(Code::kNotFound, Reason::kContentUnknown, "no such object");
    Bytes bytes = found->second;
    if (damaged == digest) bytes[bytes.size() / 2] ^= 1;
    const ByteView rest = ByteView(bytes).subspan(offset);
    moved += rest.size();
    return sink(rest);
  }
  void Put(ByteView bytes) { objects[Sha256(bytes)] = ToBytes(bytes); }

  std::map<Sha256Digest, Bytes> objects;
  std::optional<Sha256Digest> missing;
  std::optional<Sha256Digest> damaged;
  std::uint64_t moved = 0;
};

class DeltaFetcherTest : public ::testing::Test {
 protected:
  DeltaFetcherTest() {
    old_.frames = {test::CodeLike(1, 5000), test::CodeLike(2, 200000), test::CodeLike(3, 90000)};
    old_.kernel = test::CodeLike(5, 300000);
    new_ = old_;
    new_.frames[1].insert(20000, "something new in the middle");
    new_.kernel.replace(1000, 8, "released");
    Build(old_, "1.0");
    manifest_ = Build(new_, "1.1");
    image_ = new_.Build();
    source_.Put(image_);
    auto made =
        MakeReleaseContent(manifest_, folder() / "1.1", {{.folder = folder() / "1.0"}}, Folder("work"));
    EXPECT_TRUE(made.ok()) << made.status();
    content_ = *std::move(made);
    for (const ReleaseContent::Object& object : content_.objects) {
      const Bytes bytes = ReadFile(object.file).value();
      EXPECT_EQ(Sha256(bytes), object.name.digest);
      source_.Put(bytes);
    }
    list_ = delta::ParseContentList(content_.list_json).value();
    fs::create_directories(folder() / "esp");
    old_.Write(folder() / "esp" / "1.0.efi");
  }

  fs::path folder() const { return temp_.path(); }
  fs::path Folder(const std::string& name) const {
    fs::create_directories(folder() / name);
    return folder() / name;
  }

  Manifest Build(const test::ImageRecipe& recipe, const std::string& version) const {
    Manifest manifest;
    manifest.version = version;
    manifest.hardware_class = "generic-x86_64";
    manifest.pcr11 = {{"", Sha256(AsBytes("pcr"))}};
    const fs::path out = Folder(version);
    const Bytes image = recipe.Build();
    recipe.Write(out / "norole.efi");
    manifest.files.push_back({"norole.efi", FileRole::kUki, Sha256(image), image.size(), std::nullopt});
    EXPECT_TRUE(WriteFileAtomically(out / "release.json", AsBytes(SerializeManifest(manifest))).ok());
    return manifest;
  }

  DeltaFetcher Fetcher() {
    return DeltaFetcher(whole_, parts_,
                        {.directory = folder() / "content",
                         .content_list = [this](const Sha256Digest&) { return offered_; },
                         .seeds =
                             [this] {
                               std::vector<fs::path> seeds;
                               for (const auto& entry : fs::directory_iterator(folder() / "esp"))
                                 seeds.push_back(entry.path());
                               return seeds;
                             }});
  }

  // Until it is there. Bytes moved, or nothing when it does not come.
  std::optional<std::uint64_t> Fetch() {
    source_.moved = 0;
    DeltaFetcher fetcher = Fetcher();
    for (int i = 0; i < 100; ++i) {
      const auto progress = fetcher.FetchSome(Sha256(image_), image_.size());
      if (!progress.ok() || !progress->source.ok()) return std::nullopt;
      if (!progress->complete) continue;
      EXPECT_EQ(ReadFile(progress->file).value(), image_);
      EXPECT_TRUE(!fs::exists(folder() / "parts") || fs::is_empty(folder() / "parts"));
      return source_.moved;
    }
    return std::nullopt;
  }

  const delta::ContentName& DeltaName() const { return list_.images.begin()->second.deltas.begin()->second; }
  const delta::ContentName& IndexName() const { return *list_.images.begin()->second.index; }

  TempDir temp_ = TempDir::Create("sealift-fetch").value();
  test::ImageRecipe old_;
  test::ImageRecipe new_;
  Manifest manifest_;
  Bytes image_;
  MapSource source_;
  ReleaseContent content_;
  delta::ContentList list_;
  std::optional<delta::ContentName> offered_;
  ContentFetcher whole_{source_, folder() / "content", {.reserve_bytes = 0}};
  ContentFetcher parts_{source_, folder() / "parts", {.reserve_bytes = 0}};
};

TEST_F(DeltaFetcherTest, ADeltaIsTakenWhereItsImageIsHere) {
  offered_ = content_.list;
  EXPECT_EQ(Fetch(), content_.list.size + DeltaName().size);
  EXPECT_LT(DeltaName().size * 100, image_.size());
}

TEST_F(DeltaFetcherTest, WithoutADeltaPartsAreTaken) {
  offered_ = content_.list;
  source_.missing = DeltaName().digest;
  const auto moved = Fetch();
  ASSERT_TRUE(moved.has_value());
  EXPECT_LT(*moved, image_.size() * 4 / 5);
  EXPECT_GT(*moved, image_.size() / 10);
}

TEST_F(DeltaFetcherTest, WhatIsDamagedOnItsWayLeadsToTheNextWay) {
  offered_ = content_.list;
  for (const Sha256Digest& digest : {DeltaName().digest, IndexName().digest, content_.list.digest}) {
    source_.damaged = digest;
    EXPECT_TRUE(Fetch().has_value()) << digest.hex();
    ASSERT_TRUE(Fetcher().Discard(nullptr).ok());
  }
}

TEST_F(DeltaFetcherTest, ADamagedSeedGivesTheWholeImage) {
  // The digest of the file is not the delta's source any more, and the parts that differ are none that fit.
  offered_ = content_.list;
  std::fstream seed(folder() / "esp" / "1.0.efi", std::ios::in | std::ios::out | std::ios::binary);
  for (std::streamoff at = 1000; at < 30000; at += 100) {
    seed.seekp(at);
    seed.put('x');
  }
  seed.close();
  EXPECT_TRUE(Fetch().has_value());
}

TEST_F(DeltaFetcherTest, WithoutAListOrASeedTheWholeImageIsFetched) {
  EXPECT_EQ(Fetch(), image_.size());
  ASSERT_TRUE(Fetcher().Discard(nullptr).ok());
  fs::remove(folder() / "esp" / "1.0.efi");
  offered_ = content_.list;
  const auto moved = Fetch();
  ASSERT_TRUE(moved.has_value());
  EXPECT_EQ(*moved, image_.size() + content_.list.size + IndexName().size);
}

TEST_F(DeltaFetcherTest, ADeltaOfAnotherImageIsNotBelieved) {
  // Signed, but wrong: it makes something else.
  const Bytes other = old_.Build();
  delta::ContentList list = list_;
  list.images[Sha256(image_)].deltas.begin()->second = {.digest = Sha256(other), .size = other.size()};
  const std::string json = SerializeContentList(list);
  source_.Put(other);
  source_.Put(AsBytes(json));
  offered_ = delta::ContentName{.digest = Sha256(AsBytes(json)), .size = json.size()};
  EXPECT_TRUE(Fetch().has_value());
}

TEST_F(DeltaFetcherTest, WhatADeltaMakesIsHashedByWhoDidNotMakeIt) {
  // The delta is sound and makes an image, but not this one.
  test::ImageRecipe third = old_;
  third.frames[2].replace(1000, 9, "otherwise");
  const auto made = MakeReleaseContent(Build(third, "1.2"), folder() / "1.2", {{.folder = folder() / "1.0"}},
                                       Folder("work2"))
                        .value();
  for (const ReleaseContent::Object& object : made.objects) source_.Put(ReadFile(object.file).value());
  const auto other = delta::ParseContentList(made.list_json).value();
  delta::ContentList list = list_;
  list.images[Sha256(image_)].deltas.begin()->second = other.images.begin()->second.deltas.begin()->second;
  list.images[Sha256(image_)].index.reset();
  const std::string json = SerializeContentList(list);
  source_.Put(AsBytes(json));
  offered_ = delta::ContentName{.digest = Sha256(AsBytes(json)), .size = json.size()};
  const auto moved = Fetch();
  ASSERT_TRUE(moved.has_value());
  EXPECT_GT(*moved, image_.size());
}

TEST_F(DeltaFetcherTest, AFullStatePartitionWaitsAndGoesOnOnceThereIsRoom) {
  const fs::path disk = folder() / "disk";
  fs::create_directories(disk);
  const Bytes image(800u << 10, 7);
  source_.Put(image);
  const int code = test::RunOnSmallDisk(disk, [&] {
    ContentFetcher fetcher(source_, disk / "content", {.reserve_bytes = 100u << 10});
    if (!WriteFileAtomically(disk / "ballast", Bytes(300u << 10)).ok()) return 1;
    const auto full = fetcher.FetchSome(Sha256(image), image.size());
    if (ReasonOf(full.status()) != Reason::kDiskFull || source_.moved != 0) return 2;
    // Full in the midst of it, which the question before cannot know.
    ContentFetcher hopeful(source_, disk / "content", {.reserve_bytes = 0});
    if (!WriteFileAtomically(disk / "more", Bytes(1000)).ok()) return 1;
    class Filling final : public content::ContentSource {
     public:
      Filling(content::ContentSource& inner, fs::path file) : inner_(inner), file_(std::move(file)) {}
      Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override {
        std::ofstream(file_) << std::string(400u << 10, 'x');
        return inner_.Fetch(digest, offset, sink);
      }

     private:
      content::ContentSource& inner_;
      const fs::path file_;
    };
    fs::remove(disk / "ballast");
    Filling filling(source_, disk / "ballast");
    ContentFetcher surprised(filling, disk / "content", {.reserve_bytes = 0});
    if (ReasonOf(surprised.FetchSome(Sha256(image), image.size()).status()) != Reason::kDiskFull) return 3;
    if (fs::exists(disk / "content" / Sha256(image).hex())) return 4;
    fs::remove(disk / "ballast");
    const auto fetched = hopeful.FetchSome(Sha256(image), image.size());
    return fetched.ok() && fetched->complete && ReadFile(fetched->file).value() == image ? test::kAsWanted
                                                                                         : 5;
  });
  if (code == test::kNoNamespace) GTEST_SKIP() << "no user namespaces here";
  EXPECT_EQ(code, test::kAsWanted) << "2, 3: another reason; 4: half an image; 5: it does not go on";
}

}  // namespace
}  // namespace sealift::agent
