#include "shared/content/download.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::content {
namespace {

// Serves one object in small pieces and can be made to misbehave.
class ScriptedSource final : public ContentSource {
 public:
  explicit ScriptedSource(Bytes object) : object_(std::move(object)) {}
  Status Fetch(const Sha256Digest&, std::uint64_t offset, const Sink& sink) override {
    offsets.push_back(offset);
    const std::size_t stop = std::min(stop_at, object_.size());
    for (std::size_t at = offset; at < stop; at += 7) {
      const std::size_t size = std::min<std::size_t>(7, stop - at);
      SEALIFT_RETURN_IF_ERROR(sink(ByteView(object_).subspan(at, size)));
    }
    if (!broken.ok()) return broken;
    for (bool more = endless; more;) SEALIFT_RETURN_IF_ERROR(sink(AsBytes("more and more")));
    return OkStatus();
  }

  std::vector<std::uint64_t> offsets;
  std::size_t stop_at = SIZE_MAX;
  Status broken;
  bool endless = false;

 private:
  Bytes object_;
};

class DownloadTest : public testing::Test {
 protected:
  DownloadRequest Request() const {
    return {.digest = Sha256(object_), .size = object_.size(), .file = file_, .progress = {}};
  }
  std::filesystem::path part() const { return file_.string() + ".part"; }
  void WriteFile(const std::filesystem::path& path, ByteView bytes) {
    ASSERT_TRUE(WriteFileAtomically(path, bytes).ok());
  }

  Bytes object_ = ToBytes(std::string_view("some bytes that are long enough for several pieces"));
  TempDir folder_ = TempDir::Create("download").value();
  std::filesystem::path file_ = folder_.path() / "object";
};

TEST_F(DownloadTest, EndsWithTheVerifiedFileAndNoPart) {
  ScriptedSource source(object_);
  std::vector<std::uint64_t> steps;
  DownloadRequest request = Request();
  request.progress = [&](std::uint64_t done) { steps.push_back(done); };
  ASSERT_TRUE(Download(source, request).ok());
  EXPECT_EQ(ReadFile(file_).value(), object_);
  EXPECT_FALSE(std::filesystem::exists(part()));
  EXPECT_EQ(steps.front(), 7u);
  EXPECT_EQ(steps.back(), object_.size());
}

TEST_F(DownloadTest, GoesOnWhereItBroke) {
  ScriptedSource source(object_);
  source.stop_at = 14;
  source.broken = MakeError(Code::kUnavailable, Reason::kTimeout, "line dropped");
  EXPECT_EQ(ReasonOf(Download(source, Request())), Reason::kTimeout);
  EXPECT_FALSE(std::filesystem::exists(file_));
  source.stop_at = SIZE_MAX;
  source.broken = OkStatus();
  ASSERT_TRUE(Download(source, Request()).ok());
  EXPECT_EQ(source.offsets, (std::vector<std::uint64_t>{0, 14}));
  EXPECT_EQ(ReadFile(file_).value(), object_);
}

TEST_F(DownloadTest, EarlyEndIsIncompleteAndKeepsThePart) {
  ScriptedSource source(object_);
  source.stop_at = 21;
  EXPECT_EQ(ReasonOf(Download(source, Request())), Reason::kContentIncomplete);
  EXPECT_EQ(std::filesystem::file_size(part()), 21u);
}

TEST_F(DownloadTest, DamagedPartIsFetchedOnceMoreFromTheStart) {
  WriteFile(part(), AsBytes("zeros after a power cut"));
  ScriptedSource source(object_);
  ASSERT_TRUE(Download(source, Request()).ok());
  EXPECT_EQ(source.offsets, (std::vector<std::uint64_t>{23, 0}));
  EXPECT_EQ(ReadFile(file_).value(), object_);
}

TEST_F(DownloadTest, CompletePartNeedsNoFetch) {
  WriteFile(part(), object_);
  ScriptedSource source(object_);
  ASSERT_TRUE(Download(source, Request()).ok());
  EXPECT_TRUE(source.offsets.empty());
}

TEST_F(DownloadTest, PartLongerThanTheObjectIsDropped) {
  WriteFile(part(), Bytes(1000, 'x'));
  ScriptedSource source(object_);
  ASSERT_TRUE(Download(source, Request()).ok());
  EXPECT_EQ(source.offsets, (std::vector<std::uint64_t>{0}));
}

TEST_F(DownloadTest, WrongBytesAreRefusedAndRemoved) {
  Bytes wrong = object_;
  wrong[30] ^= 1;
  ScriptedSource source(wrong);
  EXPECT_EQ(ReasonOf(Download(source, Request())), Reason::kContentDigestMismatch);
  EXPECT_FALSE(std::filesystem::exists(file_));
  EXPECT_FALSE(std::filesystem::exists(part()));
  WriteFile(part(), ByteView(wrong).first(40));
  EXPECT_EQ(ReasonOf(Download(source, Request())), Reason::kContentDigestMismatch);
  EXPECT_EQ(source.offsets.size(), 3u) << "two attempts after a part, not more";
}

TEST_F(DownloadTest, EndlessDataIsCutAtTheSignedSize) {
  ScriptedSource source(object_);
  source.endless = true;
  EXPECT_EQ(ReasonOf(Download(source, Request())), Reason::kContentTooLong);
  EXPECT_FALSE(std::filesystem::exists(part()));
}

TEST_F(DownloadTest, FileThatIsThereIsVerified) {
  WriteFile(file_, object_);
  ScriptedSource source(object_);
  ASSERT_TRUE(Download(source, Request()).ok());
  EXPECT_TRUE(source.offsets.empty());
  WriteFile(file_, Bytes(object_.size(), 'x'));
  ASSERT_TRUE(Download(source, Request()).ok());
  EXPECT_EQ(ReadFile(file_).value(), object_);
  WriteFile(file_, Bytes(object_.size() + 1, 'x'));
  ASSERT_TRUE(Download(source, Request()).ok());
  EXPECT_EQ(ReadFile(file_).value(), object_);
}

// The folder is on a partition that anybody may have written to.
TEST_F(DownloadTest, WhatIsNoFileIsRemovedAndNotFollowed) {
  const auto victim = folder_.path() / "victim";
  WriteFile(victim, AsBytes("precious"));
  const std::function<void(const std::filesystem::path&)> obstacles[] = {
      [&](const auto& path) { std::filesystem::create_symlink(victim, path); },
      [&](const auto& path) { ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0); },
      [&](const auto& path) { std::filesystem::create_directories(path / "full"); },
  };
  for (const auto& put : obstacles) {
    put(file_);
    put(part());
    ScriptedSource source(object_);
    const Status status = Download(source, Request());
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(ReadFile(file_).value(), object_);
    EXPECT_TRUE(std::filesystem::is_regular_file(std::filesystem::symlink_status(file_)));
    EXPECT_EQ(ReadTextFile(victim).value(), "precious");
    std::filesystem::remove(file_);
  }
}

TEST(HashFile, IsBounded) {
  const TempDir folder = TempDir::Create("hash").value();
  ASSERT_TRUE(WriteFileAtomically(folder.path() / "f", AsBytes("12345")).ok());
  EXPECT_EQ(HashFile(folder.path() / "f", 5).value(), Sha256(AsBytes("12345")));
  EXPECT_EQ(ReasonOf(HashFile(folder.path() / "f", 4).status()), Reason::kFileTooLarge);
  EXPECT_EQ(HashFile(folder.path() / "g", 4).status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace sealift::content
