#include "controller/build/overlay.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/support/os_tree.h"
#include "tests/support/status_matchers.h"

namespace sealift::build {
namespace {

using test::OsTree;
using test::ReasonIdFrom;

class OverlayTest : public testing::Test {
 protected:
  void Write(const std::string& name, std::string_view text) {
    std::filesystem::create_directories((folder_.path() / name).parent_path());
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / name, AsBytes(text)).ok());
  }
  std::string Text(const std::string& path) { return ToText(tree_.ReadFile(path).value_or(Bytes())); }

  OsTree os_;
  TempDir folder_ = TempDir::Create("overlay").value();
  Tree tree_ = Tree::Read(os_.path()).value();
};

TEST_F(OverlayTest, ReplacesFilesAndKeepsFolders) {
  Write("etc/machine-id", "new");
  Write("oem/config.yaml", "a: 1");
  std::filesystem::create_symlink("config.yaml", folder_.path() / "oem/link");
  ::chmod((folder_.path() / "etc").c_str(), 0700);
  const mode_t before = tree_.Find("etc")->mode;
  ASSERT_TRUE(ApplyOverlay(folder_.path(), tree_).ok());
  EXPECT_EQ(Text("etc/machine-id"), "new");
  EXPECT_EQ(Text("oem/config.yaml"), "a: 1");
  EXPECT_EQ(tree_.Find("oem/link")->target, "config.yaml");
  EXPECT_EQ(tree_.Find("etc")->mode, before);
  EXPECT_EQ(Text("etc/os-release").substr(0, 7), "ID=test") << "what was not in the overlay is lost";
}

TEST_F(OverlayTest, FollowsTheLinksOfTheOsAndOnlyInside) {
  os_.Link("/../../outside", "away");
  os_.Write("outside/x", "old");
  tree_ = Tree::Read(os_.path()).value();
  Write("lib/systemd/system/new.service", "[Unit]");
  Write("lib/fresh/file", "x");
  Write("away/x", "new");
  ASSERT_TRUE(ApplyOverlay(folder_.path(), tree_).ok());
  EXPECT_EQ(Text("usr/lib/systemd/system/new.service"), "[Unit]");
  EXPECT_EQ(Text("usr/lib/fresh/file"), "x");
  EXPECT_EQ(tree_.Find("lib")->target, "usr/lib");
  EXPECT_EQ(tree_.Find("lib/fresh"), nullptr);
  EXPECT_EQ(Text("outside/x"), "new");
}

TEST_F(OverlayTest, FilesAndFoldersDoNotReplaceEachOther) {
  Write("usr", "a file");
  EXPECT_EQ(ReasonIdFrom(ApplyOverlay(folder_.path(), tree_)), "ROOTFS_UNUSABLE");
  std::filesystem::remove(folder_.path() / "usr");
  Write("boot/vmlinuz/x", "a folder where the kernel is");
  EXPECT_EQ(ReasonIdFrom(ApplyOverlay(folder_.path(), tree_)), "ROOTFS_UNUSABLE");
  EXPECT_EQ(ReasonIdFrom(ApplyOverlay("/nonexistent", tree_)), "FILE_UNREADABLE");
}

}  // namespace
}  // namespace sealift::build
