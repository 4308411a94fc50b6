#include "controller/source/packages.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace sealift::build {
namespace {

std::vector<std::string> Names(const std::vector<PackageFiles>& found) {
  std::vector<std::string> names;
  for (const PackageFiles& one : found) names.push_back(one.package.name + " " + one.package.version);
  return names;
}

constexpr std::string_view kApk =
    "C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nU:https://musl.libc.org/\nm:Natanael Copa "
    "<n@alpinelinux.org>\n"
    "F:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\nZ:Q1xyz=\nF:\nR:at-the-root\n\n"
    "P:busybox\nV:1.36.1-r5\nA:x86_64\nF:bin\nR:busybox\n";

TEST(PackageTextTest, DpkgListsWhatIsThere) {
  const auto found = ParseDpkgStatus(
      "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\n"
      "Maintainer: A <a@example.org>\nHomepage: https://a.example.org\nDescription: short\n longer\n "
      "Version: no\n\n"
      "Package: removed\nStatus: deinstall ok config-files\nVersion: 1\n\n\n"
      "Package: never\nStatus: unknown ok not-installed\nVersion: 1\n\n"
      "Package: without-version\n\n"
      "Package: unpacked\nStatus: install ok unpacked\nVersion: 4\n\n"
      "Package: from-status.d\nVersion: 5");
  EXPECT_EQ(Names(found), (std::vector<std::string>{"a 1:2-3", "unpacked 4", "from-status.d 5"}));
  EXPECT_EQ(found[0].package, (Package{.type = "deb",
                                       .name = "a",
                                       .version = "1:2-3",
                                       .architecture = "amd64",
                                       .supplier = "A <a@example.org>",
                                       .homepage = "https://a.example.org"}));
  EXPECT_TRUE(ParseDpkgStatus("").empty());
  EXPECT_TRUE(ParseDpkgStatus("\n:\n \nno colon\n").empty());
}

TEST(PackageTextTest, ApkNamesFilesByFolder) {
  const auto found = ParseApkInstalled(kApk);
  EXPECT_EQ(Names(found), (std::vector<std::string>{"musl 1.2.4-r2", "busybox 1.36.1-r5"}));
  EXPECT_EQ(found[0].paths, (std::vector<std::string>{"lib/ld-musl-x86_64.so.1", "at-the-root"}));
  EXPECT_EQ(found[0].package.license, "MIT");
  EXPECT_EQ(found[1].paths, std::vector<std::string>{"bin/busybox"});
  EXPECT_TRUE(ParseApkInstalled("R:file\nP\nP:\n").empty());
}

TEST(PackageTextTest, RpmLeavesOutKeysAndAbsentFields) {
  const auto found = ParseRpmQuery(
      "noise\nP\tbash\t5.2-1\tx86_64\tFedora "
      "Project\t(none)\tGPL-3.0-or-later\nF\t/bin/bash\nF\t/usr/bin/sh\n"
      "P\tgpg-pubkey\t1-2\t(none)\t(none)\t(none)\tpubkey\nP\tshort\n");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].package.homepage, "");
  EXPECT_EQ(found[0].package.license, "GPL-3.0-or-later");
  EXPECT_EQ(found[0].paths, (std::vector<std::string>{"/bin/bash", "/usr/bin/sh"}));
}

TEST(PackagesTest, OwnersAreFoundThroughLinks) {
  Tree tree;
  tree.PutDirectory("usr");
  tree.PutLink("lib", "usr/lib");
  tree.PutLink("bin", "usr/bin");
  tree.PutFile("usr/lib/ld-musl-x86_64.so.1", AsBytes("x"));
  tree.PutFile("usr/bin/busybox", AsBytes("x"));
  tree.PutFile("usr/lib/apk/db/installed", AsBytes(kApk));
  const InstalledPackages installed = ReadPackages(tree).value();
  ASSERT_EQ(installed.packages.size(), 2u);
  EXPECT_EQ(installed.packages[0].name, "busybox") << "sorted";
  EXPECT_EQ(installed.owners.at("usr/bin/busybox"), 0u);
  EXPECT_EQ(installed.owners.at("usr/lib/ld-musl-x86_64.so.1"), 1u);
  EXPECT_EQ(installed.owners.size(), 2u);
}

TEST(PackagesTest, ImagesWithoutDpkgHaveAFileAPackage) {
  Tree tree;
  tree.PutFile("usr/bin/x", AsBytes("x"));
  tree.PutFile("var/lib/dpkg/status.d/base", AsBytes("Package: base\nVersion: 1\nArchitecture: amd64\n"));
  tree.PutFile("var/lib/dpkg/status.d/base.md5sums", AsBytes("0 usr/bin/x\n"));
  EXPECT_EQ(ReadPackages(tree)->packages.size(), 1u);
  EXPECT_TRUE(ReadPackages(Tree())->packages.empty());
}

TEST(PackagesTest, DatabasesThatAreTooLargeAreRefused) {
  Tree tree;
  tree.PutFile("lib/apk/db/installed", {});
  TreeEntry huge = *tree.Find("lib/apk/db/installed");
  huge.size = 65u << 20;
  tree.Put("lib/apk/db/installed", huge);
  EXPECT_EQ(test::ReasonIdFrom(ReadPackages(tree)), "FILE_TOO_LARGE");
}

}  // namespace
}  // namespace sealift::build
