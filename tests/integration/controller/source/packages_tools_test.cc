// Package databases as dpkg and rpm make them, compared with what dpkg-query and rpm say themselves.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "controller/source/packages.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;
using test::RunTool;

class PackagesToolsTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) {
    fs::create_directories((root() / name).parent_path());
    std::ofstream(root() / name) << text;
  }
  fs::path root() const { return folder_.path() / "root"; }
  std::vector<std::string> Lines(const InstalledPackages& installed, const std::string& type) const {
    std::vector<std::string> lines;
    for (const Package& one : installed.packages)
      if (one.type == type) lines.push_back(one.name + " " + one.version + " " + one.architecture);
    std::sort(lines.begin(), lines.end());
    return lines;
  }
  static std::vector<std::string> SortedLines(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    std::sort(lines.begin(), lines.end());
    return lines;
  }

  TempDir folder_ = TempDir::Create("sealift-packages").value();
};

// The database of this machine, which is as real as they come.
TEST_F(PackagesToolsTest, DpkgQueryListsTheSamePackages) {
  SEALIFT_NEED_TOOL("dpkg-query");
  SEALIFT_NEED_FILE("/var/lib/dpkg/status");
  fs::create_directories(root() / "var/lib/dpkg/info");
  fs::copy_file("/var/lib/dpkg/status", root() / "var/lib/dpkg/status");
  for (const auto& item : fs::directory_iterator("/var/lib/dpkg/info"))
    if (item.path().extension() == ".list")
      fs::copy_file(item.path(), root() / "var/lib/dpkg/info" / item.path().filename());
  Write("usr/bin/dpkg-query", "x");
  Write("usr/bin/of-nobody", "x");
  const Tree tree = Tree::Read(root()).value();
  const InstalledPackages installed = ReadPackages(tree).value();
  const CommandOutput output =
      RunTool({"dpkg-query", "--admindir", (root() / "var/lib/dpkg").string(), "--show", "--showformat",
               "${db:Status-Status} ${Package} ${Version} ${Architecture}\n"});
  std::vector<std::string> expected;
  for (const std::string& line : SortedLines(output.out))
    if (line.starts_with("installed ")) expected.push_back(line.substr(10));
  EXPECT_GT(expected.size(), 50u);
  EXPECT_EQ(Lines(installed, "deb"), expected);
  EXPECT_EQ(installed.packages.at(installed.owners.at("usr/bin/dpkg-query")).name, "dpkg");
  EXPECT_FALSE(installed.owners.contains("usr/bin/of-nobody"));
}

TEST_F(PackagesToolsTest, RpmListsTheSamePackages) {
  for (const char* tool : {"rpm", "rpmbuild"}) SEALIFT_NEED_TOOL(tool);
  const std::string top = (folder_.path() / "build").string();
  std::vector<std::string> install = {
      "rpm",       "--root",   root().string(), "--dbpath",    "/usr/lib/sysimage/rpm",
      "--install", "--justdb", "--nodeps",      "--noscripts", "--ignorearch"};
  for (const char* name : {"alpha", "beta"}) {
    const std::string spec = (folder_.path() / name).string() + ".spec";
    std::ofstream(spec) << "Name: " << name << "\nVersion: 1.2\nRelease: 3.fc39\nEpoch: 4\nSummary: test\n"
                        << "License: MIT AND Apache-2.0\nURL: https://example.org/\nVendor: Example\n"
                        << "BuildArch: noarch\n%description\ntest\n%install\nmkdir -p %{buildroot}/usr/bin\n"
                        << "echo x > %{buildroot}/usr/bin/" << name << "\n%files\n/usr/bin/" << name << "\n";
    const CommandOutput built = RunTool({"rpmbuild", "--quiet", "--define", "_topdir " + top, "--define",
                                         "_tmppath " + folder_.path().string(), "-bb", spec});
    ASSERT_EQ(built.exit_code, 0) << built.err;
    install.push_back(top + "/RPMS/noarch/" + name + "-1.2-3.fc39.noarch.rpm");
  }
  Write("usr/bin/alpha", "x");
  const CommandOutput installed_output = RunTool(install);
  ASSERT_EQ(installed_output.exit_code, 0) << installed_output.err;
  const Tree tree = Tree::Read(root()).value();
  const auto installed = ReadPackages(tree);
  ASSERT_TRUE(installed.ok()) << installed.status();
  const CommandOutput query = RunTool({"rpm", "--root", root().string(), "--dbpath", "/usr/lib/sysimage/rpm",
                                       "-qa", "--qf", "%{NAME} %{EPOCH}:%{VERSION}-%{RELEASE} %{ARCH}\n"});
  EXPECT_EQ(SortedLines(query.out),
            (std::vector<std::string>{"alpha 4:1.2-3.fc39 noarch", "beta 4:1.2-3.fc39 noarch"}));
  EXPECT_EQ(Lines(*installed, "rpm"), SortedLines(query.out));
  const Package& alpha = installed->packages.at(installed->owners.at("usr/bin/alpha"));
  EXPECT_EQ(alpha.name, "alpha");
  EXPECT_EQ(alpha.license, "MIT AND Apache-2.0");
  EXPECT_EQ(alpha.homepage, "https://example.org/");
  EXPECT_EQ(alpha.supplier, "Example");
}

}  // namespace
}  // namespace sealift::build
