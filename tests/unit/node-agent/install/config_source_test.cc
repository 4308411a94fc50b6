#include "node-agent/install/config_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "node-agent/install/medium.h"
#include "shared/base/files.h"
#include "shared/install/config_signature.h"
#include "tests/contract/map_efi_variables.h"

namespace sealift::agent {
namespace {

using testing::HasSubstr;

constexpr std::string_view kText = "install: {auto: true, device: /dev/vda}\n";

class ConfigSourceTest : public testing::Test {
 protected:
  ConfigSourceTest() : signer_(SoftwareSigner::Generate(KeyType::kEcP256).value()) {
    std::filesystem::create_directory(folder_.path() / "medium");
    places_ = {.image = folder_.path() / "image.yaml", .medium = folder_.path() / "medium"};
    Put("image.yaml", "install: {device: auto}\n");
  }
  void Put(const std::string& name, std::string_view text) {
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / name, AsBytes(text)).ok());
  }
  std::string Sign(std::string_view text) { return SignInstallConfiguration(text, *signer_).value(); }
  Result<TrustedConfig> Load() {
    const std::vector<PublicKey> keys{signer_->public_key()};
    return LoadTrustedConfig(places_, keys);
  }
  Reason Why() { return ReasonOf(Load().status()); }

  TempDir folder_ = TempDir::Create("sealift-config").value();
  std::unique_ptr<SoftwareSigner> signer_;
  ConfigPlaces places_;
};

TEST_F(ConfigSourceTest, TheImagesOwnNeedsNoSignature) {
  const auto config = Load();
  ASSERT_TRUE(config.ok()) << Describe(config.status());
  EXPECT_EQ(config->source, "image");
  EXPECT_EQ(config->config.device, "auto");
}

TEST_F(ConfigSourceTest, ASignedOneOnTheMediumComesFirst) {
  Put("medium/install.yaml", kText);
  Put("medium/install.yaml.sig", Sign(kText));
  const auto config = Load();
  ASSERT_TRUE(config.ok()) << Describe(config.status());
  EXPECT_EQ(config->config.device, "/dev/vda");
  EXPECT_EQ(config->source, "medium, signed by " + signer_->public_key().key_id().hex());
  EXPECT_EQ(config->text, kText);
}

// Never a reason to take the image's instead.
TEST_F(ConfigSourceTest, AnythingButAGoodSignatureStops) {
  Put("medium/install.yaml", kText);
  EXPECT_EQ(Why(), Reason::kInstallConfigUnsigned);
  Put("medium/install.yaml.sig", "{}");
  EXPECT_EQ(Why(), Reason::kInstallConfigUnsigned);
  Put("medium/install.yaml.sig", Sign("install: {}\n"));
  EXPECT_EQ(Why(), Reason::kInstallConfigUnsigned);
  const auto other = SoftwareSigner::Generate(KeyType::kEcP256).value();
  Put("medium/install.yaml.sig", SignInstallConfiguration(kText, *other).value());
  EXPECT_EQ(Why(), Reason::kInstallConfigUnsigned);
  std::string changed(kText);
  changed[changed.size() - 3] ^= 1;
  Put("medium/install.yaml", changed);
  Put("medium/install.yaml.sig", Sign(kText));
  EXPECT_EQ(Why(), Reason::kInstallConfigUnsigned);
  std::filesystem::remove(folder_.path() / "medium/install.yaml");
  EXPECT_NE(Why(), Reason::kNone);
}

TEST_F(ConfigSourceTest, WithoutKeysInTheImageNoSignatureIsGood) {
  Put("medium/install.yaml", kText);
  Put("medium/install.yaml.sig", Sign(kText));
  EXPECT_EQ(ReasonOf(LoadTrustedConfig(places_, {}).status()), Reason::kInstallConfigUnsigned);
}

TEST_F(ConfigSourceTest, ANamedFileNeedsItsSignatureToo) {
  Put("mine.yaml", kText);
  places_.named = folder_.path() / "mine.yaml";
  EXPECT_EQ(Why(), Reason::kInstallConfigUnsigned);
  Put("mine.yaml.sig", Sign(kText));
  EXPECT_EQ(Load()->config.device, "/dev/vda");
  EXPECT_EQ(LoadAnyConfig(places_.named)->source, "unsigned");
}

TEST(FindMedium, TakesTheOneVolumeWithItsLabel) {
  const auto cd = FindMedium(
      R"({"blockdevices":[{"path":"/dev/sr0","type":"rom","label":"UKI_ISO_INSTALL","fstype":"iso9660"},
          {"path":"/dev/vda","type":"disk","label":null,"fstype":null}]})");
  ASSERT_TRUE(cd.ok() && cd->has_value());
  EXPECT_EQ((*cd)->disk, "/dev/sr0");
  const auto stick = FindMedium(
      R"({"blockdevices":[{"path":"/dev/sdb","label":"UKI_ISO_INSTALL","fstype":"iso9660",
          "children":[{"path":"/dev/sdb1","label":"UKI_ISO_INSTALL","fstype":"iso9660"}]}]})");
  ASSERT_TRUE(stick.ok() && stick->has_value());
  EXPECT_EQ((*stick)->volume, "/dev/sdb");
  EXPECT_FALSE(FindMedium(R"({"blockdevices":[]})")->has_value());
}

TEST(FindMedium, RefusesToGuessBetweenTwo) {
  const auto both = FindMedium(
      R"({"blockdevices":[{"path":"/dev/sr0","label":"UKI_ISO_INSTALL","fstype":"iso9660"},
          {"path":"/dev/sdb","label":"UKI_ISO_INSTALL","fstype":"iso9660"}]})");
  EXPECT_EQ(ReasonOf(both.status()), Reason::kMediumUnusable);
  EXPECT_EQ(ReasonOf(FindMedium("[]").status()), Reason::kMediumUnusable);
}

TEST(BootedFromMedium, IsWhatTheBootLoaderSelected) {
  MapEfiVariables variables;
  EXPECT_FALSE(*BootedFromMedium(variables));
  variables.SetText("LoaderEntrySelected", kLoaderVendor, "norole.conf");
  EXPECT_TRUE(*BootedFromMedium(variables));
  variables.SetText("LoaderEntrySelected", kLoaderVendor, "active.conf");
  EXPECT_FALSE(*BootedFromMedium(variables));
}

}  // namespace
}  // namespace sealift::agent
