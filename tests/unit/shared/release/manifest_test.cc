#include "shared/release/manifest.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "shared/crypto/hash.h"

namespace sealift {
namespace {

using nlohmann::json;

Manifest Sample() {
  Manifest manifest;
  manifest.channel = "stable";
  manifest.version = "1.2.0";
  manifest.minimum_agent_version = "0.1.0";
  manifest.hardware_class = "generic-x86_64";
  manifest.security_epoch = 3;
  manifest.built = FromUnixMs(1700000000123);
  manifest.files = {
      {"EFI/BOOT/BOOTX64.EFI", FileRole::kBootLoader, Sha256(AsBytes("boot")), 4, Sha256(AsBytes("b"))},
      {"EFI/kairos/norole.efi", FileRole::kUki, Sha256(AsBytes("uki")), 3, Sha256(AsBytes("u"))},
      {"loader/loader.conf", FileRole::kLoaderConf, Sha256(AsBytes("conf")), 4, std::nullopt}};
  manifest.pcr11 = {
      {"", Sha256(AsBytes("0"))}, {"sysinit", Sha256(AsBytes("1"))}, {"sysinit:ready", Sha256(AsBytes("2"))}};
  manifest.sections = {{".linux", Sha256(AsBytes("linux"))}, {".initrd", Sha256(AsBytes("initrd"))}};
  ImageMeasurements main{.path = "EFI/kairos/norole.efi",
                         .command_line = "quiet",
                         .sections = manifest.sections,
                         .pcr11 = manifest.pcr11,
                         .pcr11_sha384 = {{"", Sha384(AsBytes("0"))}, {"sysinit", Sha384(AsBytes("1"))}},
                         .pcr4 = {.boot_loader = Sha256(AsBytes("b")),
                                  .uki = Sha256(AsBytes("u")),
                                  .kernel = Sha256(AsBytes("k"))},
                         .pcr12 = {{"addon-a", Sha256(AsBytes("addon"))}}};
  ImageMeasurements further{.path = main.path, .profile = 1, .command_line = "debug", .pcr4 = main.pcr4};
  manifest.images = {main, further};
  manifest.stub_version = "252.39-1~deb12u2";
  manifest.secure_boot_certificates = {Sha256(AsBytes("db"))};
  manifest.pcr_keys = {Sha256(AsBytes("pcr-1")), Sha256(AsBytes("pcr-2"))};
  return manifest;
}

json SampleJson() { return json::parse(SerializeManifest(Sample())); }

TEST(Manifest, SurvivesSerialisationToTheByte) {
  const std::string text = SerializeManifest(Sample());
  const Result<Manifest> parsed = ParseManifest(text);
  ASSERT_TRUE(parsed.ok()) << Describe(parsed.status());
  EXPECT_EQ(SerializeManifest(*parsed), text);
  EXPECT_EQ(parsed->files.at(0).authenticode, Sha256(AsBytes("b")));
  EXPECT_EQ(parsed->FinalPcr11().value(), Sha256(AsBytes("2")));
  EXPECT_EQ(parsed->OnlyFile(FileRole::kUki)->path, "EFI/kairos/norole.efi");
  EXPECT_EQ(ReleaseIdOf(text).digest, Sha256(AsBytes(text)));
  ASSERT_EQ(parsed->images.size(), 2u);
  EXPECT_EQ(parsed->images[0].pcr11_sha384.at("sysinit"), Sha384(AsBytes("1")));
  EXPECT_EQ(parsed->images[0].pcr4.kernel, Sha256(AsBytes("k")));
  EXPECT_EQ(parsed->images[0].pcr12.at(0).description, "addon-a");
  EXPECT_EQ(parsed->images[1].profile, 1u);
  EXPECT_EQ(parsed->images[1].command_line, "debug");
}

TEST(Manifest, OfSeveralUkisTheFirstImageIsTheOneNodesStage) {
  Manifest manifest = Sample();
  manifest.files.push_back({"EFI/kairos/debug.efi", FileRole::kUki, {}, 1, std::nullopt});
  manifest.images.push_back({.path = "EFI/kairos/debug.efi", .command_line = "debug"});
  const Result<Manifest> parsed = ParseManifest(SerializeManifest(manifest));
  ASSERT_TRUE(parsed.ok()) << Describe(parsed.status());
  EXPECT_EQ(parsed->OnlyFile(FileRole::kUki)->path, "EFI/kairos/norole.efi");
}

TEST(Manifest, AnImageIsListedForEachDeviceTreeThatItsStubMayTake) {
  Manifest manifest = Sample();
  ImageMeasurements other = manifest.images[0];
  other.sections[".dtbauto"] = Sha256(AsBytes("tree"));
  manifest.images.push_back(other);
  EXPECT_TRUE(ParseManifest(SerializeManifest(manifest)).ok());
  manifest.images.push_back(other);
  EXPECT_FALSE(ParseManifest(SerializeManifest(manifest)).ok());
}

TEST(Manifest, ReleasesOfOlderBuildersHaveNoImages) {
  json value = SampleJson();
  value.erase("images");
  const Result<Manifest> parsed = ParseManifest(value.dump());
  ASSERT_TRUE(parsed.ok()) << Describe(parsed.status());
  EXPECT_TRUE(parsed->images.empty());
  EXPECT_EQ(SerializeManifest(*parsed), value.dump());
}

TEST(Manifest, IsCompactJsonWithSortedKeys) {
  const std::string text = SerializeManifest(Sample());
  EXPECT_TRUE(text.starts_with(
      R"({"built_unix_ms":1700000000123,"channel":"stable","files":[{"authenticode_sha256":)"))
      << text;
  EXPECT_EQ(text.find_first_of(" \n\t"), std::string::npos);
}

TEST(Manifest, NamesTargetsByChannelAndVersion) {
  EXPECT_EQ(ManifestTargetName("stable", "1.2.0"), "stable/1.2.0/manifest.json");
  EXPECT_EQ(FileTargetName("stable", "1.2.0", "loader/loader.conf"), "stable/1.2.0/loader/loader.conf");
}

TEST(Manifest, AllowsUnknownKeysAndAnUnsetChannel) {
  json value = SampleJson();
  value["sbom"] = "sha256:00";
  value["channel"] = "";
  EXPECT_TRUE(ParseManifest(value.dump()).ok());
}

TEST(Manifest, MissingOrDoubledRoleIsNotFound) {
  Manifest manifest = Sample();
  EXPECT_EQ(ReasonOf(manifest.OnlyFile(FileRole::kEnrolmentKey).status()), Reason::kReleaseFileMissing);
  manifest.images.clear();
  manifest.files.push_back({"EFI/kairos/extra.efi", FileRole::kUki, {}, 1, std::nullopt});
  EXPECT_EQ(ReasonOf(manifest.OnlyFile(FileRole::kUki).status()), Reason::kReleaseFileMissing);
}

TEST(Manifest, EveryKeyIsRequired) {
  const json whole = SampleJson();
  for (const auto& [key, value] : whole.items()) {
    json without = whole;
    without.erase(key);
    // Older builders wrote none.
    if (key != "images") {
      EXPECT_EQ(ReasonOf(ParseManifest(without.dump()).status()), Reason::kReleaseManifestInvalid) << key;
    }
    json other = whole;
    other[key] = json::array({json::object()});
    EXPECT_EQ(ReasonOf(ParseManifest(other.dump()).status()), Reason::kReleaseManifestInvalid) << key;
  }
}

TEST(Manifest, RefusesUnsafePaths) {
  for (const char* path : {"", "/EFI/a", "EFI//a", "EFI/a/", "..", "EFI/../a", "./a", "EFI\\a", "EFI/a b",
                           "EFI/a:b", "EFI/\n", "manifest.json", "MANIFEST.json"}) {
    json value = SampleJson();
    value["files"][0]["path"] = path;
    EXPECT_EQ(ReasonOf(ParseManifest(value.dump()).status()), Reason::kReleaseManifestInvalid) << path;
  }
}

TEST(Manifest, RefusesPathsThatFatHoldsToBeOne) {
  json value = SampleJson();
  value["files"][0]["path"] = "efi/KAIROS/norole.efi";
  EXPECT_EQ(ReasonOf(ParseManifest(value.dump()).status()), Reason::kReleaseManifestInvalid);
}

TEST(Manifest, RefusesWrongValues) {
  const std::vector<std::pair<const char*, json>> cases = {
      {"/schema_version", 2},
      {"/channel", "a/b"},
      {"/channel", "../x"},
      {"/version", "-1"},
      {"/version", ""},
      {"/minimum_agent_version", "a b"},
      {"/hardware_class", ""},
      {"/security_epoch", -1},
      {"/built_unix_ms", 1.5},
      {"/files/0/role", "kernel"},
      {"/files/0/sha256", "00"},
      {"/files/0/size", -1},
      {"/files/0/authenticode_sha256", 7},
      {"/pcr11/1/phase", ""},
      {"/pcr11/1/phase", "a b"},
      {"/pcr11/0/pcr11", std::string(64, 'A')},
      {"/sections", json{{"linux", std::string(64, '0')}}},
      {"/sections/.linux", "no"},
      {"/pcr_keys", json::array({1})},
      {"/secure_boot_certificates", json::array({"x"})},
      {"/images/0/path", "EFI/BOOT/BOOTX64.EFI"},
      {"/images/0/path", "EFI/kairos/other.efi"},
      {"/images/0/pcr11/0/pcr11", std::string(64, '0')},
      {"/images/0/sections/.linux", std::string(64, '0')},
      {"/images/0/command_line", "a\nb"},
      {"/images/0/command_line", std::string(2048, 'a')},
      {"/images/0/pcr4", json::object()},
      {"/images/0/pcr4/kernel", "00"},
      {"/images/0/pcr11_sha384/sysinit", std::string(64, '0')},
      {"/images/0/pcr12/0/sha256", "00"},
      {"/images/0/pcr12/0/description", "a\n"},
      {"/images/1/profile", 256},
      {"/images/1/profile", 0},
      {"/images/1", SampleJson()["images"][0]},
      {"/stub_version", "252\n"}};
  for (const auto& [pointer, wrong] : cases) {
    json value = SampleJson();
    value[json::json_pointer(pointer)] = wrong;
    EXPECT_EQ(ReasonOf(ParseManifest(value.dump()).status()), Reason::kReleaseManifestInvalid)
        << pointer << " " << wrong;
  }
}

TEST(Manifest, RefusesWhatIsNotOneJsonObject) {
  EXPECT_FALSE(ParseManifest("").ok());
  EXPECT_FALSE(ParseManifest("[]").ok());
  EXPECT_FALSE(ParseManifest(SerializeManifest(Sample()) + "x").ok());
  std::string twice = SerializeManifest(Sample());
  twice.insert(1, R"("version":"9.9.9",)");
  EXPECT_EQ(ReasonOf(ParseManifest(twice).status()), Reason::kReleaseManifestInvalid);
  EXPECT_FALSE(ParseManifest(std::string((1u << 20) + 1, ' ')).ok());
  EXPECT_FALSE(ParseManifest(std::string(100000, '[')).ok());
}

}  // namespace
}  // namespace sealift
