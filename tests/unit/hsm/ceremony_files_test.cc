// Writing a set's folder, and into it: what a failure midway leaves.
#include "hsm/ceremony_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace sealift::hsm {
namespace {

using Files = std::vector<std::pair<std::string, Bytes>>;

class ReplaceFilesTest : public ::testing::Test {
 protected:
  std::string Text(const std::string& name) const { return ReadTextFile(folder_.path() / name).value_or(""); }
  // Names in the folder, links and folders too.
  std::size_t Count() const {
    const std::filesystem::recursive_directory_iterator all(folder_.path());
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
  }
  void Put(const std::string& name, std::string_view text) {
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / name, AsBytes(text)).ok());
  }
  TempDir folder_ = TempDir::Create("replace").value();
};

TEST_F(ReplaceFilesTest, AddsReplacesAndMakesFolders) {
  Put("a", "old");
  const Written written = ReplaceFiles(folder_.path(), {{"earlier/1/x", ToBytes("x1")},
                                                        {"earlier/1/y", ToBytes("y1")},
                                                        {"earlier/2/x", ToBytes("x2")},
                                                        {"k.key.pem", ToBytes("k")},
                                                        {"a", ToBytes("new")}});
  ASSERT_TRUE(written.status.ok()) << Describe(written.status);
  EXPECT_EQ(written.in_place, Written::InPlace::kAll);
  EXPECT_EQ(Text("a") + Text("earlier/1/x") + Text("earlier/1/y") + Text("earlier/2/x"), "newx1y1x2");
  EXPECT_EQ(Count(), 8u) << "nothing else stays";
  struct stat info {};
  ASSERT_EQ(stat((folder_.path() / "k.key.pem").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
  // Into folders that are there.
  ASSERT_TRUE(
      ReplaceFiles(folder_.path(), {{"earlier/1/x", ToBytes("X")}, {"earlier/3/x", ToBytes("3")}, {"a", {}}})
          .status.ok());
  EXPECT_EQ(Text("earlier/1/x") + Text("earlier/1/y") + Text("earlier/3/x"), "Xy13");
}

TEST_F(ReplaceFilesTest, AFailureBeforeTheFirstRenameChangesNothing) {
  Put("a", "old");
  const Files files = {
      {"earlier/1/x", ToBytes("x")}, {"a", ToBytes("new")}, {std::string(300, 'n'), ToBytes("n")}};
  const Written written = ReplaceFiles(folder_.path(), files);
  EXPECT_EQ(ReasonOf(written.status), Reason::kFileUnwritable) << Describe(written.status);
  EXPECT_EQ(written.in_place, Written::InPlace::kNothing);
  EXPECT_EQ(Text("a"), "old");
  EXPECT_EQ(Count(), 1u) << "no empty folder either";
}

TEST_F(ReplaceFilesTest, AFailureAfterItIsToldAndNewFoldersAreWhole) {
  Put("z", "old");
  ASSERT_TRUE(std::filesystem::create_directories(folder_.path() / "b/in-the-way"));
  const Files files = {{"earlier/1/x", ToBytes("x")},
                       {"b", ToBytes("b")},
                       {"earlier/1/y", ToBytes("y")},
                       {"z", ToBytes("new")}};
  const Written written = ReplaceFiles(folder_.path(), files);
  EXPECT_EQ(ReasonOf(written.status), Reason::kFileUnwritable) << Describe(written.status);
  EXPECT_EQ(written.in_place, Written::InPlace::kSome);
  EXPECT_EQ(Text("earlier/1/x") + Text("earlier/1/y"), "xy");
  EXPECT_EQ(Text("z"), "old");
}

// Renames, and cannot open the folder above to make that durable.
TEST(WriteFolderAtOnce, AFolderThatIsInPlaceIsToldAlsoWhenItMayNotLast) {
  const TempDir folder = TempDir::Create("at-once").value();
  const auto above = folder.path() / "above";
  ASSERT_TRUE(std::filesystem::create_directory(above));
  ASSERT_EQ(chmod(folder.path().c_str(), 0755), 0);
  const uid_t nobody = 65534;
  if (geteuid() == 0) {
    ASSERT_EQ(chown(above.c_str(), nobody, nobody), 0);
  }
  ASSERT_EQ(chmod(above.c_str(), 0300), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (geteuid() == 0 && setuid(nobody) != 0) _exit(9);
    const Written written = WriteFolderAtOnce(above / "keys", {{"a", ToBytes("a")}});
    _exit(!written.status.ok() && written.in_place == Written::InPlace::kAll ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(chmod(above.c_str(), 0700), 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(ReadTextFile(above / "keys/a").value_or(""), "a");
  const Written again = WriteFolderAtOnce(above / "keys", {{"a", ToBytes("b")}});
  EXPECT_EQ(ReasonOf(again.status), Reason::kKeySetExists);
  EXPECT_EQ(again.in_place, Written::InPlace::kNothing);
}

}  // namespace
}  // namespace sealift::hsm
