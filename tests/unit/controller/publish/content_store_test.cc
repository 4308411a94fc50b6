#include "controller/publish/content_store.h"

#include <gtest/gtest.h>
#include <sys/file.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "tests/support/small_disk.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

class ContentStoreTest : public testing::Test {
 protected:
  fs::path PathOf(const Sha256Digest& digest) const {
    return folder_.path() / "objects" / digest.hex().substr(0, 2) / digest.hex();
  }
  std::size_t Incoming() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_.path() / "incoming"), {}));
  }
  void Overwrite(const fs::path& path, std::string_view text) {
    fs::permissions(path, fs::perms::owner_all);
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  }

  TempDir folder_ = TempDir::Create("content-store").value();
  std::unique_ptr<ContentStore> store_ =
      ContentStore::Open(folder_.path(), {.max_object_bytes = 1000}).value();
  const std::string text_ = "an object of some length";
  const Sha256Digest digest_ = Sha256(AsBytes(text_));
};

TEST_F(ContentStoreTest, KeepsWhatWasPut) {
  EXPECT_FALSE(store_->Has(digest_));
  ASSERT_TRUE(store_->Put(digest_, AsBytes(text_)).ok());
  ASSERT_TRUE(store_->Put(digest_, AsBytes(text_)).ok()) << "putting again is success";
  EXPECT_TRUE(store_->Has(digest_));
  EXPECT_EQ(store_->Size(digest_).value(), text_.size());
  const ContentStore::Reader reader = store_->Read(digest_).value();
  EXPECT_EQ(AsText(reader.ReadAt(3, 6).value()), "object");
  EXPECT_EQ(AsText(reader.ReadAt(18, 100).value()), "length");
  EXPECT_TRUE(reader.ReadAt(text_.size(), 1)->empty());
  EXPECT_EQ(ContentStore::Open(folder_.path()).value()->ReadAll(digest_, 100).value(), ToBytes(text_));
  EXPECT_EQ(ReasonOf(store_->ReadAll(digest_, 5).status()), Reason::kFileTooLarge);
  EXPECT_EQ(Incoming(), 0u);
}

TEST_F(ContentStoreTest, RefusesWhatIsNotAnnounced) {
  EXPECT_EQ(ReasonOf(store_->Put(digest_, AsBytes("other bytes"))), Reason::kContentDigestMismatch);
  ContentStore::Writer longer = store_->Begin(digest_, 3).value();
  EXPECT_EQ(ReasonOf(longer.Write(AsBytes("four"))), Reason::kContentTooLong);
  ContentStore::Writer shorter = store_->Begin(digest_, 5).value();
  ASSERT_TRUE(shorter.Write(AsBytes("four")).ok());
  EXPECT_EQ(ReasonOf(shorter.Commit()), Reason::kContentIncomplete);
  EXPECT_EQ(ReasonOf(store_->Begin(digest_, 1001).status()), Reason::kFileTooLarge);
  EXPECT_FALSE(store_->Has(digest_));
  EXPECT_EQ(ReasonOf(store_->Read(digest_).status()), Reason::kContentUnknown);
}

TEST_F(ContentStoreTest, DroppedWriterLeavesNothing) {
  {
    ContentStore::Writer writer = store_->Begin(digest_, text_.size()).value();
    ASSERT_TRUE(writer.Write(AsBytes(text_)).ok());
    EXPECT_EQ(Incoming(), 1u);
  }
  EXPECT_EQ(Incoming(), 0u);
  EXPECT_FALSE(store_->Has(digest_));
}

TEST_F(ContentStoreTest, OpenSweepsLeftoversButNotLiveWriters) {
  std::ofstream(folder_.path() / "incoming" / "left-by-a-killed-process") << "x";
  ContentStore::Writer writer = store_->Begin(digest_, text_.size()).value();
  const auto second = ContentStore::Open(folder_.path()).value();
  EXPECT_EQ(Incoming(), 1u);
  ASSERT_TRUE(writer.Write(AsBytes(text_)).ok());
  ASSERT_TRUE(writer.Commit().ok());
  EXPECT_TRUE(second->Has(digest_));
}

TEST_F(ContentStoreTest, DamageIsFoundAndPutAside) {
  ASSERT_TRUE(store_->Put(digest_, AsBytes(text_)).ok());
  ASSERT_TRUE(store_->Read(digest_).ok());
  Overwrite(PathOf(digest_), "an object of SOME length");
  EXPECT_EQ(ReasonOf(store_->Read(digest_).status()), Reason::kContentDigestMismatch);
  EXPECT_FALSE(store_->Has(digest_));
  EXPECT_TRUE(fs::exists(PathOf(digest_).string() + ".damaged"));
  ASSERT_TRUE(store_->Put(digest_, AsBytes(text_)).ok());
  EXPECT_TRUE(store_->Read(digest_).ok());
}

TEST_F(ContentStoreTest, ManyThreadsMayPutAndReadTheSameObject) {
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 5; ++round) {
        if (!store_->Put(digest_, AsBytes(text_)).ok()) ++failures;
        if (store_->ReadAll(digest_, 100).value_or(Bytes()) != ToBytes(text_)) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(Incoming(), 0u);
}

TEST_F(ContentStoreTest, LinkInPlaceOfAnObjectIsNotFollowed) {
  fs::create_directories(PathOf(digest_).parent_path());
  std::ofstream(folder_.path() / "elsewhere") << text_;
  fs::create_symlink(folder_.path() / "elsewhere", PathOf(digest_));
  EXPECT_FALSE(store_->Has(digest_));
  EXPECT_FALSE(store_->Read(digest_).ok());
}

TEST_F(ContentStoreTest, AFullDiskKeepsWhatIsThereAndSaysSo) {
  const fs::path disk = folder_.path() / "disk";
  fs::create_directories(disk);
  const int code = test::RunOnSmallDisk(disk, [&] {
    const auto store = ContentStore::Open(disk, {.max_object_bytes = 8u << 20}).value();
    if (!store->Put(digest_, AsBytes(text_)).ok()) return 1;
    const Bytes large(4u << 20, 7);
    if (ReasonOf(store->Put(Sha256(large), large)) != Reason::kDiskFull) return 2;
    if (store->Has(Sha256(large)) || !fs::is_empty(disk / "incoming")) return 3;
    if (store->ReadAll(digest_, 100).value() != ToBytes(text_)) return 4;
    // There is room again.
    const Bytes small(100u << 10, 7);
    return store->Put(Sha256(small), small).ok() ? test::kAsWanted : 5;
  });
  if (code == test::kNoNamespace) GTEST_SKIP() << "no user namespaces here";
  EXPECT_EQ(code, test::kAsWanted) << "2: another reason; 3: something was left; 4: something is lost";
}

}  // namespace
}  // namespace sealift::controller
