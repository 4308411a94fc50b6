#include <gtest/gtest.h>
#include <sys/xattr.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "controller/build/node_kit.h"
#include "controller/build/release_builder.h"
#include "shared/uki/pcr_policy.h"
#include "shared/uki/sections.h"
#include "shared/uki/uki_layout.h"
#include "tests/support/frames.h"
#include "tests/support/os_tree.h"
#include "tests/support/status_matchers.h"

namespace sealift::build {
namespace {

using test::OsTree;
using test::ReasonIdFrom;

TEST(NodeKitTest, MakesTheOsRunFromMemory) {
  const OsTree os;
  Tree tree = Tree::Read(os.path()).value();
  const auto remarks = MakeBootable(tree, {.systemd_major = 252,
                                           .kernel_release = "6.1.0-test",
                                           .built = FromUnixMs(1'767'225'600'000),
                                           .security_epoch = 7,
                                           .pcr_keys_pem = "two keys",
                                           .node_config = "a = 1\n"});
  ASSERT_TRUE(remarks.ok()) << remarks.status();
  EXPECT_TRUE(remarks->empty());
  EXPECT_EQ(tree.Find("init")->target, "/usr/lib/systemd/systemd");
  EXPECT_EQ(tree.Find("etc/initrd-release"), nullptr);
  EXPECT_EQ(tree.Find("etc/systemd/system/systemd-sysext.service")->target, "/dev/null");
  EXPECT_TRUE(tree.ReadFile("etc/machine-id")->empty());
  EXPECT_EQ(AsText(tree.ReadFile(kNodeConfigPath).value()), "a = 1\n");
  EXPECT_EQ(AsText(tree.ReadFile(kBuildTimePath).value()), "2026-01-01T00:00:00Z\n");
  EXPECT_EQ(AsText(tree.ReadFile(kEpochPath).value()), "7\n");
  EXPECT_EQ(AsText(tree.ReadFile(kPcrKeysPath).value()), "two keys");
  EXPECT_NE(tree.Find("boot"), nullptr);
  EXPECT_EQ(tree.Find("boot/vmlinuz"), nullptr) << "the kernel travels twice";
  EXPECT_NE(tree.Find("proc"), nullptr);
  // The folder itself is as it was.
  EXPECT_TRUE(std::filesystem::exists(os.path() / "etc/initrd-release"));
  EXPECT_FALSE(std::filesystem::exists(os.path() / "init"));
}

TEST(NodeKitTest, SaysWhatIsMissing) {
  const auto make = [](OsTree& os, unsigned systemd = 252) {
    Tree tree = Tree::Read(os.path()).value();
    return MakeBootable(tree, {.systemd_major = systemd, .kernel_release = "6.1.0-test"});
  };
  OsTree no_systemd;
  no_systemd.Remove("usr/lib/systemd/systemd");
  EXPECT_EQ(ReasonIdFrom(make(no_systemd)), "ROOTFS_UNUSABLE");
  OsTree old;
  old.Remove("usr/lib/systemd/libsystemd-shared-252.so");
  old.Write("usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-249.so", "");
  EXPECT_EQ(ReasonIdFrom(make(old)), "ROOTFS_UNUSABLE");
  OsTree other_modules;
  other_modules.Remove("usr/lib/modules/6.1.0-test");
  other_modules.Write("usr/lib/modules/5.10/modules.dep", "");
  EXPECT_EQ(ReasonIdFrom(make(other_modules)), "ROOTFS_UNUSABLE");
  OsTree no_modules;
  no_modules.Remove("usr/lib/modules");
  EXPECT_EQ(make(no_modules)->size(), 1u);
}

TEST(NodeKitTest, FindsTheKernelAndItsRelease) {
  OsTree os;
  EXPECT_EQ(KernelRelease(ReadKernel(Tree::Read(os.path()).value()).value()), "6.1.0-test");
  os.Remove("boot/vmlinuz");
  EXPECT_EQ(ReasonIdFrom(ReadKernel(Tree::Read(os.path()).value())), "ROOTFS_UNUSABLE");
  os.Write("boot/vmlinuz-6.1", "one");
  EXPECT_TRUE(ReadKernel(Tree::Read(os.path()).value()).ok());
  os.Write("boot/vmlinuz-6.2", "two");
  EXPECT_EQ(ReasonIdFrom(ReadKernel(Tree::Read(os.path()).value())), "ROOTFS_UNUSABLE");
  EXPECT_EQ(KernelRelease(AsBytes("no kernel")), "");
}

class ReleaseTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { keys_ = new test::ReleaseKeySet(); }
  ReleaseOptions Options() const {
    return {.source = "dir:" + os_.path().string(),
            .out = out_.path() / "release",
            .command_line = "quiet",
            .zstd_level = 1};
  }
  Result<BuiltRelease> Build(const ReleaseOptions& options) {
    return BuildRelease(options, keys_->Keys(), {});
  }
  Bytes Read(const std::string& name) { return ReadFile(out_.path() / "release" / name).value(); }

  OsTree os_;
  TempDir out_ = TempDir::Create("sealift-out").value();
  static inline test::ReleaseKeySet* keys_;
};

TEST_F(ReleaseTest, ManifestSaysWhatLiesThere) {
  const auto built = Build(Options());
  ASSERT_TRUE(built.ok()) << built.status();
  const Manifest manifest = ParseManifest(AsText(Read("release.json"))).value();
  EXPECT_EQ(manifest.version, "1.2");
  EXPECT_EQ(manifest.stub_version, "252.39-1~deb12u2");
  ASSERT_EQ(manifest.files.size(), 9u);
  for (const ReleaseFile& file : manifest.files) {
    const Bytes bytes = Read(file.path);
    EXPECT_EQ(Sha256(bytes), file.digest) << file.path;
    EXPECT_EQ(bytes.size(), file.size) << file.path;
  }
  const Bytes uki = Read("EFI/kairos/norole.efi");
  const efi::SignatureLists db = efi::ParseSignatureLists(keys_->Esl(keys_->db)).value();
  EXPECT_EQ(efi::VerifyImage(uki, db, {})->digest, *manifest.OnlyFile(FileRole::kUki)->authenticode);
  EXPECT_TRUE(efi::VerifyImage(Read("EFI/BOOT/BOOTX64.EFI"), db, {}).ok());
  EXPECT_EQ(AsText(Read("loader/entries/norole.conf")), "title Kairos\nefi /EFI/kairos/norole.efi\n");
  EXPECT_EQ(AsText(Read("loader/loader.conf")), "timeout 5\neditor no\n");
  // The predictions are those of the sections that really are in the image.
  const efi::PeImage image = efi::PeImage::Parse(uki).value();
  EXPECT_EQ(uki::DigestMeasuredSections(image, 252).value(), manifest.sections);
  EXPECT_EQ(manifest.sections.size(), 5u);
  EXPECT_EQ(manifest.pcr_keys, std::vector<Sha256Digest>{keys_->pcr->public_key().key_id()});
}

// What a node's disk is bound to: PCR 11 together with what lies beside the image.
TEST_F(ReleaseTest, ImagesOfNodesAreSignedForPcrs11To13AndOthersForPcr11Alone) {
  const auto entries = [&]() {
    const Bytes bytes = Read("EFI/kairos/norole.efi");
    const efi::PeImage image = efi::PeImage::Parse(bytes).value();
    return uki::ParsePcrSignatures(AsText(uki::UkiSectionContents(image, ".pcrsig").value()))
        .value()
        .at("sha256");
  };
  ASSERT_TRUE(Build(Options()).ok());
  ASSERT_EQ(entries().size(), 1u);
  EXPECT_EQ(entries().front().pcrs, std::vector<unsigned>{11});
  ReleaseOptions options = Options();
  std::filesystem::remove_all(options.out);
  options.node_config = "[volumes]\nencryption = \"required\"\n";
  options.security_epoch = 7;
  const auto built = Build(options);
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_EQ(built->manifest.security_epoch, 7u);
  ASSERT_EQ(entries().size(), 2u);
  const uki::PcrSignature wide = entries().back();
  EXPECT_EQ(wide.pcrs, (std::vector<unsigned>{11, 12, 13}));
  EXPECT_EQ(wide.policy,
            uki::PcrPolicyDigest({{11, built->manifest.pcr11.front().pcr11}, {12, {}}, {13, {}}}));
  EXPECT_TRUE(uki::CheckPcrSignature("sha256", wide, keys_->pcr->public_key()).ok());
}

TEST_F(ReleaseTest, EveryImageTellsItsKernelAndItsGeneration) {
  ASSERT_TRUE(Build(Options()).ok());
  const Bytes uki = Read("EFI/kairos/norole.efi");
  const efi::PeImage image = efi::PeImage::Parse(uki).value();
  EXPECT_EQ(AsText(uki::UkiSectionContents(image, ".uname").value()), "6.1.0-test");
  EXPECT_EQ(AsText(uki::UkiSectionContents(image, ".sbat").value()),
            "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n"
            "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/\n");
}

TEST_F(ReleaseTest, SectionsThatTheOperatorAdds) {
  const TempDir files = TempDir::Create("sealift-sections").value();
  const auto write = [&](const char* name, std::string_view text) {
    EXPECT_TRUE(WriteFileAtomically(files.path() / name, AsBytes(text)).ok());
    return files.path() / name;
  };
  const std::string tree = "\xd0\x0d\xfe\xed";
  ReleaseOptions options = Options();
  options.sections = {.microcode = write("early.cpio", "070701 microcode"),
                      .device_tree = write("any.dtb", tree + " any"),
                      .device_trees_auto = {write("a.dtb", tree + " a"), write("b.dtb", tree + " b")},
                      .hardware_ids = write("hwids", "ids"),
                      .sbat = write("sbat.csv", "uki.ours,3,Ours\n")};
  options.sha384 = true;
  const auto refused = Build(options);
  EXPECT_EQ(ReasonIdFrom(refused), "UKI_STUB_UNSUPPORTED");
  EXPECT_NE(MessageOf(refused.status()).find("take --microcode"), std::string::npos) << refused.status();
  EXPECT_NE(MessageOf(refused.status()).find("which 256 and later do"), std::string::npos);
  os_.Write("usr/lib/systemd/boot/efi/linuxx64.efi.stub", AsText(test::FakeStub("257.13-1")));
  const auto built = Build(options);
  ASSERT_TRUE(built.ok()) << built.status();
  const Bytes bytes = Read("EFI/kairos/norole.efi");
  const efi::PeImage image = efi::PeImage::Parse(bytes).value();
  const auto section = [&](const char* name) {
    return std::string(AsText(uki::UkiSectionContents(image, name).value()));
  };
  EXPECT_EQ(section(".ucode"), "070701 microcode");
  EXPECT_EQ(section(".dtb"), tree + " any");
  EXPECT_EQ(section(".hwids"), "ids");
  EXPECT_TRUE(section(".sbat").ends_with("SBAT.md\nuki.ours,3,Ours\n")) << section(".sbat");
  // Without a tree and with each of them.
  const Manifest manifest = ParseManifest(AsText(Read("release.json"))).value();
  ASSERT_EQ(manifest.images.size(), 3u);
  EXPECT_EQ(manifest.images[0].sections.count(".dtbauto"), 0u);
  EXPECT_EQ(manifest.images[2].sections.at(".dtbauto"), Sha256(AsBytes(tree + " b")));
  EXPECT_EQ(manifest.images[2].pcr11_sha384.size(), std::size(kPhases));
  EXPECT_NE(section(".pcrsig").find("\"sha384\""), std::string::npos);
}

TEST_F(ReleaseTest, SaysWhichFilesLoseCapabilitiesWhereverTheyAreFrom) {
  const TempDir overlay = TempDir::Create("sealift-overlay").value();
  std::filesystem::create_directories(overlay.path() / "usr/bin");
  ASSERT_TRUE(WriteFileAtomically(overlay.path() / "usr/bin/ping", AsBytes("ping"), 0755).ok());
  os_.Write("usr/bin/mtr", "mtr", 0755);
  // VFS_CAP_REVISION_2, cap_net_raw permitted.
  constexpr std::uint8_t kNetRaw[20] = {1, 0, 0, 2, 0, 0x20};
  for (const auto& path : {overlay.path() / "usr/bin/ping", os_.path() / "usr/bin/mtr"})
    if (::setxattr(path.c_str(), "security.capability", kNetRaw, sizeof(kNetRaw), 0) != 0)
      GTEST_SKIP() << "only root may set capabilities, and not on every file system";
  ReleaseOptions options = Options();
  options.overlay = overlay.path();
  const auto built = Build(options);
  ASSERT_TRUE(built.ok()) << built.status();
  const auto names = [](const std::string& remark) {
    return remark.find(": /usr/bin/mtr, /usr/bin/ping lose") != std::string::npos;
  };
  EXPECT_EQ(std::count_if(built->remarks.begin(), built->remarks.end(), names), 1);
}

TEST_F(ReleaseTest, FilesThatAreNoSuchSectionAreRefused) {
  const TempDir files = TempDir::Create("sealift-sections").value();
  ASSERT_TRUE(WriteFileAtomically(files.path() / "text", AsBytes("text")).ok());
  ASSERT_TRUE(WriteFileAtomically(files.path() / "empty", {}).ok());
  os_.Write("usr/lib/systemd/boot/efi/linuxx64.efi.stub", AsText(test::FakeStub("257.13-1")));
  const auto reason = [&](const ExtraSectionFiles& sections) {
    ReleaseOptions options = Options();
    options.sections = sections;
    return ReasonIdFrom(Build(options));
  };
  const auto text = files.path() / "text";
  EXPECT_EQ(reason({.microcode = text}), "INVALID_ARGUMENT");
  EXPECT_EQ(reason({.device_tree = text}), "INVALID_ARGUMENT");
  EXPECT_EQ(reason({.device_trees_auto = {text}}), "INVALID_ARGUMENT");
  EXPECT_EQ(reason({.hardware_ids = files.path() / "empty"}), "INVALID_ARGUMENT");
  EXPECT_EQ(reason({.sbat = text}), "UKI_LAYOUT_INVALID");
  EXPECT_EQ(reason({.sbat = files.path() / "none"}), "FILE_UNREADABLE");
}

TEST_F(ReleaseTest, MoreImagesThanAManifestListsAreRefusedAtTheStart) {
  ReleaseOptions options = Options();
  for (int i = 0; i < 64; ++i) options.menu.extra.push_back("word" + std::to_string(i));
  std::vector<std::string> stages;
  const auto built = BuildRelease(options, keys_->Keys(),
                                  [&](std::string_view stage, auto, auto) { stages.emplace_back(stage); });
  EXPECT_EQ(ReasonIdFrom(built), "INVALID_ARGUMENT");
  EXPECT_EQ(stages, std::vector<std::string>{"read"});
}

TEST(EspTreeTest, NothingAppearsThatOurOwnParserRefuses) {
  const TempDir folder = TempDir::Create("sealift-esp").value();
  EspTree tree = EspTree::Create(folder.path() / "out").value();
  ASSERT_TRUE(tree.Write("loader/loader.conf", FileRole::kLoaderConf, AsBytes("timeout 5\n")).ok());
  EXPECT_EQ(ReasonIdFrom(tree.Commit({.version = "not a version", .hardware_class = "x"})),
            "RELEASE_MANIFEST_INVALID");
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "out"));
}

TEST_F(ReleaseTest, PolicyIsSignedForEarlyBootOnlyUnlessAsked) {
  ASSERT_TRUE(Build(Options()).ok());
  const auto check = [&](const std::string& phase) {
    const Bytes uki = Read("EFI/kairos/norole.efi");
    const efi::PeImage image = efi::PeImage::Parse(uki).value();
    const auto signatures =
        uki::ParsePcrSignatures(AsText(uki::UkiSectionContents(image, uki::kPcrSignature).value())).value();
    const auto key =
        PublicKey::FromPem(AsText(uki::UkiSectionContents(image, uki::kPcrPublicKey).value())).value();
    const Manifest manifest = ParseManifest(AsText(Read("release.json"))).value();
    for (const PhasePrediction& one : manifest.pcr11)
      if (one.phase == phase) return ReasonIdFrom(uki::VerifyPcrPolicy(signatures, key, one.pcr11));
    return std::string("no such phase");
  };
  EXPECT_EQ(check(""), "NONE");
  EXPECT_EQ(check("sysinit"), "PCR_SIGNATURE_MISSING");
  EXPECT_EQ(check("sysinit:ready"), "PCR_SIGNATURE_MISSING");
  ReleaseOptions later = Options();
  later.signed_phases = {"", "sysinit:ready"};
  ASSERT_TRUE(Build(later).ok());
  EXPECT_EQ(check("sysinit:ready"), "NONE");
  later.signed_phases = {"enter-initrd"};
  EXPECT_EQ(ReasonIdFrom(Build(later)), "INVALID_ARGUMENT");
}

TEST_F(ReleaseTest, IsReproducible) {
  ASSERT_TRUE(Build(Options()).ok());
  const Bytes uki = Read("EFI/kairos/norole.efi");
  const Bytes manifest = Read("release.json");
  ASSERT_TRUE(Build(Options()).ok());
  EXPECT_EQ(Read("EFI/kairos/norole.efi"), uki);
  EXPECT_EQ(Read("release.json"), manifest);
}

TEST_F(ReleaseTest, VersionGoesIntoOsReleaseOfSectionAndTree) {
  ReleaseOptions options = Options();
  options.version = "2.0";
  EXPECT_EQ(Build(options)->manifest.version, "2.0");
  const Bytes uki = Read("EFI/kairos/norole.efi");
  const efi::PeImage image = efi::PeImage::Parse(uki).value();
  const std::string_view osrel = AsText(uki::UkiSectionContents(image, ".osrel").value());
  EXPECT_TRUE(osrel.ends_with("VERSION_ID=1.2\nIMAGE_VERSION=2.0\n")) << osrel;
  EXPECT_NE(test::UnpackFrames(uki::UkiSectionContents(image, ".initrd").value()).find("IMAGE_VERSION=2.0"),
            std::string::npos);
  options.version = "not a version";
  EXPECT_EQ(ReasonIdFrom(Build(options)), "PREFLIGHT_FAILED");
}

TEST_F(ReleaseTest, EnrolmentByForceNeedsConsentAndAKnownValue) {
  ReleaseOptions options = Options();
  options.secure_boot_enroll = "force";
  EXPECT_EQ(ReasonIdFrom(Build(options)), "ENROLL_CONSENT_MISSING");
  EXPECT_FALSE(std::filesystem::exists(options.out));
  options.keys_verified_on_hardware = true;
  ASSERT_TRUE(Build(options).ok());
  EXPECT_NE(AsText(Read("loader/loader.conf")).find("secure-boot-enroll force\n"), std::string::npos);
  options.secure_boot_enroll = "if-safe";
  EXPECT_EQ(ReasonIdFrom(Build(options)), "ENROLL_MODE_UNKNOWN");
}

TEST_F(ReleaseTest, EnrolmentFilesThatWouldLockTheMachineOutAreRefused) {
  const auto built = [&](const ReleaseKeys& keys) { return ReasonIdFrom(BuildRelease(Options(), keys, {})); };
  ReleaseKeys keys = keys_->Keys();
  keys.db_auth = keys_->Auth("db", keys_->kek, keys_->kek);  // another certificate in db
  EXPECT_EQ(built(keys), "KEY_MISMATCH");
  keys = keys_->Keys();
  keys.db_auth = keys_->Auth("db", keys_->db, keys_->db);  // not signed by KEK
  EXPECT_EQ(built(keys), "KEY_MISMATCH");
  keys = keys_->Keys();
  keys.kek_auth = keys_->Auth("KEK", keys_->kek, keys_->kek);  // not signed by PK
  EXPECT_EQ(built(keys), "KEY_MISMATCH");
}

TEST_F(ReleaseTest, RevocationsOfTheSetTravelAndMustNotHitTheLoader) {
  const efi::VariableTarget target = efi::SecureBootVariable("dbx").value();
  const auto dbx = [&](const Sha256Digest& digest) {
    const Bytes lists = efi::SerializeSignatureLists(
        efi::SignatureLists{efi::Sha256SignatureList(keys_->owner, std::vector<Sha256Digest>{digest})});
    return efi::BuildAuthenticatedVariable(target, FromUnixMs(1'700'000'000'000), lists, *keys_->kek.signer,
                                           keys_->kek.certificate)
        .value();
  };
  ReleaseKeys keys = keys_->Keys();
  keys.dbx_auth = dbx(Sha256(AsBytes("some other image")));
  ASSERT_TRUE(BuildRelease(Options(), keys, {}).ok());
  EXPECT_EQ(Read("loader/keys/auto/dbx.auth"), keys.dbx_auth);
  const Bytes loader = Read("EFI/BOOT/BOOTX64.EFI");
  keys.dbx_auth = dbx(efi::AuthenticodeDigest(efi::PeImage::Parse(loader).value()));
  EXPECT_EQ(ReasonIdFrom(BuildRelease(Options(), keys, {})), "KEY_MISMATCH");
  keys.dbx_auth = keys_->Auth("dbx", keys_->db, keys_->db);  // not signed by KEK
  EXPECT_EQ(ReasonIdFrom(BuildRelease(Options(), keys, {})), "KEY_MISMATCH");
}

TEST_F(ReleaseTest, ForeignFoldersAreLeftAlone) {
  ReleaseOptions options = Options();
  std::filesystem::create_directories(options.out);
  ASSERT_TRUE(WriteFileAtomically(options.out / "thesis.txt", AsBytes("x")).ok());
  EXPECT_EQ(ReasonIdFrom(Build(options)), "OUTPUT_NOT_EMPTY");
  EXPECT_TRUE(std::filesystem::exists(options.out / "thesis.txt"));
}

TEST_F(ReleaseTest, ALinkIsNoOutputFolder) {
  ReleaseOptions options = Options();
  std::filesystem::create_directories(out_.path() / "elsewhere");
  std::filesystem::create_symlink("elsewhere", options.out);
  for (const char* end : {"", "/"}) {
    ReleaseOptions named = options;
    named.out += end;
    std::vector<std::string> stages;
    const auto built = BuildRelease(named, keys_->Keys(),
                                    [&](std::string_view stage, auto, auto) { stages.emplace_back(stage); });
    EXPECT_EQ(ReasonIdFrom(built), "OUTPUT_NOT_EMPTY") << end;
    EXPECT_TRUE(stages.empty()) << "it was found out only after work";
  }
}

TEST(OutputFolderTest, BuildsToOnePlaceDoNotRemoveEachOthersFolders) {
  const TempDir folder = TempDir::Create("sealift-output").value();
  std::atomic<int> lost = 0;
  std::vector<std::thread> builds;
  for (int i = 0; i < 4; ++i) {
    builds.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        const auto work = OutputFolder::Create(folder.path() / "out");
        if (!work.ok() || !std::filesystem::exists(work->path())) ++lost;
      }
    });
  }
  for (std::thread& build : builds) build.join();
  EXPECT_EQ(lost, 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST_F(ReleaseTest, AnEarlierReleaseIsReplacedWholeOrNotAtAll) {
  ASSERT_TRUE(Build(Options()).ok());
  const Bytes before = Read("release.json");
  ReleaseOptions wrong = Options();
  wrong.signed_phases = {"enter-initrd"};  // found out when the initrd is packed
  EXPECT_FALSE(Build(wrong).ok());
  EXPECT_EQ(Read("release.json"), before);
  ReleaseOptions next = Options();
  next.version = "1.3";
  ASSERT_TRUE(Build(next).ok());
  EXPECT_EQ(ParseManifest(AsText(Read("release.json")))->version, "1.3");
  std::vector<std::string> left;
  for (const auto& item : std::filesystem::directory_iterator(out_.path()))
    left.push_back(item.path().filename());
  EXPECT_EQ(left, std::vector<std::string>{"release"}) << "something was left beside it";
}

TEST_F(ReleaseTest, WhatAKilledBuildLeftIsRemovedByTheNext) {
  const auto abandoned = out_.path() / ".release.partial-abcdef";
  std::filesystem::create_directories(abandoned / "EFI");
  // Another build is at work there: it holds the lock.
  const OutputFolder busy = OutputFolder::Create(out_.path() / "release").value();
  EXPECT_FALSE(std::filesystem::exists(abandoned));
  ASSERT_TRUE(Build(Options()).ok());
  EXPECT_TRUE(std::filesystem::exists(busy.path()));
}

TEST_F(ReleaseTest, OtherEntriesAreImagesOfTheirOwnThatUnlockNothing) {
  ReleaseOptions options = Options();
  options.menu.extra = {"rd.debug"};
  options.menu.single = {"Lets debug: rd.debug rd.immucore.debug"};
  options.menu.unlock_with = {"Lets debug"};
  const auto built = Build(options);
  ASSERT_TRUE(built.ok()) << built.status();
  const Manifest manifest = ParseManifest(AsText(Read("release.json"))).value();
  ASSERT_EQ(manifest.images.size(), 3u);
  EXPECT_EQ(manifest.OnlyFile(FileRole::kUki)->path, "EFI/kairos/norole.efi");
  const std::vector<std::pair<std::string, bool>> expected = {{"EFI/kairos/norole.efi", true},
                                                              {"EFI/kairos/norole_rd.debug.efi", false},
                                                              {"EFI/kairos/Lets_debug.efi", true}};
  const efi::SignatureLists db = efi::ParseSignatureLists(keys_->Esl(keys_->db)).value();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const ImageMeasurements& image = manifest.images[i];
    EXPECT_EQ(image.path, expected[i].first);
    const Bytes bytes = Read(image.path);
    const efi::PeImage pe = efi::PeImage::Parse(bytes).value();
    EXPECT_EQ(uki::UkiSectionContents(pe, uki::kPcrSignature).ok(), expected[i].second) << image.path;
    EXPECT_EQ(AsText(uki::UkiSectionContents(pe, ".cmdline").value()), image.command_line);
    EXPECT_EQ(uki::DigestMeasuredSections(pe, 252).value(), image.sections);
    EXPECT_EQ(efi::VerifyImage(bytes, db, {})->digest, image.pcr4.uki);
    EXPECT_NE(i != 0, image.pcr11[0].pcr11 == manifest.pcr11[0].pcr11);
  }
}

TEST_F(ReleaseTest, PreflightStopsTheBuildUnlessTheFindingIsMeant) {
  ReleaseOptions options = Options();
  options.command_line = "quiet rd.shell init=/bin/sh";
  const auto refused = Build(options);
  EXPECT_EQ(ReasonIdFrom(refused), "PREFLIGHT_FAILED");
  EXPECT_NE(MessageOf(refused.status()).find("cmdline-rd-shell"), std::string::npos);
  EXPECT_NE(MessageOf(refused.status()).find("cmdline-init"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(options.out));
  options.allowed_findings = {"cmdline-init", "cmdline-rd-shell"};
  EXPECT_TRUE(Build(options).ok());
  options.allowed_findings.push_back("no-such-finding");
  EXPECT_EQ(ReasonIdFrom(Build(options)), "INVALID_ARGUMENT");
  options = Options();
  options.sizes.esp_bytes = 1000;
  EXPECT_EQ(ReasonIdFrom(Build(options)), "PREFLIGHT_FAILED");
}

TEST_F(ReleaseTest, CommandLineIsOneLine) {
  ReleaseOptions options = Options();
  options.command_line = "quiet\ninit=/bin/sh";
  EXPECT_EQ(ReasonIdFrom(Build(options)), "COMMAND_LINE_INVALID");
  options.command_line = std::string(2048, 'a');
  EXPECT_EQ(ReasonIdFrom(Build(options)), "COMMAND_LINE_INVALID");
}

}  // namespace
}  // namespace sealift::build
