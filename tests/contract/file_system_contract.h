// What every FileSystem must do. Instantiate with a factory:
//
//   INSTANTIATE_TEST_SUITE_P(Memory, FileSystemContract, testing::Values(FileSystemFactory{...}));
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "node-agent/esp/file_system.h"

namespace sealift::agent {

struct FileSystemFactory {
  std::string name;
  // An empty file system; whatever it stands on goes away with it.
  std::function<std::shared_ptr<FileSystem>()> make;
};
inline void PrintTo(const FileSystemFactory& factory, std::ostream* out) { *out << factory.name; }

class FileSystemContract : public testing::TestWithParam<FileSystemFactory> {
 protected:
  std::shared_ptr<FileSystem> fs_ = GetParam().make();

  void Put(std::string_view path, std::string_view text) {
    auto writer = fs_->Create(path);
    ASSERT_TRUE(writer.ok()) << Describe(writer.status());
    ASSERT_TRUE((*writer)->Write(AsBytes(text)).ok());
    ASSERT_TRUE((*writer)->Sync().ok());
  }
  std::string Get(std::string_view path) {
    auto bytes = fs_->Read(path, 1u << 20);
    return bytes.ok() ? ToText(*bytes) : Describe(bytes.status());
  }
};

TEST_P(FileSystemContract, ReadsWhatWasWrittenInPieces) {
  ASSERT_TRUE(fs_->MakeDirectory("loader/entries").ok());
  auto writer = fs_->Create("loader/entries/a.conf");
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Write(AsBytes("one ")).ok());
  ASSERT_TRUE((*writer)->Write(AsBytes("")).ok());
  ASSERT_TRUE((*writer)->Write(AsBytes("two")).ok());
  ASSERT_TRUE((*writer)->Sync().ok());
  EXPECT_EQ(Get("loader/entries/a.conf"), "one two");
  EXPECT_TRUE(fs_->SyncDirectory("loader/entries").ok());
}

TEST_P(FileSystemContract, GivesLargeFilesWhole) {
  const std::string large(700'000, 'x');
  Put("large", large);
  std::size_t pieces = 0;
  std::string got;
  ASSERT_TRUE(fs_->ReadPieces("large",
                              [&](ByteView piece) {
                                ++pieces;
                                got += AsText(piece);
                                return OkStatus();
                              })
                  .ok());
  EXPECT_GT(pieces, 1u);
  EXPECT_EQ(got, large);
  auto measured = fs_->Measure("large");
  ASSERT_TRUE(measured.ok());
  EXPECT_EQ(measured->size, large.size());
}

TEST_P(FileSystemContract, StopsReadingAtTheSinksError) {
  Put("file", "content");
  const Status status = fs_->ReadPieces(
      "file", [](ByteView) { return MakeError(Code::kCancelled, Reason::kCancelled, "enough"); });
  EXPECT_EQ(ReasonOf(status), Reason::kCancelled);
}

TEST_P(FileSystemContract, RefusesToReadBeyondTheBound) {
  Put("file", "0123456789");
  EXPECT_TRUE(fs_->Read("file", 10).ok());
  EXPECT_EQ(ReasonOf(fs_->Read("file", 9).status()), Reason::kFileTooLarge);
}

TEST_P(FileSystemContract, CreateEmptiesWhatIsThere) {
  Put("file", "a long content");
  Put("file", "short");
  EXPECT_EQ(Get("file"), "short");
}

TEST_P(FileSystemContract, RenameReplaces) {
  Put("old", "old bytes");
  Put("new", "new bytes");
  ASSERT_TRUE(fs_->Rename("new", "old").ok());
  EXPECT_EQ(Get("old"), "new bytes");
  EXPECT_FALSE(fs_->Exists("new"));
}

TEST_P(FileSystemContract, RenamesBetweenDirectories) {
  ASSERT_TRUE(fs_->MakeDirectory("a").ok());
  ASSERT_TRUE(fs_->MakeDirectory("b").ok());
  Put("a/file", "bytes");
  ASSERT_TRUE(fs_->Rename("a/file", "b/file").ok());
  EXPECT_EQ(Get("b/file"), "bytes");
  EXPECT_FALSE(fs_->Exists("a/file"));
}

TEST_P(FileSystemContract, RenamesEmptyDirectoriesButOverNothing) {
  ASSERT_TRUE(fs_->MakeDirectory("d/old").ok());
  ASSERT_TRUE(fs_->Rename("d/old", "d/new").ok());
  EXPECT_FALSE(fs_->Exists("d/old"));
  Put("d/new/file", "bytes");
  EXPECT_EQ(Get("d/new/file"), "bytes");
  ASSERT_TRUE(fs_->MakeDirectory("d/other").ok());
  EXPECT_EQ(ReasonOf(fs_->Rename("d/other", "d/new")), Reason::kEspIo);
  EXPECT_EQ(Get("d/new/file"), "bytes");
}

TEST_P(FileSystemContract, DurableDirectoriesAvoidWhatWasLeftOver) {
  ASSERT_TRUE(fs_->MakeDirectory("d/sub.sealift-tmp").ok());
  ASSERT_TRUE(fs_->MakeDurableDirectory("d/sub/deep").ok());
  ASSERT_TRUE(fs_->MakeDurableDirectory("d/sub/deep").ok());
  auto entries = fs_->List("d");
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[0].name, "sub");
  EXPECT_EQ((*entries)[1].name, "sub.sealift-tmp");
  entries = fs_->List("d/sub");
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 1u);
  EXPECT_EQ((*entries)[0].name, "deep");
}

TEST_P(FileSystemContract, TellsWhatIsMissing) {
  for (const Status& status :
       {fs_->List("none").status(), fs_->Remove("none"), fs_->Rename("none", "other"),
        fs_->SyncDirectory("none"), fs_->Read("none", 10).status(), fs_->Create("none/file").status()}) {
    EXPECT_EQ(status.code(), Code::kNotFound) << Describe(status);
    EXPECT_EQ(ReasonOf(status), Reason::kFileUnreadable) << Describe(status);
  }
  EXPECT_FALSE(fs_->Exists("none"));
  EXPECT_FALSE(fs_->Exists("none/none"));
}

TEST_P(FileSystemContract, ListsOneLevelSortedWithSizes) {
  ASSERT_TRUE(fs_->MakeDirectory("d/sub").ok());
  ASSERT_TRUE(fs_->MakeDirectory("d/sub").ok());
  Put("d/b", "22");
  Put("d/a", "1");
  Put("d/sub/deep", "x");
  auto entries = fs_->List("d");
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_EQ((*entries)[0].size, 1u);
  EXPECT_EQ((*entries)[1].name, "b");
  EXPECT_EQ((*entries)[1].size, 2u);
  EXPECT_EQ((*entries)[2].name, "sub");
  EXPECT_TRUE((*entries)[2].is_directory);
}

TEST_P(FileSystemContract, RemovesFiles) {
  Put("file", "bytes");
  ASSERT_TRUE(fs_->Remove("file").ok());
  EXPECT_FALSE(fs_->Exists("file"));
}

TEST_P(FileSystemContract, RemovesEmptyDirectoriesOnly) {
  ASSERT_TRUE(fs_->MakeDurableDirectory("d/sub").ok());
  Put("d/sub/file", "bytes");
  EXPECT_EQ(ReasonOf(fs_->RemoveDirectory("d/sub")), Reason::kEspIo);
  ASSERT_TRUE(fs_->Remove("d/sub/file").ok());
  ASSERT_TRUE(fs_->RemoveDirectory("d/sub").ok());
  EXPECT_FALSE(fs_->Exists("d/sub"));
  EXPECT_EQ(fs_->RemoveDirectory("d/sub").code(), Code::kNotFound);
  EXPECT_TRUE(fs_->Exists("d"));
}

TEST_P(FileSystemContract, KeepsTheCaseOfNames) {
  Put("Name", "bytes");
  auto entries = fs_->List("");
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 1u);
  EXPECT_EQ((*entries)[0].name, "Name");
}

TEST_P(FileSystemContract, RefusesPathsThatLeave) {
  for (const char* path : {"../out", "a/../../out", "/etc/passwd", "a//b", "./a", "a/", "a\\b"}) {
    EXPECT_EQ(ReasonOf(fs_->Read(path, 10).status()), Reason::kInvalidArgument) << path;
    EXPECT_EQ(ReasonOf(fs_->Create(path).status()), Reason::kInvalidArgument) << path;
    EXPECT_EQ(ReasonOf(fs_->Remove(path)), Reason::kInvalidArgument) << path;
    EXPECT_EQ(ReasonOf(fs_->Rename("a", path)), Reason::kInvalidArgument) << path;
    EXPECT_EQ(ReasonOf(fs_->List(path).status()), Reason::kInvalidArgument) << path;
  }
}

TEST_P(FileSystemContract, ReplaceLeavesOneFileAndNoOther) {
  ASSERT_TRUE(fs_->MakeDirectory("d").ok());
  ASSERT_TRUE(fs_->Replace("d/file", AsBytes("one")).ok());
  ASSERT_TRUE(fs_->Replace("d/file", AsBytes("two")).ok());
  EXPECT_EQ(Get("d/file"), "two");
  auto entries = fs_->List("d");
  ASSERT_TRUE(entries.ok());
  EXPECT_EQ(entries->size(), 1u);
}

TEST_P(FileSystemContract, TellsFreeSpace) {
  auto free = fs_->FreeBytes();
  ASSERT_TRUE(free.ok());
  EXPECT_GT(*free, 0u);
}

}  // namespace sealift::agent
