// Extensions in a release: listed inside the image, beside it, and measured.
#include <gtest/gtest.h>

#include "controller/build/extension_bundle.h"
#include "controller/build/release_builder.h"
#include "controller/extension/extension_builder.h"
#include "shared/efi/signed_data.h"
#include "tests/support/os_tree.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_pki.h"
#include "tests/support/tools.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;
using test::ReasonIdFrom;

class BundleTest : public testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOL("mksquashfs");
    SEALIFT_NEED_TOOL("veritysetup");
    SEALIFT_NEED_TOOL("unsquashfs");
    key_ = test::Issue({.common_name = "extensions"}, nullptr);
    os_.Write("usr/lib/systemd/system/sealift-extensions.service", "[Service]");
    ASSERT_TRUE(MakeDirectories(folder_.path() / "tree/usr/bin").ok());
    ASSERT_TRUE(WriteFileAtomically(folder_.path() / "tree/usr/bin/tool", AsBytes("tool")).ok());
  }
  static Bytes Der(const test::TestCertificate& certificate) {
    return efi::CertificatePemToDer(certificate.Pem()).value();
  }
  fs::path Extension(const std::string& name, const std::string& os_version, const test::TestCertificate& key,
                     ExtensionKind kind = ExtensionKind::kSystem) {
    const bool system = kind == ExtensionKind::kSystem;
    const fs::path out = folder_.path() / os_version / (name + (system ? ".raw" : ".confext.raw"));
    EXPECT_TRUE(MakeDirectories(out.parent_path()).ok());
    const auto built = extension::BuildExtension({.kind = kind,
                                                  .source = folder_.path() / (system ? "tree" : "settings"),
                                                  .name = name,
                                                  .version = "1",
                                                  .os_id = "test",
                                                  .os_version_id = os_version,
                                                  .out = out,
                                                  .built = FromUnixMs(1'700'000'000'000)},
                                                 *key.key, Der(key));
    EXPECT_TRUE(built.ok()) << built.status();
    return out;
  }
  Result<BuiltRelease> Build(const std::vector<fs::path>& extensions, const fs::path& stub = {}) {
    ReleaseKeys keys = set_.Keys();
    keys.extension_certificates = {Der(key_)};
    return BuildRelease({.source = "dir:" + os_.path().string(),
                         .out = folder_.path() / "out",
                         .stub = stub,
                         .command_line = "console=ttyS0",
                         .menu = {.extra = {"debug"}},
                         .extensions = extensions,
                         .zstd_level = 1,
                         .built = FromUnixMs(1'700'000'000'000)},
                        keys, {});
  }

  TempDir folder_ = TempDir::Create("bundle").value();
  test::OsTree os_;
  test::ReleaseKeySet set_;
  test::TestCertificate key_;
};

TEST_F(BundleTest, EveryImageHasThemBesideItListedInsideAndMeasured) {
  const fs::path more = Extension("more", "1.2", key_);
  const fs::path tools = Extension("tools", "1.2", key_);
  const auto built = Build({tools, more});
  ASSERT_TRUE(built.ok()) << built.status();
  int beside = 0;
  for (const ReleaseFile& file : built->manifest.files) {
    if (file.role != FileRole::kExtension) continue;
    ++beside;
    const fs::path original = fs::path(file.path).stem() == "tools" ? tools : more;
    EXPECT_EQ(ReadFile(folder_.path() / "out" / file.path).value(), ReadFile(original).value());
  }
  EXPECT_EQ(beside, 4);
  EXPECT_TRUE(fs::exists(folder_.path() / "out/EFI/kairos/norole.efi.extra.d/tools.raw"));
  ASSERT_EQ(built->manifest.images.size(), 2u);
  for (const ImageMeasurements& image : built->manifest.images) EXPECT_EQ(image.pcr13.size(), 1u);
  EXPECT_EQ(built->manifest.images[0].pcr13[0].digest, built->manifest.images[1].pcr13[0].digest);
  const auto back = ParseManifest(SerializeManifest(built->manifest));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->images[0].pcr13[0].digest, built->manifest.images[0].pcr13[0].digest);

  // Without them the tree stays as it is.
  Tree tree = Tree::Read(os_.path()).value();
  const OsRelease os_release = ReadOsRelease(tree).value();
  const std::vector<Bytes> trusted = {Der(key_)};
  const std::vector<fs::path> both = {tools, more};
  const auto bundle = BundleExtensions(both, trusted, os_release, 252, tree);
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_EQ(ParseExtensionList(ToText(tree.ReadFile(kExtensionListPath).value())).value(), bundle->list);
  EXPECT_NE(tree.Find("etc/systemd/system/sysinit.target.wants/sealift-extensions.service"), nullptr);
  Tree plain = Tree::Read(os_.path()).value();
  EXPECT_TRUE(BundleExtensions({}, trusted, os_release, 252, plain)->pcr13.empty());
  EXPECT_EQ(plain.Find(kExtensionListPath), nullptr);
}

TEST_F(BundleTest, ConfigurationGoesIntoRegister12AndNeedsAStubThatKnowsIt) {
  ASSERT_TRUE(MakeDirectories(folder_.path() / "settings/etc/site").ok());
  ASSERT_TRUE(WriteFileAtomically(folder_.path() / "settings/etc/site/conf", AsBytes("a=1\n")).ok());
  const fs::path site = Extension("site", "1.2", key_, ExtensionKind::kConfiguration);
  const fs::path tools = Extension("tools", "1.2", key_);
  const auto refused = Build({tools, site});
  EXPECT_EQ(ReasonIdFrom(refused), "UKI_STUB_UNSUPPORTED");
  EXPECT_NE(MessageOf(refused.status()).find("256"), std::string::npos) << refused.status();
  EXPECT_FALSE(fs::exists(folder_.path() / "out"));

  const fs::path stub = folder_.path() / "stub";
  ASSERT_TRUE(WriteFileAtomically(stub, test::FakeStub("257.9-1~deb13u1")).ok());
  const auto built = Build({tools, site}, stub);
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_TRUE(fs::exists(folder_.path() / "out/EFI/kairos/norole.efi.extra.d/site.confext.raw"));
  EXPECT_TRUE(fs::exists(folder_.path() / "out/EFI/kairos/norole.efi.extra.d/tools.raw"));
  for (const ImageMeasurements& image : built->manifest.images) {
    ASSERT_EQ(image.pcr12.size(), 1u);
    EXPECT_EQ(image.pcr12[0].description, "configuration extensions");
    EXPECT_EQ(image.pcr13.size(), 1u);
  }
  const std::vector<Bytes> trusted = {Der(key_)};
  const auto described = extension::DescribeExtension(site, trusted);
  ASSERT_TRUE(described.ok()) << described.status();
  EXPECT_EQ(described->kind, ExtensionKind::kConfiguration);
  EXPECT_EQ(described->name, "site");
  // A file that is renamed is of the other kind, and then says nothing of itself.
  const fs::path renamed = folder_.path() / "site.raw";
  fs::copy_file(site, renamed);
  EXPECT_EQ(ReasonIdFrom(extension::DescribeExtension(renamed, trusted)), "EXTENSION_INVALID");
}

TEST_F(BundleTest, WhatDoesNotBelongStopsTheBuildAndLeavesNothing) {
  const fs::path tools = Extension("tools", "1.2", key_);
  EXPECT_EQ(ReasonIdFrom(Build({Extension("other-os", "1.3", key_)})), "EXTENSION_INVALID");
  const auto stranger = test::Issue({.common_name = "stranger"}, nullptr);
  EXPECT_EQ(ReasonIdFrom(Build({Extension("foreign", "1.2", stranger)})), "EXTENSION_SIGNATURE_INVALID");
  EXPECT_EQ(ReasonIdFrom(Build({tools, tools})), "EXTENSION_INVALID");
  EXPECT_EQ(ReasonIdFrom(Build({tools, Extension("TOOLS", "1.2", key_)})), "EXTENSION_INVALID");
  EXPECT_EQ(ReasonIdFrom(Build({folder_.path() / "missing.raw"})), "FILE_UNREADABLE");
  os_.Remove("usr/lib/sealift/sealift-agent");
  EXPECT_FALSE(Build({tools}).ok());
  EXPECT_FALSE(fs::exists(folder_.path() / "out"));
}

}  // namespace
}  // namespace sealift::build
