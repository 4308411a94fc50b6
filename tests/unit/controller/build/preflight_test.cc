#include "controller/build/preflight.h"

#include <gtest/gtest.h>

#include <set>

#include "controller/build/command_line.h"
#include "tests/support/os_tree.h"
#include "tests/support/status_matchers.h"

namespace sealift::build {
namespace {

using test::OsTree;
using test::ReasonIdFrom;

std::multiset<std::string> Names(const std::vector<Finding>& findings) {
  std::multiset<std::string> names;
  for (const Finding& finding : findings) names.insert(finding.name);
  return names;
}

std::multiset<std::string> FindingsOf(const OsTree& os, std::optional<std::string> node_config = {},
                                      const std::string& command_line = "quiet", Status kernel = {},
                                      const std::string& version = {}) {
  const Tree tree = Tree::Read(os.path()).value();
  const auto menu = PlanMenu(command_line, {}).value();
  return Names(InspectTree({.tree = &tree,
                            .menu = &menu,
                            .node_config = std::move(node_config),
                            .kernel = std::move(kernel),
                            .kernel_release = "6.1.0-test",
                            .version = version}));
}

std::string Risk(const std::string& command_line) {
  std::string names;
  for (const RiskyWord& risky : FindRiskyWords(command_line))
    names += (names.empty() ? "" : ",") + risky.finding;
  return names;
}

TEST(CommandLineTest, SplitsWordsAsTheKernelDoes) {
  EXPECT_EQ(CommandLineWords("  a  b=\"c d\" \"e=f g\" "), (std::vector<std::string>{"a", "b=c d", "e=f g"}));
  EXPECT_TRUE(CommandLineWords("   ").empty());
}

TEST(CommandLineTest, FindsWordsThatOpenABackDoor) {
  EXPECT_EQ(Risk("quiet panic=5 rd.shell=0 systemd.unit=multi-user.target lockdown=integrity loglevel=1"),
            "");
  EXPECT_EQ(Risk("init=/bin/sh"), "cmdline-init");
  EXPECT_EQ(Risk("\"init=/bin/sh\" rdinit=/bin/sh"), "cmdline-init,cmdline-init");
  EXPECT_EQ(Risk("rd.shell"), "cmdline-rd-shell");
  EXPECT_EQ(Risk("rd.shell=1"), "cmdline-rd-shell");
  EXPECT_EQ(Risk("systemd.debug-shell rd.systemd.debug_shell=1 systemd.debug_shell=0"),
            "cmdline-debug-shell,cmdline-debug-shell");
  EXPECT_EQ(Risk("systemd.wants=debug-shell.service"), "cmdline-debug-shell");
  EXPECT_EQ(Risk("rescue"), "cmdline-rescue");
  EXPECT_EQ(Risk("single systemd.unit=rescue.target 1"), "cmdline-rescue,cmdline-rescue,cmdline-rescue");
  EXPECT_EQ(Risk("emergency rd.emergency systemd.unit=emergency.target"),
            "cmdline-emergency,cmdline-emergency,cmdline-emergency");
  EXPECT_EQ(Risk("module.sig_enforce=0 lockdown=none"),
            "cmdline-module-signatures-off,cmdline-lockdown-none");
  // The words of systemd's table of run levels, and its quotes.
  EXPECT_EQ(Risk("-b -s"), "cmdline-emergency,cmdline-rescue");
  EXPECT_EQ(Risk("b"), "");
  EXPECT_EQ(Risk("'rescue' 'systemd.unit=emergency.target' re'sc'ue"),
            "cmdline-rescue,cmdline-emergency,cmdline-rescue");
  EXPECT_EQ(Risk("note='no rescue here' rescue"), "cmdline-rescue,cmdline-rescue")
      << "the kernel splits at the spaces";
  EXPECT_EQ(Risk("module.sig-enforce=0 module.sig_enforce=1"), "cmdline-module-signatures-off");
}

TEST(PreflightTest, AGoodTreeHasOnlyItsMachineId) {
  OsTree os;
  EXPECT_EQ(FindingsOf(os), (std::multiset<std::string>{"machine-id"}));
  os.Write("etc/machine-id", "uninitialized\n");
  os.Write("etc/shadow", "root:*:19000::::::\nuser:$y$j9T$abc:19000::::::\n");
  os.Write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
  EXPECT_TRUE(FindingsOf(os).empty());
}

TEST(PreflightTest, RootMustBeLocked) {
  const auto with = [](const char* file, const char* text) {
    OsTree os;
    os.Remove("etc/machine-id");
    os.Write(file, text);
    return FindingsOf(os);
  };
  const std::multiset<std::string> found = {"root-password"};
  EXPECT_EQ(with("etc/shadow", "bin:*:1::::::\nroot::19000::::::\n"), found);
  EXPECT_EQ(with("etc/shadow", "root:$6$salt$hash:19000::::::\n"), found);
  EXPECT_TRUE(with("etc/shadow", "root:!$6$salt$hash:19000::::::\n").empty());
  EXPECT_EQ(with("etc/passwd", "root::0:0:root:/root:/bin/sh\n"), found);
  EXPECT_TRUE(with("etc/shadow", "rooter::19000::::::\n").empty());
}

TEST(PreflightTest, NodeConfigHoldsNoSecret) {
  OsTree os;
  os.Remove("etc/machine-id");
  EXPECT_TRUE(FindingsOf(os,
                         "[controller]\naddress = \"a:1\"\nca_pem = '''\n-----BEGIN CERTIFICATE-----\n'''\n"
                         "# password = \"of an example\"\n[node.labels]\nsite = \"berlin\"\n")
                  .empty());
  EXPECT_EQ(FindingsOf(os, "node.join_token = \"abc\"\n\"join-token\" = 'x'\n"),
            (std::multiset<std::string>{"node-config-join-token", "node-config-join-token"}));
  EXPECT_EQ(FindingsOf(os, "db_password = \"x\"\nkey = '''-----BEGIN EC PRIVATE KEY-----\n'''\n"),
            (std::multiset<std::string>{"node-config-secret", "node-config-secret"}));
}

TEST(PreflightTest, NodeConfigOfTheTreeHoldsNoSecretEither) {
  OsTree os;
  os.Remove("etc/machine-id");
  os.Write("usr/lib/sealift/node.toml", "[node]\njoin_token = \"abc\"\n");
  EXPECT_EQ(FindingsOf(os), (std::multiset<std::string>{"node-config-join-token"}));
  EXPECT_TRUE(FindingsOf(os, "[node]\n").empty()) << "the given one replaces it";
}

TEST(PreflightTest, InlineTablesHideNoSecret) {
  OsTree os;
  os.Remove("etc/machine-id");
  EXPECT_EQ(FindingsOf(os, "node = { site = \"#1\", join_token = \"x\" }\na = {b.password='y'}\n"),
            (std::multiset<std::string>{"node-config-join-token", "node-config-secret"}));
  EXPECT_TRUE(FindingsOf(os, "a = 1 # node = { join_token = \"x\" }\n").empty());
}

TEST(PreflightTest, ReportsEverythingAtOnce) {
  OsTree os;
  os.Remove("usr/lib/systemd/libsystemd-shared-252.so");
  os.Write("usr/lib/systemd/libsystemd-shared-251.so", "");
  os.Remove("usr/lib/modules/6.1.0-test");
  os.Write("usr/lib/modules/5.10/modules.dep", "");
  os.Write("usr/lib/os-release", "NAME=x\nVERSION_ID='not a version'\n");
  os.Write("var/lib/dbus/machine-id", "0123\n");
  os.Write("var/lib/systemd/random-seed", "seed");
  os.Write("etc/ssh/ssh_host_rsa_key", "key");
  os.Write("etc/ssh/ssh_host_rsa_key.pub", "key");
  EXPECT_EQ(FindingsOf(os, {}, "rescue"),
            (std::multiset<std::string>{"cmdline-rescue", "machine-id", "machine-id-copy", "modules-missing",
                                        "os-release-incomplete", "random-seed", "ssh-host-key",
                                        "systemd-too-old", "version-invalid"}));
  EXPECT_EQ(FindingsOf(os, {}, "quiet", {}, "2.0").count("version-invalid"), 0u);
}

TEST(PreflightTest, SaysWhatIsAbsent) {
  OsTree os;
  for (const char* name :
       {"usr/lib/systemd/systemd", "usr/lib/os-release", "usr/lib/modules", "etc/machine-id"})
    os.Remove(name);
  EXPECT_EQ(
      FindingsOf(os, {}, "quiet", MakeError(Code::kNotFound, Reason::kRootfsUnusable, "find kernel: none")),
      (std::multiset<std::string>{"kernel-missing", "modules-none", "os-release-missing",
                                  "systemd-missing"}));
}

TEST(PreflightTest, SizesAgainstFirmwareAndPartition) {
  constexpr std::uint64_t kMib = 1u << 20;
  const auto names = [](std::uint64_t largest, std::uint64_t total) {
    return Names(InspectSizes(largest * kMib, total * kMib,
                              {.warn_image_bytes = 100 * kMib, .esp_bytes = 500 * kMib}));
  };
  EXPECT_TRUE(names(100, 120).empty());
  EXPECT_EQ(names(101, 120), (std::multiset<std::string>{"image-large"}));
  EXPECT_EQ(names(90, 420), (std::multiset<std::string>{"esp-tight"}));
  EXPECT_EQ(names(90, 501), (std::multiset<std::string>{"esp-too-small"}));
  EXPECT_EQ(names(2049, 2049), (std::multiset<std::string>{"esp-too-small", "image-too-large"}));
}

TEST(PreflightTest, AllowedFindingsNoLongerStop) {
  std::vector<Finding> findings = {{.name = "cmdline-init", .text = "one"},
                                   {.name = "root-password", .text = "two"},
                                   {.name = "machine-id", .severity = Severity::kWarning, .text = "three"}};
  const Status all = Judge(findings, {});
  EXPECT_EQ(ReasonIdFrom(all), "PREFLIGHT_FAILED");
  EXPECT_EQ(MessageOf(all), "check image: cmdline-init: one; root-password: two");
  EXPECT_EQ(MessageOf(Judge(findings, {"cmdline-init"})), "check image: root-password: two");
  EXPECT_TRUE(Judge(findings, {"cmdline-init", "root-password"}).ok());
  EXPECT_TRUE(findings[0].allowed);
  EXPECT_EQ(ReasonIdFrom(Judge(findings, {"cmdline"})), "INVALID_ARGUMENT");
}

}  // namespace
}  // namespace sealift::build
