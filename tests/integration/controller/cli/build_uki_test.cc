// Every option of `build-uki`: names and contents of all configuration files, typed from the seed page
// ("Config files", "Version and cmdline in the config files", "Additional efi entries", "Force certificates
// auto-enrollments") and not taken from what the builder wrote.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "tests/integration/controller/cli/build_fixture.h"

namespace sealift::cli {
namespace {

using nlohmann::json;
using Configuration = std::map<std::string, std::string>;

constexpr char kLoaderConf[] = "timeout 5\neditor no\n";

class BuildUkiTest : public BuildFixture {
 protected:
  // loader.conf and the entries.
  Configuration ConfigurationOf(const std::string& folder) const {
    Configuration found = Files(folder);
    std::erase_if(found, [](const auto& item) { return !item.first.ends_with(".conf"); });
    return found;
  }
};

struct Case {
  const char* name;
  std::vector<std::string> options;
  Configuration expected;
};

// `norole.conf` on media; the seed's example shows the same lines under the name that an installed node gives
// it.
const std::vector<Case>& Matrix() {
  static const std::vector<Case> kMatrix = {
      {"default",
       {},
       {{"loader/loader.conf", kLoaderConf},
        {"loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/norole.efi\n"}}},
      {"boot-branding",
       {"--boot-branding", "My Awesome OS"},
       {{"loader/loader.conf", kLoaderConf},
        {"loader/entries/norole.conf", "title My Awesome OS\nefi /EFI/kairos/norole.efi\n"}}},
      {"version",
       {"--include-version-in-config", "--version", "3.1.3", "--boot-branding", "Awesome OS"},
       {{"loader/loader.conf", kLoaderConf},
        {"loader/entries/norole.conf", "title Awesome OS\nefi /EFI/kairos/norole.efi\nversion 3.1.3\n"}}},
      // "If you pass --include-cmdline-in-config to a default installation, the attribute cmdline will be
      // empty."
      {"empty cmdline",
       {"--include-cmdline-in-config"},
       {{"loader/loader.conf", kLoaderConf},
        {"loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/norole.efi\ncmdline\n"}}},
      {"extend",
       {"--extend-cmdline", "awesome=true", "--include-cmdline-in-config", "--include-version-in-config",
        "--boot-branding", "Awesome OS", "--version", "3.1.3"},
       {{"loader/loader.conf", kLoaderConf},
        {"loader/entries/norole.conf",
         "title Awesome OS\nefi /EFI/kairos/norole.efi\nversion 3.1.3\ncmdline awesome=true\n"}}},
      {"extra",
       {"--extra-cmdline", "rd.debug rd.immucore.debug", "--include-cmdline-in-config"},
       {{"loader/loader.conf", kLoaderConf},
        {"loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/norole.efi\ncmdline\n"},
        {"loader/entries/norole_rd.debug_rd.immucore.debug.conf",
         "title Kairos\nefi /EFI/kairos/norole_rd.debug_rd.immucore.debug.efi\ncmdline rd.debug "
         "rd.immucore.debug\n"}}},
      {"single",
       {"--single-efi-cmdline", "Lets debug: rd.debug rd.immucore.debug", "--single-efi-cmdline",
        "More: rd.debug"},
       {{"loader/loader.conf", kLoaderConf},
        {"loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/norole.efi\n"},
        {"loader/entries/Lets_debug.conf", "title Kairos (Lets debug)\nefi /EFI/kairos/Lets_debug.efi\n"},
        {"loader/entries/More.conf", "title Kairos (More)\nefi /EFI/kairos/More.efi\n"}}},
      // "will create this entry: My awesome OS (Debug logs)"
      {"branding of a single entry",
       {"--boot-branding", "My awesome OS", "--single-efi-cmdline", "Debug logs: rd.debug rd.immucore.debug"},
       {{"loader/loader.conf", kLoaderConf},
        {"loader/entries/norole.conf", "title My awesome OS\nefi /EFI/kairos/norole.efi\n"},
        {"loader/entries/Debug_logs.conf",
         "title My awesome OS (Debug logs)\nefi /EFI/kairos/Debug_logs.efi\n"}}},
      {"enrol force",
       {"--secure-boot-enroll", "force", "--i-verified-these-keys-on-this-hardware", "--menu-timeout", "0"},
       {{"loader/loader.conf", "timeout 0\neditor no\nsecure-boot-enroll force\n"},
        {"loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/norole.efi\n"}}},
      {"enrol off",
       {"--secure-boot-enroll", "off"},
       {{"loader/loader.conf", "timeout 5\neditor no\nsecure-boot-enroll off\n"},
        {"loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/norole.efi\n"}}},
      {"enrol manual, loader of the source",
       {"--secure-boot-enroll", "manual", "--sdboot-in-source", "-t", "uki"},
       {{"loader/loader.conf", "timeout 5\neditor no\nsecure-boot-enroll manual\n"},
        {"loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/norole.efi\n"}}},
  };
  return kMatrix;
}

TEST_F(BuildUkiTest, EveryOptionGivesTheFilesOfTheSeedPage) {
  int number = 0;
  for (const Case& one : Matrix()) {
    SCOPED_TRACE(one.name);
    const std::string out = "out" + std::to_string(number++);
    const CommandOutput built = Build(out, one.options);
    ASSERT_EQ(built.exit_code, 0) << built.err;
    EXPECT_EQ(ConfigurationOf(out), one.expected);
    // An image for each entry, the boot loader, the enrolment files, the manifest, and nothing else.
    std::vector<std::string> names = {"EFI/BOOT/BOOTX64.EFI",
                                      "loader/keys/auto/KEK.auth",
                                      "loader/keys/auto/PK.auth",
                                      "loader/keys/auto/db.auth",
                                      "release.json",
                                      "frames.json",
                                      "sbom.spdx.json"};
    for (const auto& [path, text] : one.expected) {
      names.push_back(path);
      if (path == "loader/loader.conf") continue;
      names.push_back(text.substr(text.find("/EFI/") + 1, text.find(".efi\n") + 4 - text.find("/EFI/") - 1));
    }
    std::sort(names.begin(), names.end());
    EXPECT_EQ(Names(out), names);
  }
}

TEST_F(BuildUkiTest, SourcesAndTheAgentsPackage) {
  SEALIFT_NEED_TOOL("dpkg-deb");
  const std::filesystem::path deb = Path("deb");
  std::filesystem::create_directories(deb / "DEBIAN");
  std::filesystem::create_directories(deb / "usr/lib/sealift");
  std::ofstream(deb / "DEBIAN/control") << "Package: sealift-agent\nVersion: 1\nArchitecture: "
                                           "amd64\nMaintainer: x <x@example.org>\nDescription: x\n";
  std::ofstream(deb / "usr/lib/sealift/sealift-agent") << "the packaged agent";
  std::filesystem::permissions(deb / "usr/lib/sealift/sealift-agent", std::filesystem::perms(0755));
  ASSERT_EQ(test::RunTool({"dpkg-deb", "--build", deb, Path("agent.deb")}).exit_code, 0);
  const CommandOutput built = Build("out", {"--with-agent", Path("agent.deb"), "-o", "json"});
  ASSERT_EQ(built.exit_code, 0) << built.err;
  EXPECT_EQ(json::parse(built.out)["packages"], 0);
  const json frames = json::parse(ReadTextFile(Path("out/frames.json")).value());
  bool found = false;
  for (const json& frame : frames["frames"])
    for (const json& file : frame["files"])
      found |= file["path"] == "usr/lib/sealift/sealift-agent" &&
               file["digest"] == Sha256(AsBytes("the packaged agent")).hex();
  EXPECT_TRUE(found);
  const CommandOutput unknown = test::RunTool({kSealift, "build-uki", "tar:x", "--preflight-only"});
  EXPECT_NE(unknown.exit_code, 0);
  EXPECT_NE(unknown.err.find("docker-archive:FILE"), std::string::npos) << unknown.err;
  const CommandOutput help = test::RunTool({kSealift, "build-uki", "--help"});
  for (const char* word : {"oci-archive:FILE", "--with-agent"})
    EXPECT_NE(help.out.find(word), std::string::npos) << word;
}

TEST_F(BuildUkiTest, OnlyNamedEntriesCarryADiskUnlockSignature) {
  SEALIFT_NEED_TOOL("objdump");
  const CommandOutput built =
      Build("out", {"--extra-cmdline", "a=1", "--extra-cmdline", "b=1", "--single-efi-cmdline", "One: c=1",
                    "--single-efi-cmdline", "Two: d=1", "--unlock-with-extra-cmdline", "b=1",
                    "--unlock-with-extra-cmdline", "Two", "--sign-phase", "sysinit:ready"});
  ASSERT_EQ(built.exit_code, 0) << built.err;
  const std::map<std::string, bool> expected = {
      {"norole", true}, {"norole_a_1", false}, {"norole_b_1", true}, {"One", false}, {"Two", true}};
  for (const auto& [name, unlocks] : expected) {
    const CommandOutput sections = test::RunTool({"objdump", "-h", Path("out/EFI/kairos/" + name + ".efi")});
    ASSERT_EQ(sections.exit_code, 0) << sections.err;
    EXPECT_NE(sections.out.find(".cmdline"), std::string::npos) << name;
    EXPECT_EQ(sections.out.find(".pcrsig") != std::string::npos, unlocks) << name;
  }
}

TEST_F(BuildUkiTest, OverlayAndSplashAreInTheSignedImage) {
  SEALIFT_NEED_TOOL("objcopy");
  SEALIFT_NEED_TOOL("zstd");
  SEALIFT_NEED_TOOL("cpio");
  Write("overlay/etc/motd", "from the overlay");
  Write("overlay/lib/extra.conf", "goes where /lib leads");
  Write("splash.bmp", "BM picture");
  const std::vector<std::string> options = {"--overlay-rootfs", Path("overlay"), "--splash",
                                            Path("splash.bmp")};
  os_.Write("etc/motd", "from the OS");
  const CommandOutput built = Build("out", options);
  ASSERT_EQ(built.exit_code, 0) << built.err;
  for (const char* section : {"initrd", "splash"}) {
    const CommandOutput dumped =
        test::RunTool({"objcopy", "--dump-section", std::string(".") + section + "=" + Path(section),
                       Path("out/EFI/kairos/norole.efi"), Path("ignored")});
    ASSERT_EQ(dumped.exit_code, 0) << dumped.err;
  }
  EXPECT_EQ(ToText(ReadFile(Path("splash")).value()).substr(0, 10), "BM picture");
  const auto manifest = json::parse(Files("out").at("release.json"));
  EXPECT_EQ(manifest.at("sections").count(".splash"), 1u) << "it is not measured";
  const CommandOutput names =
      test::RunTool({"sh", "-c", "zstd -dc \"$0\" 2>/dev/null | cpio -it --quiet", Path("initrd")});
  EXPECT_NE(names.out.find("usr/lib/extra.conf\n"), std::string::npos) << names.out << names.err;
  EXPECT_EQ(names.out.find("\nlib/extra.conf\n"), std::string::npos);
  const CommandOutput motd = test::RunTool(
      {"sh", "-c", "zstd -dc \"$0\" 2>/dev/null | cpio -i --quiet --to-stdout etc/motd", Path("initrd")});
  EXPECT_EQ(motd.out, "from the overlay");
  Write("splash.bmp", "\x89PNG");
  EXPECT_EQ(Build("out", options).exit_code, 2);
}

TEST_F(BuildUkiTest, LoaderOf253KnowsIfSafeAnd252DoesNot) {
  const CommandOutput old = Build("out", {"--secure-boot-enroll", "if-safe"});
  EXPECT_NE(old.err.find("ENROLL_MODE_UNKNOWN"), std::string::npos) << old.err;
  EXPECT_FALSE(std::filesystem::exists(Path("out")));
  os_.Write("usr/lib/systemd/boot/efi/systemd-bootx64.efi", AsText(test::FakeBootLoader("253.1")));
  const CommandOutput built = Build("out", {"--secure-boot-enroll", "if-safe"});
  ASSERT_EQ(built.exit_code, 0) << built.err;
  EXPECT_EQ(Files("out").at("loader/loader.conf"), "timeout 5\neditor no\nsecure-boot-enroll if-safe\n");
}

TEST_F(BuildUkiTest, WrongUseIsToldBeforeAnythingIsBuilt) {
  const std::vector<std::pair<std::vector<std::string>, int>> cases = {
      {{"--secure-boot-enroll", "force"}, 1},
      {{"--extend-cmdline", "a", "--extra-cmdline", "b"}, 2},
      {{"--sdboot-in-source", "--sdboot", "x.efi"}, 2},
      {{"--single-efi-cmdline", "active: a"}, 1},
      {{"--extra-cmdline", "a b", "--extra-cmdline", "a/b"}, 1},
      {{"--unlock-with-extra-cmdline", "nobody"}, 2},
      {{"--allow-finding", "nothing"}, 2},
      {{"--overlay-iso", "/etc"}, 2},
      {{"-t", "iso", "-n", "../x"}, 2},
      {{"--cmdline", "quiet rd.shell"}, 1},
      {{"--cmdline", std::string(2048, 'a')}, 1}};
  for (const auto& [options, exit_code] : cases) {
    const CommandOutput refused = Build("out", options);
    EXPECT_EQ(refused.exit_code, exit_code) << options[0] << ": " << refused.out << refused.err;
    EXPECT_FALSE(std::filesystem::exists(Path("out/release.json"))) << options[0];
  }
}

TEST_F(BuildUkiTest, PreflightListsEverythingWithoutKeysOrOutput) {
  os_.Write("etc/shadow", "root::19000::::::\n");
  Write("node.toml", "join_token = \"x\"\n");
  std::vector<std::string> argv = {
      kSealift,        "build-uki",       "dir:" + os_.path().string(), "--preflight-only",   "-o", "json",
      "--node-config", Path("node.toml"), "--single-efi-cmdline",       "Shell: init=/bin/sh"};
  const CommandOutput report = test::RunTool(argv);
  EXPECT_EQ(report.exit_code, 1) << report.err;
  const json shown = json::parse(report.out);
  EXPECT_FALSE(shown.at("passed").get<bool>());
  std::map<std::string, std::string> severities;
  for (const json& finding : shown.at("findings")) severities[finding.at("name")] = finding.at("severity");
  const std::map<std::string, std::string> expected = {{"cmdline-init", "error"},
                                                       {"machine-id", "warning"},
                                                       {"node-config-join-token", "error"},
                                                       {"root-password", "error"}};
  EXPECT_EQ(severities, expected);
  for (const char* name : {"cmdline-init", "node-config-join-token", "root-password"})
    argv.insert(argv.end(), {"--allow-finding", name});
  const CommandOutput allowed = test::RunTool(argv);
  EXPECT_EQ(allowed.exit_code, 0) << allowed.out;
  EXPECT_TRUE(json::parse(allowed.out).at("passed").get<bool>());
}

TEST_F(BuildUkiTest, SaysHowFarItIsInPlainLinesAndJson) {
  const CommandOutput plain = Build("out");
  ASSERT_EQ(plain.exit_code, 0) << plain.err;
  for (const char* stage : {"read", "pack", "sign norole", "write"})
    EXPECT_NE(plain.err.find(std::string("s  ") + stage + "\n"), std::string::npos)
        << stage << ": " << plain.err;
  EXPECT_EQ(plain.err.find('\r'), std::string::npos);
  const CommandOutput built = Build("out", {"-o", "json"});
  ASSERT_EQ(built.exit_code, 0) << built.err;
  EXPECT_EQ(built.err.find("build-uki:"), std::string::npos) << built.err;
  const json shown = json::parse(built.out);
  EXPECT_EQ(shown.at("type"), "uki");
  EXPECT_EQ(shown.at("out"), Path("out"));
  EXPECT_EQ(shown.at("manifest").at("images").size(), 1u);
  EXPECT_EQ(shown.at("findings").at(0).at("name"), "machine-id");
}

TEST_F(BuildUkiTest, ADiskThatIsFullLeavesNothing) {
  // No file may grow beyond 1 MiB: the UKI does not fit, and the write fails as on a full disk.
  std::vector<std::string> argv = {"sh", "-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "sh"};
  for (const std::string& word : Command("out", {})) argv.push_back(word);
  os_.Write("usr/share/random", AsText(RandomBytes(4u << 20)));
  const CommandOutput refused = test::RunTool(argv);
  EXPECT_EQ(refused.exit_code, 1) << refused.err;
  EXPECT_NE(refused.err.find("FILE_UNWRITABLE"), std::string::npos) << refused.err;
  EXPECT_TRUE(Beside().empty()) << Beside().front();
}

TEST_F(BuildUkiTest, AKilledBuildLeavesNothingUnderTheName) {
  for (int i = 0; i < 6; ++i)
    os_.Write("usr/share/random" + std::to_string(i), AsText(RandomBytes(4u << 20)));
  std::vector<std::string> words = Command("out", {});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, STDERR_FILENO);
    ::dup2(null, STDOUT_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  // As soon as it begins to write.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (Beside().empty() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << "it was too fast to be killed";
  EXPECT_FALSE(std::filesystem::exists(Path("out")));
  ASSERT_EQ(Beside().size(), 1u);
  EXPECT_EQ(Beside().front().rfind(".out.partial-", 0), 0u);
  ASSERT_EQ(Build("out").exit_code, 0);
  EXPECT_EQ(Beside(), std::vector<std::string>{"out"}) << "what the killed build left is still there";
}

}  // namespace
}  // namespace sealift::cli
