// What is laid over, and what is not, with a mounter that writes down what it is asked for. Images are made
// by hand here, so that no tool is needed; tests/integration/controller/extension has real ones.
#include "node-agent/extension/activation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/efi/signed_data.h"
#include "shared/release/extension_list.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_pki.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

class RecordingMounter final : public Mounter {
 public:
  explicit RecordingMounter(fs::path root) : root_(std::move(root)) {}
  Status MountImage(const fs::path& file, std::uint64_t offset, std::uint64_t bytes,
                    const fs::path& on) override {
    EXPECT_EQ(offset % 4096, 0u);
    EXPECT_EQ(bytes % 4096, 0u);
    names_[on] = file.stem();
    mounted.push_back(file.filename());
    for (const char* folder : {"usr/bin", "etc"}) EXPECT_TRUE(MakeDirectories(on / folder).ok());
    return fail;
  }
  Status Overlay(const std::vector<fs::path>& layers, const fs::path& on, const fs::path& changes) override {
    std::string text = on.lexically_relative(root_).string() + (changes.empty() ? "" : " writable");
    for (const fs::path& one : layers) text += " " + names_.at(one.parent_path());
    overlays.push_back(text);
    return OkStatus();
  }
  std::vector<std::string> mounted;
  std::vector<std::string> overlays;
  Status fail;

 private:
  fs::path root_;
  std::map<fs::path, std::string> names_;
};

class ActivationTest : public testing::Test {
 protected:
  void SetUp() override {
    key_ = test::Issue({.common_name = "extensions"}, nullptr);
    ASSERT_TRUE(MakeDirectories(places_.root / "usr/lib/sealift").ok());
    ASSERT_TRUE(MakeDirectories(places_.images).ok());
    Write(places_.root / "usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
    Write(places_.root / kExtensionCertificatesPath, key_.Pem());
  }
  static void Write(const fs::path& file, std::string_view text) {
    ASSERT_TRUE(WriteFileAtomically(file, AsBytes(text)).ok());
  }
  // A table of three partitions with one block of data, as small as they come.
  static Bytes Image(const std::string& content, const test::TestCertificate& key) {
    Bytes data = ToBytes(content);
    data.resize(4096);
    const Sha256Digest root = Sha256(data);
    ByteWriter superblock(ByteWriter::Endian::kLittle);
    superblock.Raw(AsBytes(std::string_view("verity\0\0", 8)));
    superblock.U32(1);
    superblock.U32(1);
    superblock.Zeros(16);
    superblock.Raw(AsBytes("sha256"));
    superblock.Zeros(26);
    superblock.U32(4096);
    superblock.U32(4096);
    superblock.U64(1);
    superblock.Zeros(4096 - 80);
    const Bytes certificate = efi::CertificatePemToDer(key.Pem()).value();
    const std::string hex = root.hex();
    const std::array<ByteView, 1> message = {AsBytes(hex)};
    constexpr std::array<std::uint8_t, 9> kData = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01};
    const Bytes pkcs7 = efi::BuildSignedData({.content_type = kData,
                                              .content = {},
                                              .message = message,
                                              .content_info = true,
                                              .certificate = certificate,
                                              .intent = "test",
                                              .signer_kind = efi::SignerKind::kRsaOrP256},
                                             *key.key)
                            .value();
    Bytes signature = ToBytes(ddi::FormatVeritySignature(root, certificate, pkcs7));
    signature.resize(8192);
    const ddi::PartitionIds ids = ddi::IdsOf(root);
    ByteWriter image(ByteWriter::Endian::kLittle);
    image.Zeros(512);
    image.Raw(AsBytes("EFI PART"));
    image.Zeros(64);
    image.U64(2);
    image.U32(3);
    image.U32(128);
    image.Zeros(1024 - image.size());
    const auto entry = [&image](const efi::Guid& type, const efi::Guid& id, std::uint64_t first,
                                std::uint64_t sectors) {
      image.Raw(type.view());
      image.Raw(id.view());
      image.U64(first);
      image.U64(first + sectors - 1);
      image.Zeros(80);
    };
    entry(ddi::kRootX86, ids.data, 8, 8);
    entry(ddi::kRootX86Verity, ids.hashes, 16, 8);
    entry(ddi::kRootX86VeritySignature, efi::kCertX509, 24, 16);
    image.Zeros(4096 - image.size());
    image.Raw(data);
    image.Raw(superblock.bytes());
    image.Raw(signature);
    return std::move(image).Finish();
  }
  ListedExtension Put(const std::string& name, const Bytes& image) {
    EXPECT_TRUE(WriteFileAtomically(places_.images / (name + ".raw"), image).ok());
    return {.name = name,
            .version = "1",
            .digest = Sha256(image),
            .size = image.size(),
            .root_hash = Sha256(ByteView(image).subspan(4096, 4096)),
            .os_id = "debian",
            .os_version_id = "12"};
  }
  void List(const std::vector<ListedExtension>& list) {
    Write(places_.root / kExtensionListPath, FormatExtensionList(list));
  }
  // "name REASON" of each refused.
  std::vector<std::string> Refused() {
    const auto activation = ActivateExtensions(places_, mounter_);
    EXPECT_TRUE(activation.ok()) << activation.status();
    std::vector<std::string> refused;
    if (activation.ok()) {
      for (const RefusedExtension& one : activation->refused)
        refused.push_back(one.name + " " + std::string(ReasonIdOf(one.why)));
    }
    return refused;
  }

  TempDir folder_ = TempDir::Create("activation").value();
  ActivationPlaces places_{.root = folder_.path() / "root",
                           .images = folder_.path() / "extra",
                           .configurations = folder_.path() / "confext",
                           .mounts = folder_.path() / "mounts"};
  RecordingMounter mounter_{places_.root};
  test::TestCertificate key_;
};

TEST_F(ActivationTest, ListedOnesAreLaidOverTogether) {
  List({Put("tools", Image("one", key_)), Put("more", Image("two", key_))});
  EXPECT_THAT(Refused(), IsEmpty());
  EXPECT_THAT(mounter_.mounted, ElementsAre("more.raw", "tools.raw"));
  EXPECT_THAT(mounter_.overlays, ElementsAre("usr tools more"));
}

TEST_F(ActivationTest, ConfigurationGoesOverEtcAndNothingElseDoes) {
  ASSERT_TRUE(MakeDirectories(places_.configurations).ok());
  const ListedExtension tools = Put("tools", Image("one", key_));
  const Bytes image = Image("two", key_);
  const auto place = [&](const fs::path& folder, const std::string& file) {
    ASSERT_TRUE(WriteFileAtomically(folder / file, image).ok());
  };
  ListedExtension site = Put("site", image);
  fs::remove(places_.images / "site.raw");
  site.kind = ExtensionKind::kConfiguration;
  List({tools, site});
  place(places_.configurations, "site.confext.raw");
  EXPECT_THAT(Refused(), IsEmpty());
  EXPECT_THAT(mounter_.mounted, ElementsAre("tools.raw", "site.confext.raw"));
  EXPECT_THAT(mounter_.overlays, ElementsAre("etc writable site.confext", "usr tools"));

  // The same file where an older stub puts it, or under the other kind's name.
  mounter_.mounted.clear();
  fs::remove(places_.configurations / "site.confext.raw");
  place(places_.images, "site.confext.raw");
  EXPECT_THAT(Refused(), ElementsAre("site.confext.raw EXTENSION_NOT_LISTED", "site EXTENSION_INVALID"));
  fs::remove(places_.images / "site.confext.raw");
  place(places_.configurations, "site.raw");
  EXPECT_THAT(Refused(), ElementsAre("site.raw EXTENSION_NOT_LISTED", "site EXTENSION_INVALID"));
  EXPECT_THAT(mounter_.mounted, ElementsAre("tools.raw", "tools.raw"));
}

TEST_F(ActivationTest, WithoutAListNothingIsMounted) {
  Put("tools", Image("one", key_));
  EXPECT_THAT(Refused(), ElementsAre("tools.raw EXTENSION_NOT_LISTED"));
  EXPECT_THAT(mounter_.mounted, IsEmpty());
  fs::remove_all(places_.images);
  EXPECT_THAT(Refused(), IsEmpty());
}

TEST_F(ActivationTest, OnePutBesideTheImageByForceIsRefusedAndTheOthersWork) {
  const ListedExtension good = Put("good", Image("one", key_));
  List({good});
  const auto stranger = test::Issue({.common_name = "extensions"}, nullptr);
  Put("foreign", Image("two", stranger));
  Put("older", Image("three", key_));
  EXPECT_THAT(Refused(), ElementsAre("foreign.raw EXTENSION_NOT_LISTED", "older.raw EXTENSION_NOT_LISTED"));
  EXPECT_THAT(mounter_.mounted, ElementsAre("good.raw"));
}

TEST_F(ActivationTest, UnderAListedNameOnlyThatFileCounts) {
  const ListedExtension listed = Put("tools", Image("one", key_));
  List({listed});
  // Signed by the fleet, and another one.
  Put("tools", Image("an older version", key_));
  EXPECT_THAT(Refused(), ElementsAre("tools.raw EXTENSION_NOT_LISTED"));
  const auto stranger = test::Issue({.common_name = "extensions"}, nullptr);
  Put("tools", Image("one", stranger));
  EXPECT_THAT(Refused(), ElementsAre("tools.raw EXTENSION_SIGNATURE_INVALID"));
  Bytes damaged = Image("one", key_);
  damaged[4096] ^= 1;
  Put("tools", damaged);
  EXPECT_THAT(Refused(), ElementsAre("tools.raw EXTENSION_SIGNATURE_INVALID"));
  ASSERT_TRUE(WriteFileAtomically(places_.images / "tools.raw", Bytes(100)).ok());
  EXPECT_THAT(Refused(), ElementsAre("tools.raw EXTENSION_INVALID"));
  // Bytes behind the table change the file and nothing that is signed.
  Bytes longer = Image("one", key_);
  longer.resize(longer.size() + 512);
  Put("tools", longer);
  EXPECT_THAT(Refused(), ElementsAre("tools.raw EXTENSION_NOT_LISTED"));
  fs::remove(places_.images / "tools.raw");
  EXPECT_THAT(Refused(), ElementsAre("tools EXTENSION_INVALID"));
  fs::create_symlink("/etc/passwd", places_.images / "tools.raw");
  EXPECT_EQ(Refused().size(), 1u);
  EXPECT_THAT(mounter_.mounted, IsEmpty());
  EXPECT_THAT(mounter_.overlays, IsEmpty());
}

TEST_F(ActivationTest, AnotherOsIsRefused) {
  ListedExtension listed = Put("tools", Image("one", key_));
  listed.os_version_id = "13";
  List({listed});
  EXPECT_THAT(Refused(), ElementsAre("tools.raw EXTENSION_INVALID"));
}

TEST_F(ActivationTest, ADamagedListOrAMountThatFailsIsAnError) {
  List({Put("tools", Image("one", key_))});
  mounter_.fail = MakeError(Code::kFailedPrecondition, Reason::kToolFailed, "mount: no");
  EXPECT_EQ(ReasonOf(ActivateExtensions(places_, mounter_).status()), Reason::kToolFailed);
  EXPECT_THAT(mounter_.overlays, IsEmpty());
  Write(places_.root / kExtensionListPath, "{");
  EXPECT_EQ(ReasonOf(ActivateExtensions(places_, mounter_).status()), Reason::kExtensionInvalid);
}

}  // namespace
}  // namespace sealift::agent
