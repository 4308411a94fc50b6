// `inspect release` and `inspect iso`, on what build-uki wrote and on what became of it.
#include "tests/integration/controller/cli/build_fixture.h"

namespace sealift::cli {
namespace {

using nlohmann::json;
using test::RunTool;

class InspectMediaTest : public BuildFixture {
 protected:
  static CommandOutput Inspect(const std::string& kind, const std::string& path) {
    return RunTool({kSealift, "inspect", kind, path, "-o", "json"});
  }
  static std::map<std::string, std::string> States(const json& shown) {
    std::map<std::string, std::string> states;
    for (const json& file : shown.at("files"))
      if (file.at("state") != "ok") states[file.at("path")] = file.at("state");
    return states;
  }
  void Flip(const std::string& name, std::size_t at) const {
    Bytes bytes = ReadFile(Path(name), 1u << 30).value();
    bytes.at(at) ^= 1;
    ASSERT_TRUE(WriteFileAtomically(Path(name), bytes).ok());
  }
};

TEST_F(InspectMediaTest, AReleaseIsAsItsManifestSaysUntilSomethingChanges) {
  ASSERT_EQ(Build("out", {"--extra-cmdline", "a=1"}).exit_code, 0);
  const CommandOutput good = Inspect("release", Path("out"));
  ASSERT_EQ(good.exit_code, 0) << good.out << good.err;
  const json shown = json::parse(good.out);
  EXPECT_TRUE(shown.at("verified").get<bool>());
  EXPECT_EQ(shown.at("release").at("version"), "1.2");
  const CommandOutput id = RunTool({"sha256sum", Path("out/release.json")});
  EXPECT_EQ(shown.at("release").at("id"), id.out.substr(0, 64));
  EXPECT_EQ(shown.at("images").size(), 2u);
  EXPECT_EQ(shown.at("images").at(1).at("path"), "EFI/kairos/norole_a_1.efi");
  EXPECT_EQ(shown.at("images").at(0).at("pcr11").size(), 3u);

  Flip("out/EFI/kairos/norole.efi", 5000);
  std::filesystem::remove(Path("out/loader/loader.conf"));
  Write("out/EFI/kairos/evil.efi", "x");
  Write("out/loader/entries/norole.conf", "title Kairos\nefi /EFI/kairos/evil.efi\n");
  const CommandOutput bad = Inspect("release", Path("out"));
  EXPECT_EQ(bad.exit_code, 1) << bad.err;
  const json changed = json::parse(bad.out);
  const std::map<std::string, std::string> expected = {{"EFI/kairos/norole.efi", "digest"},
                                                       {"loader/entries/norole.conf", "size"},
                                                       {"loader/loader.conf", "missing"}};
  EXPECT_EQ(States(changed), expected);
  EXPECT_EQ(changed.at("unlisted"), json({"EFI/kairos/evil.efi"}));
}

TEST_F(InspectMediaTest, AManifestThatLiesAboutMeasurementsIsFoundOut) {
  ASSERT_EQ(Build("out").exit_code, 0);
  const std::string text = ToText(ReadFile(Path("out/release.json")).value());
  const auto state_of = [&](const json& manifest) {
    Write("out/release.json", manifest.dump());
    const CommandOutput shown = Inspect("release", Path("out"));
    EXPECT_EQ(shown.exit_code, 1) << shown.out;
    return States(json::parse(shown.out))["EFI/kairos/norole.efi"];
  };
  // What is said twice is said twice the same.
  const auto state_with = [&](const std::string& pointer) {
    json manifest = json::parse(text);
    manifest[json::json_pointer(pointer)] = std::string(64, '0');
    if (!pointer.starts_with("/images/"))
      manifest[json::json_pointer("/images/0" + pointer)] = std::string(64, '0');
    return state_of(manifest);
  };
  EXPECT_EQ(state_with("/images/0/pcr4/uki"), "authenticode");
  EXPECT_EQ(state_with("/sections/.cmdline"), "sections");
  EXPECT_EQ(state_with("/sections/.initrd"), "sections");
  for (const char* phase : {"0", "1", "2"})
    EXPECT_EQ(state_with(std::string("/pcr11/") + phase + "/pcr11"), "pcr11") << phase;
  // Of a section that is not listed nobody would say that it changed.
  json fewer = json::parse(text);
  for (const char* place : {"/sections", "/images/0/sections"})
    fewer[json::json_pointer(place)].erase(".cmdline");
  EXPECT_EQ(state_of(fewer), "sections");
  json other_stub = json::parse(text);
  other_stub["stub_version"] = "257.1";
  EXPECT_EQ(state_of(other_stub), "sections");
}

// As ukify 257.0 to 257.2 wrote .linux.
TEST_F(InspectMediaTest, ASectionLongerInMemoryIsWellFormedButNotPredicted) {
  ASSERT_EQ(Build("out").exit_code, 0);
  const std::string path = Path("out/EFI/kairos/norole.efi");
  std::string image = ToText(ReadFile(path).value());
  const std::size_t header = image.find(std::string(".linux\0\0", 8));
  ASSERT_NE(header, std::string::npos);
  image[header + 9] = static_cast<char>(image[header + 9] + 0x10);  // VirtualSize, by 4 KiB
  ASSERT_TRUE(WriteFileAtomically(path, AsBytes(image)).ok());
  const CommandOutput output = Inspect("pe", path);
  EXPECT_EQ(output.exit_code, 0) << output.out << output.err;
  const json shown = json::parse(output.out);
  EXPECT_NE(shown.at("problem").get<std::string>().find(".linux"), std::string::npos) << output.out;
  EXPECT_FALSE(shown.contains("pcr11")) << output.out;
}

TEST_F(InspectMediaTest, WhatCannotBeReadIsNoVerdict) {
  EXPECT_EQ(Inspect("release", Path("nothing")).exit_code, 2);
  EXPECT_EQ(Inspect("iso", Path("nothing")).exit_code, 2);
  EXPECT_EQ(RunTool({kSealift, "inspect", "iso"}).exit_code, 2);
  Write("text", "no ISO");
  EXPECT_EQ(Inspect("iso", Path("text")).exit_code, 1);
  Write("bad/release.json", "{}");
  EXPECT_EQ(Inspect("release", Path("bad")).exit_code, 1);
}

TEST_F(InspectMediaTest, AnIsoShowsHowItBootsAndWhatIsOnIt) {
  SEALIFT_NEED_TOOL("xorriso");
  SEALIFT_NEED_TOOL("mcopy");
  ASSERT_EQ(Build("out", {"-t", "iso"}).exit_code, 0);
  const std::string iso = Path("out/kairos_1.2.iso");
  const CommandOutput good = Inspect("iso", iso);
  ASSERT_EQ(good.exit_code, 0) << good.out << good.err;
  const json shown = json::parse(good.out);
  EXPECT_EQ(shown.at("volume_id"), "UKI_ISO_INSTALL");
  EXPECT_TRUE(shown.at("boots_as_cd").get<bool>() && shown.at("boots_as_disk").get<bool>());
  EXPECT_TRUE(shown.at("same_partition").get<bool>());
  EXPECT_EQ(shown.at("release").at("version"), "1.2");
  EXPECT_TRUE(shown.at("verified").get<bool>());
  const CommandOutput blocks = RunTool({"xorriso", "-indev", iso, "-pvd_info"});
  EXPECT_NE(blocks.out.find("Volume Id    : " + shown.at("volume_id").get<std::string>()), std::string::npos);

  // Somebody puts a file beside the copies of the keys.
  const std::string drive =
      iso + "@@" + std::to_string(shown.at("boot_images").at(0).at("offset").get<std::size_t>());
  Write("evil.efi", "MZ evil");
  ASSERT_EQ(RunTool({"mcopy", "-i", drive, Path("evil.efi"), "::/keys/evil.efi"}).exit_code, 0);
  EXPECT_EQ(json::parse(Inspect("iso", iso).out).at("unlisted"), json({"keys/evil.efi"}));
  ASSERT_EQ(RunTool({"mdel", "-i", drive, "::/keys/evil.efi"}).exit_code, 0);

  // Somebody puts another boot loader on the medium.
  ASSERT_EQ(RunTool({"mcopy", "-D", "o", "-i", drive, Path("evil.efi"), "::/EFI/BOOT/BOOTX64.EFI"}).exit_code,
            0);
  const CommandOutput bad = Inspect("iso", iso);
  EXPECT_EQ(bad.exit_code, 1) << bad.out;
  EXPECT_EQ(States(json::parse(bad.out)),
            (std::map<std::string, std::string>{{"EFI/BOOT/BOOTX64.EFI", "size"}}));

  // Cut off.
  std::filesystem::resize_file(iso, 40u << 20);
  EXPECT_EQ(Inspect("iso", iso).exit_code, 1);
}

TEST_F(InspectMediaTest, AnIsoOfOthersIsNoRelease) {
  SEALIFT_NEED_TOOL("xorriso");
  Write("files/hello", "hello");
  ASSERT_EQ(
      RunTool({"xorriso", "-as", "mkisofs", "-quiet", "-V", "OTHER", "-o", Path("other.iso"), Path("files")})
          .exit_code,
      0);
  const CommandOutput other = Inspect("iso", Path("other.iso"));
  ASSERT_EQ(other.exit_code, 0) << other.out;
  const json shown = json::parse(other.out);
  EXPECT_EQ(shown.at("volume_id"), "OTHER");
  EXPECT_FALSE(shown.at("boots_as_cd").get<bool>());
  EXPECT_TRUE(shown.at("release").is_null());
}

}  // namespace
}  // namespace sealift::cli
