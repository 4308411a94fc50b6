// The boot loader of a release comes with its image: checked, never a lower version, one good copy at every
// step.
#include <gtest/gtest.h>

#include "node-agent/esp/boot_options.h"
#include "node-agent/esp/esp_stager.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/signature_list.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_keys.h"
#include "tests/unit/node-agent/esp/esp_fixture.h"

namespace sealift::agent {
namespace {

const efi::Guid kOwner = efi::Guid::Parse("26dc4851-195f-4ae1-9a19-fbf883bbb35e").value();

const test::TestKey& DbKey() {
  static const test::TestKey key = test::MakeTestKey("Sealift Test db");
  return key;
}
const test::TestKey& OtherKey() {
  static const test::TestKey key = test::MakeTestKey("Somebody else");
  return key;
}

Bytes Signed(Bytes image, const test::TestKey& key) {
  return efi::SignImage(std::move(image), *key.signer, key.certificate, "test").value().bytes;
}

Bytes Loader(const std::string& version, const std::string& component = "systemd-boot",
             const test::TestKey& key = DbKey()) {
  test::SyntheticPe pe;
  pe.sections = {{".text", "code"},
                 {".sdmagic", fmt::format("#### LoaderInfo: {} {} ####", component, version)}};
  return Signed(pe.Build(), key);
}

Bytes Image() {
  test::SyntheticPe pe;
  pe.sections = {{".osrel", "ID=test\nIMAGE_VERSION=2.0\n"},
                 {".linux", "a kernel"},
                 {".pcrpkey", DbKey().signer->public_key().Pem()}};
  return Signed(pe.Build(), DbKey());
}

class BootLoaderUpdate : public testing::Test {
 protected:
  BootLoaderUpdate() : temp_(TempDir::Create("sealift-loader").value()) {
    const efi::SignatureLists lists = {efi::X509SignatureList(kOwner, DbKey().certificate)};
    node_.variables.Set("db", kImageSecurityVendor, efi::SerializeSignatureLists(lists));
    Install("252.39-1", "252.39-1");
  }
  void Install(const std::string& named, const std::string& fallback) {
    EXPECT_TRUE(node_.fs.MakeDurableDirectory("EFI/BOOT").ok());
    EXPECT_TRUE(node_.fs.MakeDurableDirectory("EFI/systemd").ok());
    node_.PutFile(kFallbackLoader, Loader(fallback));
    node_.PutFile(kNamedLoader, Loader(named));
  }
  ImageExpectations Expected() const {
    return {.version = "2.0",
            .digest = Sha256(image_),
            .size = image_.size(),
            .allowed_pcr_keys = {DbKey().signer->public_key().key_id()},
            .boot_loader = BootLoader{.digest = Sha256(loader_), .size = loader_.size()}};
  }
  Result<VerifiedImage> Verify(const ImageExpectations& expected) {
    const LocalImage local{
        .file = temp_.path() / "image", .companions = {}, .boot_loader = temp_.path() / "loader"};
    EXPECT_TRUE(WriteFileAtomically(local.file, image_).ok());
    EXPECT_TRUE(WriteFileAtomically(local.boot_loader, loader_).ok());
    EspStager stager = node_.Stager();
    return stager.VerifyImage(local, expected);
  }
  Status Upgrade() {
    SEALIFT_ASSIGN_OR_RETURN(const VerifiedImage verified, Verify(Expected()));
    EspStager stager = node_.Stager();
    SEALIFT_ASSIGN_OR_RETURN(const StagedImage staged, stager.Stage(verified));
    return stager.Activate(staged, 3);
  }
  std::string Reason() { return ReasonIdOf(Verify(Expected()).status()); }
  Bytes Installed(std::string_view path) { return node_.fs.Read(path, 1u << 20).value_or(Bytes()); }

  EspNode node_;
  Bytes image_ = Image();
  Bytes loader_ = Loader("252.40-1");
  TempDir temp_;
};

TEST_F(BootLoaderUpdate, ReplacesBothCopiesAndLeavesNothingBehind) {
  ASSERT_TRUE(Upgrade().ok());
  EXPECT_EQ(Installed(kNamedLoader), loader_);
  EXPECT_EQ(Installed(kFallbackLoader), loader_);
  EspStager stager = node_.Stager();
  ASSERT_TRUE(stager.CollectGarbage().ok());
  EXPECT_FALSE(node_.fs.Exists(StagedLoaderPath(Sha256(loader_))));
  EXPECT_TRUE(node_.fs.Exists("loader/entries/active+3.conf"));
}

TEST_F(BootLoaderUpdate, TouchesNothingBeforeTheImageIsArmed) {
  const auto verified = Verify(Expected());
  ASSERT_TRUE(verified.ok()) << verified.status();
  EspStager stager = node_.Stager();
  const auto staged = stager.Stage(*verified);
  ASSERT_TRUE(staged.ok()) << staged.status();
  EXPECT_EQ(staged->boot_loader(), Sha256(loader_));
  EXPECT_EQ(Installed(kFallbackLoader), Loader("252.39-1"));
  EXPECT_EQ(Installed(kNamedLoader), Loader("252.39-1"));
  // Found by a new process, and checked again: what the firmware trusts may have changed.
  EXPECT_EQ(stager.FindStaged(Expected())->boot_loader(), Sha256(loader_));
  ASSERT_TRUE(node_.fs.Remove(StagedLoaderPath(Sha256(loader_))).ok());
  EXPECT_EQ(ReasonIdOf(stager.FindStaged(Expected()).status()), "IMAGE_NOT_STAGED");
}

TEST_F(BootLoaderUpdate, KeepsANewerOne) {
  Install("253.1", "253.1");
  ASSERT_TRUE(Upgrade().ok());
  EXPECT_EQ(Installed(kFallbackLoader), Loader("253.1"));
  EXPECT_EQ(Installed(kNamedLoader), Loader("253.1"));
  EXPECT_TRUE(node_.fs.Exists("loader/entries/active+3.conf"));
}

TEST_F(BootLoaderUpdate, MakesTheSecondCopyWhereThereIsNone) {
  loader_ = Loader("252.39-1");
  ASSERT_TRUE(node_.fs.Remove(kNamedLoader).ok());
  ASSERT_TRUE(Upgrade().ok());
  EXPECT_EQ(Installed(kNamedLoader), loader_);
}

TEST_F(BootLoaderUpdate, WritesNothingWhereBothAreTheReleases) {
  Install("252.40-1", "252.40-1");
  const auto verified = Verify(Expected());
  ASSERT_TRUE(verified.ok());
  EspStager stager = node_.Stager();
  const auto staged = stager.Stage(*verified);
  ASSERT_TRUE(staged.ok());
  EXPECT_FALSE(staged->boot_loader().has_value());
  EXPECT_FALSE(node_.fs.Exists(StagedLoaderPath(Sha256(loader_))));
}

TEST_F(BootLoaderUpdate, RefusesWhatTheFirmwareWouldRefuseOrIsNoBootLoader) {
  EXPECT_EQ(Reason(), "NONE");
  loader_ = Loader("252.40-1", "systemd-boot", OtherKey());
  EXPECT_EQ(Reason(), "IMAGE_SIGNER_UNKNOWN");
  loader_ = Loader("252.40-1", "systemd-stub");
  EXPECT_EQ(Reason(), "IMAGE_MALFORMED");
  loader_ = image_;
  EXPECT_EQ(Reason(), "IMAGE_MALFORMED");
  loader_ = Loader("252.40-1");
  ImageExpectations other = Expected();
  other.boot_loader->authenticode = Sha256(AsBytes("another"));
  EXPECT_EQ(ReasonIdOf(Verify(other).status()), "IMAGE_DIGEST_MISMATCH");
  other = Expected();
  other.boot_loader->digest.bytes[0] ^= 1;
  EXPECT_EQ(ReasonIdOf(Verify(other).status()), "IMAGE_DIGEST_MISMATCH");
}

// At every cut one copy is whole, and doing it again ends well.
TEST_F(BootLoaderUpdate, HasAGoodCopyAtEveryCut) {
  const Bytes old = Loader("252.39-1");
  std::size_t cuts = 0;
  for (const CutMode mode : kAllCutModes) {
    for (std::size_t step = 0;; ++step) {
      SCOPED_TRACE(testing::Message() << "mode " << static_cast<int>(mode) << ", step " << step);
      node_ = EspNode();
      const efi::SignatureLists lists = {efi::X509SignatureList(kOwner, DbKey().certificate)};
      node_.variables.Set("db", kImageSecurityVendor, efi::SerializeSignatureLists(lists));
      Install("252.39-1", "252.39-1");
      node_.fs.CutPowerAt(step);
      const Status cut = Upgrade();
      if (node_.fs.powered()) {
        ASSERT_TRUE(cut.ok()) << cut;
        break;
      }
      ++cuts;
      node_.fs.PowerOn(mode, static_cast<std::uint32_t>(step));
      const auto good = [&](std::string_view path) {
        const Bytes there = Installed(path);
        return there == old || there == loader_;
      };
      EXPECT_TRUE(good(kFallbackLoader) || good(kNamedLoader));
      // A rename over a file that is there leaves one of the two, but in the model that loses every name
      // touched.
      if (mode != CutMode::kTouchedNamesGone) {
        EXPECT_TRUE(good(kFallbackLoader));
      }
      const auto disk = LoadBootEntries(node_.fs);
      ASSERT_TRUE(disk.ok());
      const bool armed = node_.VersionOf("active.conf").empty() && node_.VersionOf("active+3.conf") == "2.0";
      if (armed) continue;
      node_.Boot(node_.VersionOf("active.conf").empty() ? "passive.conf" : "active.conf", "1.0");
      const Status again = Upgrade();
      ASSERT_TRUE(again.ok()) << again;
      EXPECT_EQ(Installed(kFallbackLoader), loader_);
      EXPECT_EQ(Installed(kNamedLoader), loader_);
    }
  }
  EXPECT_GT(cuts, 100u);
}

}  // namespace
}  // namespace sealift::agent
