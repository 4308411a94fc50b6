// What a tree is given so that it runs as a node: with dpkg-deb's packages and depmod's index.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "controller/build/agent.h"
#include "controller/build/kernel_modules.h"
#include "controller/build/node_kit.h"
#include "tests/support/os_tree.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;
using test::OsTree;
using test::ReasonIdFrom;
using test::RunTool;

constexpr char kUnit[] =
    "[Unit]\nWantedBy=not-this.target\n[Service]\nExecStart=/usr/lib/sealift/sealift-agent run\n"
    "[Install]\nWantedBy=multi-user.target rescue.target\nRequiredBy=../../evil.target\n";

class AgentPackageTest : public testing::Test {
 protected:
  void SetUp() override { SEALIFT_NEED_TOOL("dpkg-deb"); }
  void Write(const std::string& name, const std::string& text, mode_t mode = 0644) {
    fs::create_directories((folder_.path() / name).parent_path());
    std::ofstream(folder_.path() / name) << text;
    ::chmod((folder_.path() / name).c_str(), mode);
  }
  fs::path Build(const std::string& compression) {
    Write("deb/DEBIAN/control",
          "Package: sealift-agent\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@example.org>\n"
          "Description: x\n");
    Write("deb/DEBIAN/postinst", "#!/bin/sh\ntouch " + (folder_.path() / "ran").string() + "\n", 0755);
    Write("deb/usr/lib/systemd/system/sealift-agent.service", kUnit);
    const fs::path deb = folder_.path() / (compression + ".deb");
    const CommandOutput output = RunTool({"dpkg-deb", "--root-owner-group", "-Z" + compression, "--build",
                                          (folder_.path() / "deb").string(), deb.string()});
    EXPECT_EQ(output.exit_code, 0) << output.err;
    return deb;
  }

  TempDir folder_ = TempDir::Create("sealift-agent").value();
};

TEST_F(AgentPackageTest, IsUnpackedAndEnabledButNotRun) {
  Write("deb/usr/lib/sealift/sealift-agent", "new agent", 0755);
  // Goes where the tree's link leads.
  Write("deb/lib/modprobe.d/sealift.conf", "options x");
  for (const char* compression : {"xz", "zstd", "gzip", "none"}) {
    OsTree os;
    os.Remove("etc/systemd");
    os.Remove("usr/lib/sealift");
    Tree tree = Tree::Read(os.path()).value();
    std::vector<std::string> remarks;
    CheckAgent(tree, remarks);
    EXPECT_EQ(remarks.size(), 1u);
    const Status added = AddAgent(tree, Build(compression));
    ASSERT_TRUE(added.ok()) << added;
    CheckAgent(tree, remarks);
    EXPECT_EQ(remarks.size(), 1u) << remarks.back();
    EXPECT_EQ(AsText(tree.ReadFile(kAgentPath).value()), "new agent");
    EXPECT_EQ(tree.Find(kAgentPath)->mode, mode_t{S_IFREG | 0755});
    EXPECT_EQ(tree.Find("lib")->target, "usr/lib") << "the link was replaced";
    EXPECT_EQ(AsText(tree.ReadFile("usr/lib/modprobe.d/sealift.conf").value()), "options x");
    EXPECT_EQ(tree.Find("etc/systemd/system/multi-user.target.wants/sealift-agent.service")->target,
              "/usr/lib/systemd/system/sealift-agent.service");
    EXPECT_NE(tree.Find("etc/systemd/system/rescue.target.wants/sealift-agent.service"), nullptr);
    EXPECT_EQ(tree.Find("etc/systemd/system/not-this.target.wants"), nullptr);
    EXPECT_EQ(tree.Find("etc/systemd/evil.target.requires"), nullptr);
    EXPECT_EQ(tree.Find("DEBIAN"), nullptr);
  }
  EXPECT_FALSE(fs::exists(folder_.path() / "ran"));
}

TEST_F(AgentPackageTest, OtherFilesAreRefused) {
  OsTree os;
  Tree tree = Tree::Read(os.path()).value();
  EXPECT_EQ(ReasonIdFrom(AddAgent(tree, Build("xz"))), "SOURCE_UNUSABLE") << "no agent in it";
  Write("text.deb", "no package");
  EXPECT_EQ(ReasonIdFrom(AddAgent(tree, folder_.path() / "text.deb")), "SOURCE_UNUSABLE");
  Write("ar.deb", "!<arch>\n");
  EXPECT_EQ(ReasonIdFrom(AddAgent(tree, folder_.path() / "ar.deb")), "SOURCE_UNUSABLE");
  EXPECT_EQ(ReasonIdFrom(AddAgent(tree, folder_.path() / "absent.deb")), "FILE_UNREADABLE");
}

// A module that depmod accepts: one of the machine's own, if it has any, would do; this one is a bare object.
class KernelModulesTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* tool : {"depmod", "cc"}) SEALIFT_NEED_TOOL(tool);
    const fs::path source = folder_.path() / "m.c";
    std::ofstream(source) << "__attribute__((section(\".modinfo\"), used)) static const char a[] = "
                             "\"alias=sealift-test\";\n";
    const CommandOutput output =
        RunTool({"cc", "-c", source.string(), "-o", (folder_.path() / "m.ko").string()});
    ASSERT_EQ(output.exit_code, 0) << output.err;
    module_ = ReadTextFile(folder_.path() / "m.ko").value();
  }

  TempDir folder_ = TempDir::Create("sealift-module").value();
  std::string module_;
};

TEST_F(KernelModulesTest, IndexIsComputedWhereItDoesNotFit) {
  for (const bool merged : {true, false}) {
    OsTree os;
    if (!merged) {
      os.Remove("lib");
      os.Remove("usr/lib/modules");
    }
    const std::string folder = merged ? "usr/lib/modules/6.1.0-test" : "lib/modules/6.1.0-test";
    os.Write(folder + "/kernel/fs/m.ko", module_);
    os.Write(folder + "/modules.dep", "kernel/fs/other.ko:\n");
    Tree tree = Tree::Read(os.path()).value();
    std::vector<std::string> remarks;
    const Status status = EnsureModuleIndex(tree, "6.1.0-test", remarks);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(remarks.size(), 1u);
    EXPECT_EQ(AsText(tree.ReadFile(folder + "/modules.dep").value()), "kernel/fs/m.ko:\n");
    EXPECT_NE(AsText(tree.ReadFile(folder + "/modules.alias").value()).find("sealift-test"),
              std::string::npos);
    EXPECT_NE(tree.Find(folder + "/modules.dep.bin"), nullptr);
    // Now it fits.
    ASSERT_TRUE(EnsureModuleIndex(tree, "6.1.0-test", remarks).ok());
    EXPECT_EQ(remarks.size(), 1u);
    tree.Remove(folder + "/modules.dep");
    ASSERT_TRUE(EnsureModuleIndex(tree, "6.1.0-test", remarks).ok());
    EXPECT_EQ(remarks.size(), 2u);
    EXPECT_EQ(ReasonIdFrom(EnsureModuleIndex(tree, "6.2", remarks)), "ROOTFS_UNUSABLE");
  }
}

TEST_F(KernelModulesTest, AReleaseThatIsAPathIsNone) {
  OsTree os;
  os.Write("usr/lib/modules/6.1.0-test/kernel/fs/m.ko", module_);
  Tree tree = Tree::Read(os.path()).value();
  for (const char* release : {"../modules/6.1.0-test", "..", "", "6.1.0-test/kernel"}) {
    std::vector<std::string> remarks;
    EXPECT_TRUE(EnsureModuleIndex(tree, release, remarks).ok());
    EXPECT_EQ(remarks.size(), 1u) << release;
  }
}

TEST(NodeKitLayoutTest, AnUnmergedUsrIsFine) {
  OsTree os;
  os.Remove("lib");
  os.Remove("usr/lib/systemd/systemd");
  os.Remove("usr/lib/systemd/libsystemd-shared-252.so");
  os.Write("lib/systemd/systemd", "systemd", 0755);
  os.Write("lib/systemd/libsystemd-shared-252.so", "library");
  Tree tree = Tree::Read(os.path()).value();
  const auto remarks = MakeBootable(tree, {.systemd_major = 252, .kernel_release = "6.1.0-test"});
  ASSERT_TRUE(remarks.ok()) << remarks.status();
  EXPECT_EQ(tree.Find("init")->target, "/lib/systemd/systemd");
  tree.Remove("lib/systemd/libsystemd-shared-252.so");
  tree.PutFile("lib/systemd/libsystemd-shared-247.so", {});
  EXPECT_EQ(ReasonIdFrom(MakeBootable(tree, {.systemd_major = 252, .kernel_release = "6.1.0-test"})),
            "ROOTFS_UNUSABLE");
}

}  // namespace
}  // namespace sealift::build
