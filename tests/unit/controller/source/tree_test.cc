#include "controller/source/tree.h"

#include <gtest/gtest.h>

#include "tests/support/os_tree.h"
#include "tests/support/status_matchers.h"

namespace sealift::build {
namespace {

using test::OsTree;
using test::ReasonIdFrom;

TEST(RootfsTest, ReadsWithoutFollowingOrEntering) {
  const OsTree os;
  const Tree tree = Tree::Read(os.path()).value();
  EXPECT_EQ(tree.Find("lib")->target, "usr/lib");
  EXPECT_EQ(tree.Find("lib/os-release"), nullptr) << "a link was entered";
  EXPECT_NE(tree.Find("dev"), nullptr);
  EXPECT_EQ(tree.Find("dev/should-not-be-packed"), nullptr);
  EXPECT_EQ(tree.Find("run/should-not-be-packed"), nullptr);
  EXPECT_EQ(tree.Resolve("lib/os-release"), "usr/lib/os-release");
  EXPECT_EQ(tree.Resolve("etc/os-release"), "usr/lib/os-release");
  EXPECT_EQ(tree.Resolve("etc/absent"), "");
  EXPECT_TRUE(AsText(tree.ReadFile("etc/os-release").value()).starts_with("ID=test"));
}

TEST(RootfsTest, LinksThatLeaveTheTreeLeadInsideIt) {
  OsTree os;
  os.Link("../../../../etc/hostname", "etc/out");
  os.Link("/etc/loop", "etc/loop");
  os.Write("etc/hostname", "inside");
  const Tree tree = Tree::Read(os.path()).value();
  EXPECT_EQ(AsText(tree.ReadFile("etc/out").value()), "inside");
  EXPECT_EQ(tree.Resolve("etc/loop"), "");
}

TEST(RootfsTest, NoticesAFileThatChangedMeanwhile) {
  OsTree os;
  os.Write("etc/growing", "abc");
  const Tree tree = Tree::Read(os.path()).value();
  os.Write("etc/growing", "abcd");
  EXPECT_EQ(ReasonIdFrom(tree.ReadFile("etc/growing")), "FILE_UNREADABLE");
  // Replaced by a link to somewhere else: not followed.
  os.Remove("etc/growing");
  os.Link("/etc/passwd", "etc/growing");
  EXPECT_EQ(ReasonIdFrom(tree.ReadFile("etc/growing")), "FILE_UNREADABLE");
}

TEST(RootfsTest, RefusesWhatIsNoRootFileSystem) {
  EXPECT_EQ(ReasonIdFrom(Tree::Read("/nonexistent")), "FILE_UNREADABLE");
  const TempDir empty = TempDir::Create("sealift-os").value();
  EXPECT_EQ(ReasonIdFrom(Tree::Read(empty.path())), "ROOTFS_UNUSABLE");
}

}  // namespace
}  // namespace sealift::build
