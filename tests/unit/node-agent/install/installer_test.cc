#include "node-agent/install/installer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "node-agent/esp/boot_options.h"
#include "node-agent/esp/esp_stager.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/efi/authenticode.h"
#include "shared/efi/signature_list.h"
#include "tests/contract/map_efi_variables.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_keys.h"

namespace sealift::agent {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::string_view kLsblk =
    R"({"blockdevices":[{"path":"/dev/vda","type":"disk","size":21474836480,"ro":false,"mountpoints":[null]}]})";
constexpr std::string_view kTable =
    R"({"partitiontable":{"partitions":[
      {"node":"/dev/vda1","uuid":"6E42D80E-D67A-462B-B99C-2C1B5DDA91CF"},
      {"node":"/dev/vda2","uuid":"6E42D80E-D67A-462B-B99C-2C1B5DDA91C0"},
      {"node":"/dev/vda3","uuid":"6E42D80E-D67A-462B-B99C-2C1B5DDA91C1"}]}})";

// Everything that happened to the machine, in order.
using Log = std::vector<std::string>;

class FakeMachine final : public CommandRunner, public Mounts, public VolumeMaker, public HookRunner {
 public:
  explicit FakeMachine(Log& log) : log_(log) {}

  Result<std::string> Run(const std::vector<std::string>& argv, const std::string& input) override {
    std::string line = argv[0];
    if (argv[0] == "sfdisk") line += " " + (input.empty() ? argv[1] + " " + argv[2] : "table");
    if (argv[0] == "sfdisk" && argv.back() == "ESP") line += " ESP";
    SEALIFT_RETURN_IF_ERROR(Did(line));
    if (argv[0] == "lsblk") return std::string(lsblk);
    if (argv[0] == "wipefs" && argv[1] == "--json") return signatures;
    if (line == "sfdisk --json /dev/vda") return std::string(kTable);
    return std::string();
  }
  Status MakeFileSystem(const std::filesystem::path& device, const std::string& type,
                        const std::string& label) override {
    return Did("mkfs " + type + " " + label + " " + device.string());
  }
  Status Mount(const std::filesystem::path& device, const std::string&,
               const std::filesystem::path& target) override {
    std::filesystem::create_directories(target);
    return Did("mount " + device.string());
  }
  Status Unmount(const std::filesystem::path& target) override {
    return Did("unmount " + target.filename().string());
  }
  Status Prepare() override { return Did("prepare"); }
  Result<std::filesystem::path> Make(const VolumeSpec& spec) override {
    SEALIFT_RETURN_IF_ERROR(Did("volume " + spec.name + " " + spec.fs_label + " " + spec.device.string()));
    return std::filesystem::path("/dev/mapper/" + spec.name);
  }
  Status Close(const std::string& name) override { return Did("close " + name); }
  Result<std::string> Run(const std::string& command) override {
    if (command == "false")
      return MakeError(Code::kFailedPrecondition, Reason::kHookFailed, "run hook: exit code 1: said so");
    SEALIFT_RETURN_IF_ERROR(Did("hook " + command));
    return "output of " + command;
  }

  std::string_view lsblk = kLsblk;
  std::string signatures = "{\"signatures\": []}";
  // The step that fails.
  std::string fails;

 private:
  Status Did(const std::string& what) {
    log_.push_back(what);
    if (what != fails) return OkStatus();
    return MakeError(Code::kFailedPrecondition, Reason::kToolFailed, what + ": failed");
  }
  Log& log_;
};

const test::TestKey& DbKey() {
  static const test::TestKey key = test::MakeTestKey("db");
  return key;
}
const test::TestKey& PcrKey() {
  static const test::TestKey key = test::MakeTestKey("pcr");
  return key;
}

Bytes SignedPe(std::vector<std::pair<std::string, std::string>> sections) {
  test::SyntheticPe pe;
  pe.sections = std::move(sections);
  return efi::SignImage(pe.Build(), *DbKey().signer, DbKey().certificate, "test").value().bytes;
}

class InstallerTest : public testing::Test {
 protected:
  InstallerTest() {
    Put("EFI/kairos/norole.efi", FileRole::kUki,
        SignedPe({{".osrel", "ID=test\nIMAGE_VERSION=1.0\n"},
                  {".linux", "a kernel"},
                  {".pcrpkey", PcrKey().signer->public_key().Pem()}}));
    Put("EFI/BOOT/BOOTX64.EFI", FileRole::kBootLoader, SignedPe({{".text", "a boot loader"}}));
    Put("EFI/kairos/norole.efi.extra.d/tools.raw", FileRole::kExtension, ToBytes("an extension"));
    Put("loader/loader.conf", FileRole::kLoaderConf,
        ToBytes("timeout 3\neditor no\nsecure-boot-enroll force\n"));
    Put("loader/entries/norole.conf", FileRole::kEntry,
        ToBytes("title Test OS\nefi /EFI/kairos/norole.efi\n"));
    Commit();
    const efi::Guid owner{};
    const efi::SignatureLists db{efi::X509SignatureList(owner, DbKey().certificate)};
    variables_.Set("db", kImageSecurityVendor, efi::SerializeSignatureLists(db));
    config_.config = InstallConfig{.before = {{.name = "b", .commands = {"first"}}},
                                   .after = {{.name = "a", .commands = {"second"}}}};
    config_.text = "install: {}\n";
    config_.digest = Sha256(AsBytes(config_.text));
    config_.source = "image";
  }

  void Put(const std::string& path, FileRole role, const Bytes& bytes) {
    std::filesystem::create_directories((medium_.path() / path).parent_path());
    ASSERT_TRUE(WriteFileAtomically(medium_.path() / path, bytes).ok());
    ReleaseFile file{.path = path, .role = role, .digest = Sha256(bytes), .size = bytes.size()};
    std::erase_if(manifest_.files, [&](const ReleaseFile& one) { return one.path == path; });
    manifest_.files.push_back(file);
  }
  void Commit() {
    manifest_.channel = "stable";
    manifest_.version = "1.0";
    manifest_.minimum_agent_version = "0.1.0";
    manifest_.hardware_class = "generic-x86_64";
    manifest_.stub_version = "252.39";
    manifest_.pcr_keys = {PcrKey().signer->public_key().key_id()};
    manifest_.secure_boot_certificates = {Sha256(DbKey().certificate)};
    manifest_.pcr11 = {{.phase = "", .pcr11 = Sha256({})}};
    ASSERT_TRUE(
        WriteFileAtomically(medium_.path() / "release.json", AsBytes(SerializeManifest(manifest_))).ok());
  }
  MediumRelease Release() {
    auto release = ReadMediumRelease(medium_.path());
    EXPECT_TRUE(release.ok()) << Describe(release.status());
    return *release;
  }
  Status Verify(const std::string& version = "1.0", const test::TestKey& pcr = PcrKey()) {
    return VerifyMediumRelease(Release(), variables_,
                               {.version = version, .pcr_key = pcr.signer->public_key()});
  }
  InstallPlan Plan(bool encrypt = true) {
    return MakePlan(config_.config,
                    {.disks = *ParseLsblk(kLsblk), .release = Release().sizes, .encrypt = encrypt})
        .value();
  }
  Status Install(const InstallPlan& plan) {
    Installer installer({.runner = machine_,
                         .mounts = machine_,
                         .volumes = machine_,
                         .variables = variables_,
                         .hooks = machine_,
                         .open_esp = [](const auto& at) { return std::make_unique<PosixFileSystem>(at); },
                         .tell = [this](std::string_view line) { told_ += std::string(line) + "\n"; },
                         .now = FromUnixMs(1'700'000'000'000),
                         .state_files = std::move(state_files_)},
                        {.root = target_.path(), .esp = target_.path() / "esp"});
    return installer.Run(config_, plan, Release());
  }
  std::string EspFile(const std::string& path) {
    return ReadTextFile(target_.path() / "esp" / path).value_or("(missing)");
  }

  TempDir medium_ = TempDir::Create("sealift-medium").value();
  TempDir target_ = TempDir::Create("sealift-target").value();
  Manifest manifest_;
  Log log_;
  FakeMachine machine_{log_};
  MapEfiVariables variables_;
  TrustedConfig config_;
  std::string told_;
  std::vector<StateFile> state_files_;
};

TEST_F(InstallerTest, DoesEverythingInItsOrder) {
  ASSERT_TRUE(Verify().ok()) << Describe(Verify());
  const Status status = Install(Plan());
  ASSERT_TRUE(status.ok()) << Describe(status);
  EXPECT_THAT(log_, ElementsAre("hook first", "lsblk", "wipefs", "prepare", "wipefs", "sfdisk table",
                                "udevadm", "sfdisk --json /dev/vda", "volume oem COS_OEM /dev/vda2",
                                "mount /dev/mapper/oem", "volume persistent COS_PERSISTENT /dev/vda3",
                                "mount /dev/mapper/persistent", "mkfs.vfat", "mount /dev/vda1", "hook second",
                                "unmount esp", "unmount local", "unmount oem", "close persistent",
                                "close oem", "sfdisk --quiet --part-label ESP", "sync"));
  EXPECT_THAT(variables_.writes(), ElementsAre("Boot0000", "BootOrder", "BootNext"));
  EXPECT_THAT(told_, HasSubstr("output of second"));
}

TEST_F(InstallerTest, TheEspHasOneImageAndThreeEntriesForIt) {
  ASSERT_TRUE(Install(Plan()).ok());
  const MediumRelease release = Release();
  const std::string image = ImageFilePath("1.0", release.image.digest);
  EXPECT_EQ(Sha256(AsBytes(EspFile(image))), release.image.digest);
  EXPECT_EQ(EspFile(image + ".extra.d/tools.raw"), "an extension");
  EXPECT_EQ(EspFile("EFI/BOOT/BOOTX64.EFI"), EspFile("EFI/systemd/systemd-bootx64.efi"));
  EXPECT_EQ(EspFile("loader/entries/active.conf"),
            "title Test OS\nsort-key 1active\nversion 1.0\nefi /" + image + "\n");
  EXPECT_THAT(EspFile("loader/entries/passive.conf"), HasSubstr("efi /" + image));
  EXPECT_THAT(EspFile("loader/entries/recovery.conf"), HasSubstr("sort-key 3recovery"));
  // `default` would defeat fallback, and keys are enrolled by now.
  EXPECT_EQ(EspFile("loader/loader.conf"), "timeout 3\neditor no\n");
}

TEST_F(InstallerTest, TheRecordSaysWhatWasUsed) {
  state_files_.push_back({.name = "join-token", .content = SecretBytes(AsBytes("a token"))});
  ASSERT_TRUE(Install(Plan()).ok());
  const std::filesystem::path token = target_.path() / "usr/local/.state/sealift/join-token";
  EXPECT_EQ(ReadTextFile(token).value_or(""), "a token");
  EXPECT_EQ(std::filesystem::status(token).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const auto record = nlohmann::json::parse(
      ReadTextFile(target_.path() / "usr/local/.state/sealift/install.json").value_or(""), nullptr, false);
  EXPECT_EQ(record["config_digest"], config_.digest.hex());
  EXPECT_EQ(record["config_source"], "image");
  EXPECT_EQ(record["version"], "1.0");
  EXPECT_EQ(*ReadTextFile(target_.path() / "oem/90_custom.yaml"), config_.text);
}

TEST_F(InstallerTest, WithoutEncryptionNoTpmIsAsked) {
  ASSERT_TRUE(Install(Plan(false)).ok());
  EXPECT_THAT(log_, Contains("mkfs ext4 COS_PERSISTENT /dev/vda3"));
  EXPECT_THAT(log_, testing::Not(Contains("prepare")));
}

// Whatever fails: nothing stays mounted or open, and the disk keeps the name that says it is unfinished.
TEST_F(InstallerTest, AfterAFailureEverythingIsClosedAndTheDiskStaysUnfinished) {
  ASSERT_TRUE(Install(Plan()).ok());
  const Log whole = log_;
  for (const std::string& step : whole) {
    if (step.starts_with("unmount") || step.starts_with("close") || step == "sync" || step.ends_with(" ESP"))
      continue;
    log_.clear();
    machine_.fails = step;
    EXPECT_FALSE(Install(Plan()).ok()) << step;
    std::size_t open = 0;
    for (const std::string& done : log_) {
      if (done == step) continue;
      if (done.starts_with("mount ") || done.starts_with("volume ")) ++open;
      if (done.starts_with("unmount ") || done.starts_with("close ")) --open;
    }
    EXPECT_EQ(open, 0u) << step;
    EXPECT_THAT(log_, testing::Not(Contains("sfdisk --quiet --part-label ESP"))) << step;
  }
}

TEST_F(InstallerTest, AFailingHookStopsWithItsWords) {
  config_.config.before[0].commands = {"false"};
  const Status status = Install(Plan());
  EXPECT_EQ(ReasonOf(status), Reason::kHookFailed);
  EXPECT_THAT(MessageOf(status), HasSubstr("said so"));
  EXPECT_TRUE(log_.empty());
}

TEST_F(InstallerTest, ADiskThatChangedSinceThePlanIsLeft) {
  const InstallPlan plan = Plan();
  machine_.lsblk =
      R"({"blockdevices":[{"path":"/dev/vda","type":"disk","size":21474836480,"ro":false,"fstype":"ext4","mountpoints":[null]}]})";
  EXPECT_EQ(ReasonOf(Install(plan)), Reason::kDiskHoldsData);
  // Another disk of the same size under the same name.
  for (const char* other : {"\"serial\":\"S2\"", "\"wwn\":\"0x5000\""}) {
    const std::string lsblk = std::string(R"({"blockdevices":[{"path":"/dev/vda","type":"disk",)") + other +
                              R"(,"size":21474836480,"ro":false,"mountpoints":[null]}]})";
    machine_.lsblk = lsblk;
    EXPECT_EQ(ReasonOf(Install(plan)), Reason::kDiskHoldsData) << other;
  }
  machine_.lsblk = kLsblk;
  machine_.signatures = R"({"signatures":[{"type":"gpt"},{"type":"btrfs"}]})";
  Status status = Install(plan);
  EXPECT_EQ(ReasonOf(status), Reason::kDiskHoldsData);
  EXPECT_THAT(MessageOf(status), HasSubstr("btrfs"));
  // A table whose partitions the kernel has not told of.
  machine_.signatures = R"({"signatures":[{"type":"gpt"}]})";
  status = Install(plan);
  EXPECT_EQ(ReasonOf(status), Reason::kDiskHoldsData);
  EXPECT_THAT(MessageOf(status), HasSubstr("it holds partitions"));
  EXPECT_THAT(log_, testing::Not(Contains("sfdisk table")));
}

TEST_F(InstallerTest, AMediumThatChangesItsBytesIsCaughtWhileCopying) {
  const InstallPlan plan = Plan();
  const MediumRelease release = Release();
  Bytes image = *ReadFile(medium_.path() / release.image.path);
  image[100] ^= 1;
  ASSERT_TRUE(WriteFileAtomically(medium_.path() / release.image.path, image).ok());
  EXPECT_EQ(ReasonOf(Install(plan)), Reason::kMediumUnusable);
  std::filesystem::remove(medium_.path() / release.image.path);
  EXPECT_EQ(ReasonOf(Install(plan)), Reason::kMediumUnusable);
}

TEST_F(InstallerTest, AFirmwareThatTakesNoBootOptionIsToldOnly) {
  variables_.RefuseWrites("Boot0000");
  EXPECT_TRUE(Install(Plan()).ok());
  EXPECT_THAT(told_, HasSubstr("took no boot option"));
}

TEST_F(InstallerTest, TheReleaseMustBeTheRunningOne) {
  EXPECT_EQ(ReasonOf(Verify("1.1")), Reason::kMediumUnusable);
}

TEST_F(InstallerTest, TheReleaseMustCarryTheRunningImagesPcrKey) {
  EXPECT_EQ(ReasonOf(Verify("1.0", DbKey())), Reason::kImagePcrKeyUnknown);
}

TEST_F(InstallerTest, ImageAndBootLoaderMustBeSignedForThisFirmware) {
  const Bytes other = efi::SerializeSignatureLists(
      efi::SignatureLists{efi::X509SignatureList(efi::Guid{}, PcrKey().certificate)});
  variables_.Set("db", kImageSecurityVendor, other);
  EXPECT_EQ(ReasonOf(Verify()), Reason::kImageSignerUnknown);
}

TEST_F(InstallerTest, ABootLoaderThatNobodySignedIsRefused) {
  test::SyntheticPe pe;
  pe.sections = {{".text", "a boot loader"}};
  Put("EFI/BOOT/BOOTX64.EFI", FileRole::kBootLoader, pe.Build());
  Commit();
  EXPECT_EQ(ReasonOf(Verify()), Reason::kImageUnsigned);
}

TEST_F(InstallerTest, AMissingOrChangedFileOfTheMediumIsNamed) {
  Put("EFI/kairos/norole.efi.extra.d/tools.raw", FileRole::kExtension, ToBytes("an extension"));
  ASSERT_TRUE(WriteFileAtomically(medium_.path() / "EFI/kairos/norole.efi.extra.d/tools.raw", Bytes{1}).ok());
  Status status = Verify();
  EXPECT_EQ(ReasonOf(status), Reason::kMediumUnusable);
  EXPECT_THAT(MessageOf(status), HasSubstr("tools.raw"));
  std::filesystem::remove(medium_.path() / "EFI/kairos/norole.efi");
  EXPECT_EQ(ReasonOf(Verify()), Reason::kMediumUnusable);
  std::filesystem::remove(medium_.path() / "release.json");
  EXPECT_EQ(ReasonOf(ReadMediumRelease(medium_.path()).status()), Reason::kMediumUnusable);
}

}  // namespace
}  // namespace sealift::agent
