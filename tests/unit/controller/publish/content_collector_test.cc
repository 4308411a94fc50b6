#include "controller/publish/content_collector.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "shared/crypto/hash.h"
#include "shared/delta/content_list.h"
#include "shared/delta/image_index.h"

namespace sealift::controller {
namespace {

using namespace std::chrono_literals;

class CollectorTest : public ::testing::Test {
 protected:
  Sha256Digest Put(const std::string& text) {
    const Sha256Digest digest = Sha256(AsBytes(text));
    EXPECT_TRUE(store_->Put(digest, AsBytes(text)).ok());
    return digest;
  }
  std::filesystem::path PathOf(const Sha256Digest& digest) const {
    return folder_.path() / "objects" / digest.hex().substr(0, 2) / digest.hex();
  }
  void Age(const Sha256Digest& digest) const {
    const timespec old[2] = {{.tv_sec = 1000, .tv_nsec = 0}, {.tv_sec = 1000, .tv_nsec = 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, PathOf(digest).c_str(), old, 0), 0);
  }
  Collected Collect(const std::vector<tuf::Targets>& targets) {
    const auto reachable = ReachableContent(targets, *store_);
    EXPECT_TRUE(reachable.ok()) << reachable.status();
    const auto collected = CollectContent(folder_.path(), *reachable, 1h);
    EXPECT_TRUE(collected.ok()) << collected.status();
    return *collected;
  }
  static tuf::Targets Listing(const std::string& name, const Sha256Digest& digest, std::uint64_t size) {
    tuf::Targets targets;
    targets.targets[name] = {.length = size, .sha256 = digest, .custom = {}};
    return targets;
  }

  TempDir folder_ = TempDir::Create("sealift-collect").value();
  std::unique_ptr<ContentStore> store_ = ContentStore::Open(folder_.path()).value();
};

TEST_F(CollectorTest, WhatNothingRefersToGoesAfterItsGrace) {
  const Sha256Digest kept = Put("kept");
  const Sha256Digest young = Put("young");
  const Sha256Digest old = Put("old enough");
  Age(kept);
  Age(old);
  const Collected collected = Collect({Listing("stable/1/a", kept, 4)});
  EXPECT_EQ(collected.objects, 1u);
  EXPECT_EQ(collected.bytes, 10u);
  EXPECT_EQ(collected.kept, 1u);
  EXPECT_TRUE(store_->ReadAll(kept, 100).ok());
  EXPECT_TRUE(store_->ReadAll(young, 100).ok());
  EXPECT_FALSE(store_->Has(old));
}

TEST_F(CollectorTest, AnUploadThatAsksForAnObjectKeepsIt) {
  const Sha256Digest known = Put("uploaded before, referred to soon");
  Age(known);
  EXPECT_TRUE(store_->Has(known));
  EXPECT_EQ(Collect({}).objects, 0u);
  Age(known);
  EXPECT_EQ(Collect({}).objects, 1u);
}

TEST_F(CollectorTest, ListsAndIndexesKeepWhatTheyName) {
  const Sha256Digest part = Put("a part's object");
  const Sha256Digest delta = Put("a delta");
  delta::ImageIndex index{.size = 3, .digest = {}, .parts = {}};
  delta::IndexedPart one;
  one.part = {.offset = 0, .size = 3, .raw_size = 3};
  one.object = {.size = 15, .digest = part};
  index.parts.push_back(one);
  const Bytes index_bytes = SerializeImageIndex(index);
  const Sha256Digest index_digest = Put(ToText(index_bytes));
  delta::ContentList list;
  list.images[{}].index = delta::ContentName{.digest = index_digest, .size = index_bytes.size()};
  list.images[{}].deltas[{}] = {.digest = delta, .size = 7};
  const std::string json = SerializeContentList(list);
  const Sha256Digest list_digest = Put(json);
  for (const Sha256Digest& digest : {part, delta, index_digest, list_digest}) Age(digest);
  EXPECT_EQ(Collect({Listing("stable/1/content.json", list_digest, json.size())}).objects, 0u);
  EXPECT_EQ(Collect({}).objects, 4u);
}

TEST_F(CollectorTest, ADamagedListStopsEverything) {
  const Sha256Digest list = Put("no list");
  const auto reachable = ReachableContent({Listing("stable/1/content.json", list, 7)}, *store_);
  EXPECT_FALSE(reachable.ok());
}

TEST_F(CollectorTest, UploadsBesideItLoseNothing) {
  // Uploads ask, write where it is not there, and refer; a collection runs all the while.
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> removed{0};
  std::jthread collector([&] {
    while (!done) {
      const auto collected = CollectContent(folder_.path(), {}, 1h);
      ASSERT_TRUE(collected.ok()) << collected.status();
      removed += collected->objects;
    }
  });
  const std::string text = "asked for again and again";
  const Sha256Digest digest = Put(text);
  for (int i = 0; i < 300 || removed == 0; ++i) {
    const timespec old[2] = {{.tv_sec = 1000, .tv_nsec = 0}, {.tv_sec = 1000, .tv_nsec = 0}};
    ::utimensat(AT_FDCWD, PathOf(digest).c_str(), old, 0);
    if (!store_->Has(digest)) {
      EXPECT_TRUE(store_->Put(digest, AsBytes(text)).ok());
    }
    EXPECT_TRUE(store_->ReadAll(digest, 100).ok()) << i;
  }
  done = true;
}

}  // namespace
}  // namespace sealift::controller
