// Sections that `build-uki` is asked for: what is in the image, and systemd-measure on it.
#include "tests/integration/controller/cli/build_fixture.h"
#include "tests/support/debian_13.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

constexpr const char* kStub252 = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
constexpr const char* kMeasure252 = "/usr/lib/systemd/systemd-measure";
constexpr std::string_view kDeviceTreeMagic = "\xd0\x0d\xfe\xed";

class BuildSectionsTest : public BuildFixture {
 protected:
  void SetUp() override {
    BuildFixture::SetUp();
    Write("picture.bmp", "BM picture");
    Write("early.cpio", "070701 microcode");
    for (const char* name : {"any", "a", "b"})
      Write(std::string(name) + ".dtb", std::string(kDeviceTreeMagic) + name);
    Write("ours.csv", "uki.ours,3,Ours,uki,3,https://example.org\n");
    Write("hwids", "ids");
  }
  // As objcopy sees it, in a file.
  std::string Dump(const std::string& section) const {
    const CommandOutput dumped =
        test::RunTool({"objcopy", "--dump-section", "." + section + "=" + Path("part." + section),
                       Path("out/EFI/kairos/norole.efi"), Path("ignored")});
    EXPECT_EQ(dumped.exit_code, 0) << section << ": " << dumped.err;
    return Path("part." + section);
  }
  // Of the first image in every phase and both banks.
  void ExpectMeasured(const std::vector<std::string>& program,
                      const std::vector<std::string>& sections) const {
    const json image = json::parse(Files("out").at("release.json")).at("images").at(0);
    EXPECT_EQ(image.at("pcr11").size(), 3u);
    for (const json& phase : image.at("pcr11")) {
      const std::string name = phase.at("phase");
      std::vector<std::string> argv = program;
      argv.insert(argv.end(), {"calculate", "--bank=sha256", "--bank=sha384", "--phase=" + name});
      for (const std::string& section : sections) argv.push_back("--" + section + "=" + Dump(section));
      const CommandOutput measured = test::RunTool(argv);
      EXPECT_NE(measured.out.find("11:sha256=" + phase.at("pcr11").get<std::string>()), std::string::npos)
          << name << ": " << measured.out << measured.err;
      EXPECT_NE(measured.out.find("11:sha384=" + image.at("pcr11_sha384").at(name).get<std::string>()),
                std::string::npos)
          << name << ": " << measured.out << measured.err;
    }
  }
};

TEST_F(BuildSectionsTest, OnDebian12sStub) {
  SEALIFT_NEED_TOOL("objcopy");
  SEALIFT_NEED_TOOL(kMeasure252);
  SEALIFT_NEED_FILE(kStub252);
  const CommandOutput built = Build(
      "out", {"--stub", kStub252, "--splash", Path("picture.bmp"), "--dtb", Path("any.dtb"), "--sha384"});
  ASSERT_EQ(built.exit_code, 0) << built.err;
  ExpectMeasured({kMeasure252}, {"linux", "osrel", "cmdline", "initrd", "splash", "dtb", "pcrpkey"});
  EXPECT_EQ(ReadTextFile(Dump("uname")).value(), "6.1.0-test");
  const std::string sbat = ReadTextFile(Dump("sbat")).value();
  EXPECT_TRUE(sbat.starts_with("sbat,1,")) << sbat;
  EXPECT_NE(sbat.find("\nsystemd,1,"), std::string::npos) << "the stub's own: " << sbat;
  EXPECT_NE(sbat.find("\nuki,1,"), std::string::npos) << sbat;
  EXPECT_EQ(test::RunTool({SEALIFT_BIN_DIR "/sealift", "inspect", "release", Path("out")}).exit_code, 0);
}

TEST_F(BuildSectionsTest, OnDebian13sStub) {
  SEALIFT_NEED_TOOL("objcopy");
  SEALIFT_NEED_FILE(test::Debian13Stub().c_str());
  const std::string stub = test::Debian13Stub();
  const CommandOutput built =
      Build("out", {"--stub", stub, "--microcode", Path("early.cpio"), "--sbat", Path("ours.csv"),
                    "--dtb-auto", Path("a.dtb"), "--dtb-auto", Path("b.dtb"), "--sha384"});
  ASSERT_EQ(built.exit_code, 0) << built.err;
  ExpectMeasured(test::Debian13Measure(),
                 {"linux", "osrel", "cmdline", "initrd", "ucode", "uname", "sbat", "pcrpkey"});
  EXPECT_EQ(ReadTextFile(Dump("ucode")).value(), "070701 microcode");
  const std::string sbat = ReadTextFile(Dump("sbat")).value();
  EXPECT_NE(sbat.find("\nuki.ours,3,Ours,"), std::string::npos) << sbat;
  EXPECT_EQ(sbat.find("\nuki,1,"), std::string::npos) << sbat;
  // Without a tree and with each.
  EXPECT_EQ(json::parse(Files("out").at("release.json")).at("images").size(), 3u);
  EXPECT_EQ(test::RunTool({SEALIFT_BIN_DIR "/sealift", "inspect", "release", Path("out")}).exit_code, 0);
  const CommandOutput with_ids =
      Build("out", {"--stub", stub, "--dtb-auto", Path("a.dtb"), "--hwids", Path("hwids")});
  ASSERT_EQ(with_ids.exit_code, 0) << with_ids.err;
  EXPECT_EQ(ReadTextFile(Dump("hwids")).value(), "ids");
}

TEST_F(BuildSectionsTest, ProfilesAreMeasuredApartAndOnlyTheImagesOwnUnlocks) {
  Write("stub257", AsText(test::FakeStub("257.9-1~deb13u1")));
  const CommandOutput built =
      Build("out", {"--stub", Path("stub257"), "--uki-profile", "Debug logs: rd.debug", "--uki-profile",
                    "systemd.unit=x.target", "--extra-cmdline", "quiet"});
  ASSERT_EQ(built.exit_code, 0) << built.err;
  const auto files = Files("out");
  const json images = json::parse(files.at("release.json")).at("images");
  ASSERT_EQ(images.size(), 6u);
  const std::string line = images[0].at("command_line");
  EXPECT_EQ(images[1].at("command_line"), line + " rd.debug");
  EXPECT_EQ(images[2].at("command_line"), line + " systemd.unit=x.target");
  EXPECT_EQ(images[3].at("command_line"), line + " quiet");
  EXPECT_EQ(images[4].at("command_line"), line + " quiet rd.debug");
  for (std::size_t i = 0; i < images.size(); ++i) {
    EXPECT_EQ(images[i].value("profile", 0u), i % 3);
    EXPECT_EQ(images[i].at("pcr12").size(), i % 3 == 0 ? 0u : 1u);
  }
  const std::string& image = files.at("EFI/kairos/norole.efi");
  for (const char* text : {"ID=main\nTITLE=Kairos\n", "ID=debug_logs\nTITLE=Debug logs\n",
                           "ID=systemd.unit_x.target\nTITLE=Kairos\n"})
    EXPECT_NE(image.find(text), std::string::npos) << text;
  // One policy section: that of the first profile, in the image that unlocks.
  const auto policies = [](const std::string& bytes) {
    std::size_t count = 0;
    for (std::size_t at = bytes.find("\"sha256\":["); at != std::string::npos;
         at = bytes.find("\"sha256\":[", at + 1))
      ++count;
    return count;
  };
  EXPECT_EQ(policies(image), 1u);
  EXPECT_EQ(policies(files.at("EFI/kairos/norole_quiet.efi")), 0u);
  EXPECT_EQ(test::RunTool({SEALIFT_BIN_DIR "/sealift", "inspect", "release", Path("out")}).exit_code, 0);
  const CommandOutput risky = Build("other", {"--stub", Path("stub257"), "--uki-profile", "Shell: rd.shell"});
  EXPECT_NE(risky.exit_code, 0);
  EXPECT_NE(risky.err.find("PREFLIGHT_FAILED"), std::string::npos) << risky.err;
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{"--uki-profile", "Title:"},
                                             {"--uki-profile", "main: x"},
                                             {"--uki-profile", "A: x", "--uki-profile", "a: y"}}) {
    std::vector<std::string> options = {"--stub", Path("stub257")};
    options.insert(options.end(), wrong.begin(), wrong.end());
    EXPECT_NE(Build("other", options).exit_code, 0) << wrong[1];
  }
}

TEST_F(BuildSectionsTest, WhatTheStubDoesNotKnowIsRefusedInOneSentence) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--microcode", Path("early.cpio")}, ".ucode, which 256 and later do"},
      {{"--dtb-auto", Path("a.dtb")}, ".dtbauto, which 257 and later do"}};
  for (const auto& [options, sentence] : cases) {
    const CommandOutput refused = Build("out", options);
    EXPECT_NE(refused.exit_code, 0) << options[0];
    EXPECT_NE(refused.err.find("take " + options[0] + " '" + options[1]), std::string::npos) << refused.err;
    EXPECT_NE(refused.err.find(sentence), std::string::npos) << refused.err;
    EXPECT_FALSE(std::filesystem::exists(Path("out")));
  }
  const CommandOutput profile = Build("out", {"--uki-profile", "Debug: rd.debug"});
  EXPECT_NE(profile.err.find("take --uki-profile"), std::string::npos) << profile.err;
  EXPECT_NE(profile.err.find(".profile, which 257 and later do"), std::string::npos) << profile.err;
  // No trees that the list could be about.
  EXPECT_EQ(Build("out", {"--hwids", Path("hwids")}).exit_code, 2);
  const CommandOutput help = test::RunTool({SEALIFT_BIN_DIR "/sealift", "build-uki", "--help"});
  for (const char* option : {"--microcode", "--dtb ", "--dtb-auto", "--hwids", "--sbat", "--sha384"})
    EXPECT_NE(help.out.find(option), std::string::npos) << option;
}

}  // namespace
}  // namespace sealift::cli
