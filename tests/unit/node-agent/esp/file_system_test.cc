#include "node-agent/esp/file_system.h"

#include <gtest/gtest.h>

#include <set>

#include "shared/base/files.h"
#include "tests/contract/file_system_contract.h"
#include "tests/contract/memory_file_system.h"

namespace sealift::agent {
namespace {

class OwnedPosixFileSystem final : public FileSystem {
 public:
  explicit OwnedPosixFileSystem(TempDir root) : root_(std::move(root)), fs_(root_.path()) {}
  Result<std::vector<DirectoryEntry>> List(std::string_view directory) override {
    return fs_.List(directory);
  }
  Status ReadPieces(std::string_view path, const std::function<Status(ByteView)>& sink) override {
    return fs_.ReadPieces(path, sink);
  }
  Result<std::unique_ptr<FileWriter>> Create(std::string_view path) override { return fs_.Create(path); }
  Status Rename(std::string_view from, std::string_view to) override { return fs_.Rename(from, to); }
  Status Remove(std::string_view path) override { return fs_.Remove(path); }
  Status RemoveDirectory(std::string_view path) override { return fs_.RemoveDirectory(path); }
  Status MakeDirectory(std::string_view path) override { return fs_.MakeDirectory(path); }
  Status SyncDirectory(std::string_view path) override { return fs_.SyncDirectory(path); }
  Result<std::uint64_t> FreeBytes() override { return fs_.FreeBytes(); }

 private:
  TempDir root_;
  PosixFileSystem fs_;
};

std::shared_ptr<FileSystem> MakePosix() {
  return std::make_shared<OwnedPosixFileSystem>(TempDir::Create("sealift-esp").value());
}
std::shared_ptr<FileSystem> MakeMemory() { return std::make_shared<MemoryFileSystem>(); }

INSTANTIATE_TEST_SUITE_P(Implementations, FileSystemContract,
                         testing::Values(FileSystemFactory{"posix", MakePosix},
                                         FileSystemFactory{"memory", MakeMemory}),
                         [](const auto& test) { return test.param.name; });

void Put(FileSystem& fs, std::string_view path, std::string_view text, bool sync) {
  auto writer = fs.Create(path);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Write(AsBytes(text)).ok());
  if (sync) {
    ASSERT_TRUE((*writer)->Sync().ok());
  }
}

std::string Get(FileSystem& fs, std::string_view path) {
  auto bytes = fs.Read(path, 1u << 20);
  return bytes.ok() ? ToText(*bytes) : "(missing)";
}

// The double itself: a test that trusts it must know that it loses data.
TEST(MemoryFileSystem, LosesWhatWasNotSyncedInEachMode) {
  const auto after = [](CutMode mode, bool sync_file, bool sync_directory) {
    MemoryFileSystem fs;
    Put(fs, "file", "old", true);
    EXPECT_TRUE(fs.SyncDirectory("").ok());
    Put(fs, "tmp", "new", sync_file);
    EXPECT_TRUE(fs.Rename("tmp", "file").ok());
    if (sync_directory) {
      EXPECT_TRUE(fs.SyncDirectory("").ok());
    }
    fs.PowerOn(mode);
    return Get(fs, "file");
  };
  EXPECT_EQ(after(CutMode::kDropUnsynced, true, false), "old");
  EXPECT_EQ(after(CutMode::kNamesOnly, true, false), "new");
  EXPECT_EQ(after(CutMode::kNamesOnly, false, false), "");
  EXPECT_EQ(after(CutMode::kKeepAll, false, false), "new");
  EXPECT_EQ(after(CutMode::kTouchedNamesGone, true, false), "(missing)");
  for (const CutMode mode : kAllCutModes) EXPECT_EQ(after(mode, true, true), "new");
}

TEST(MemoryFileSystem, KeepsBothNamesOfACutRenameAndSpoilsOneWithTheOther) {
  const auto after = [](const auto& change) {
    MemoryFileSystem fs;
    Put(fs, "tmp", "new", true);
    EXPECT_TRUE(fs.SyncDirectory("").ok());
    EXPECT_TRUE(fs.Rename("tmp", "file").ok());
    fs.PowerOn(CutMode::kHalfRenamed);
    EXPECT_EQ(Get(fs, "tmp"), "new");
    EXPECT_EQ(Get(fs, "file"), "new");
    change(fs);
    return Get(fs, "file");
  };
  const std::string garbage = "\xdb\xdb\xdb";
  EXPECT_EQ(after([](FileSystem& fs) { EXPECT_TRUE(fs.Remove("tmp").ok()); }), garbage);
  EXPECT_EQ(after([](FileSystem& fs) { EXPECT_TRUE(fs.Create("tmp").ok()); }), garbage);
  EXPECT_EQ(after([](FileSystem& fs) { EXPECT_TRUE(fs.Rename("tmp", "file").ok()); }), garbage);
  EXPECT_EQ(after([](FileSystem& fs) { EXPECT_TRUE(fs.Replace("file", AsBytes("fresh")).ok()); }), "fresh");
}

TEST(MemoryFileSystem, LosesDirectoriesThatWereNotSyncedWithAllThatIsInside) {
  MemoryFileSystem fs;
  ASSERT_TRUE(fs.MakeDirectory("a/b").ok());
  Put(fs, "a/b/file", "bytes", true);
  ASSERT_TRUE(fs.SyncDirectory("a/b").ok());
  ASSERT_TRUE(fs.SyncDirectory("a").ok());
  MemoryFileSystem durable = fs;
  fs.PowerOn(CutMode::kDropUnsynced);
  EXPECT_FALSE(fs.Exists("a"));
  EXPECT_EQ(Get(fs, "a/b/file"), "(missing)");
  ASSERT_TRUE(durable.SyncDirectory("").ok());
  durable.PowerOn(CutMode::kDropUnsynced);
  EXPECT_EQ(Get(durable, "a/b/file"), "bytes");
}

TEST(MemoryFileSystem, LosesAnySubsetByTheSeed) {
  std::set<std::string> seen;
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    MemoryFileSystem fs;
    Put(fs, "file", "old", true);
    EXPECT_TRUE(fs.SyncDirectory("").ok());
    Put(fs, "tmp", "new", true);
    EXPECT_TRUE(fs.Rename("tmp", "file").ok());
    Put(fs, "loose", "0123", false);
    fs.PowerOn(CutMode::kRandom, seed);
    seen.insert(Get(fs, "file"));
    seen.insert("loose " + Get(fs, "loose"));
  }
  for (const char* one : {"old", "new", "loose (missing)", "loose ", "loose 0123", "loose \xdb\xdb\xdb\xdb",
                          "loose 01\xdb\xdb"})
    EXPECT_TRUE(seen.contains(one)) << one;
}

TEST(MemoryFileSystem, CutsPowerAtTheStepAndRefusesEverythingAfter) {
  MemoryFileSystem fs;
  fs.CutPowerAt(1);
  auto writer = fs.Create("file");
  ASSERT_TRUE(writer.ok());
  EXPECT_FALSE((*writer)->Write(AsBytes("0123")).ok());
  EXPECT_FALSE(fs.powered());
  EXPECT_FALSE(fs.List("").ok());
  EXPECT_FALSE(fs.Create("other").ok());
  fs.PowerOn(CutMode::kKeepAll);
  EXPECT_EQ(Get(fs, "file"), "01");
}

TEST(MemoryFileSystem, RunsFull) {
  MemoryFileSystem fs(5);
  auto writer = fs.Create("file");
  ASSERT_TRUE(writer.ok());
  EXPECT_TRUE((*writer)->Write(AsBytes("0123")).ok());
  EXPECT_EQ(ReasonOf((*writer)->Write(AsBytes("45"))), Reason::kEspFull);
}

TEST(MemoryFileSystem, TakesNamesThatDifferInCaseForOne) {
  MemoryFileSystem fs;
  Put(fs, "EFI.conf", "one", true);
  Put(fs, "efi.CONF", "two", true);
  EXPECT_EQ(Get(fs, "EFI.conf"), "two");
}

}  // namespace
}  // namespace sealift::agent
