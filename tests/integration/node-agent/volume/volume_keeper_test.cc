// Volumes in files: real LUKS2 headers, a real TPM (swtpm); only the kernel's mapping is left out.
#include "node-agent/volume/volume_keeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "node-agent/volume/luks_header.h"
#include "node-agent/volume/volume_token.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "tests/integration/node-agent/volume/volume_machine.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::agent {
namespace {

using test::kDeviceBytes;
using test::ReasonIdFrom;
using ::testing::HasSubstr;

class VolumeKeeperTest : public test::VolumeMachine {};

TEST_F(VolumeKeeperTest, OpensAtTheNextBootAndAfterAnUpgradeWithTheSameKey) {
  const MadeVolume made = Make();
  EXPECT_THAT(mounts_.made, ::testing::ElementsAre("ext4 COS_X on /dev/mapper/persistent"));
  for (const char image : {'i', 'n'}) {
    Boot('f', image);
    mapper_.mapped.clear();
    const auto volume = keeper_->Unseal(made.facts.device, "persistent", Image());
    ASSERT_TRUE(volume.ok()) << Describe(volume.status());
    EXPECT_EQ(volume->epoch_base(), 41u);
    EXPECT_TRUE(mapper_.mapped.empty());
    const auto opened = keeper_->Open(*volume);
    ASSERT_TRUE(opened.ok()) << Describe(opened.status());
    EXPECT_EQ(opened->mapped, "/dev/mapper/persistent");
    EXPECT_EQ(mapper_.mapped["persistent"].key, made_key_);
    EXPECT_EQ(made_key_.size(), 64u);
  }
}

TEST_F(VolumeKeeperTest, CryptsetupReadsTheHeader) {
  const MadeVolume made = Make();
  const auto dump =
      test::RunTool({"cryptsetup", "luksDump", "--dump-json-metadata", made.facts.device.string()});
  ASSERT_EQ(dump.exit_code, 0) << dump.err;
  const auto json = nlohmann::json::parse(dump.out);
  EXPECT_EQ(json["segments"]["0"]["encryption"], "aes-xts-plain64");
  EXPECT_EQ(json["segments"]["0"]["sector_size"], 512);
  EXPECT_EQ(json["tokens"].size(), 2u);
  EXPECT_EQ(json["keyslots"].size(), 2u);
  const auto uuid = test::RunTool({"cryptsetup", "luksUUID", made.facts.device.string()});
  EXPECT_EQ(uuid.out, made.facts.luks_uuid + "\n");
  EXPECT_NE(made.facts.luks_uuid, Make("oem", "other").facts.luks_uuid);
}

TEST_F(VolumeKeeperTest, TheEscrowedKeyOpensItWithCryptsetupAndWithUs) {
  const MadeVolume made = Make();
  EXPECT_EQ(made.recovery.subject.luks_uuid, made.facts.luks_uuid);
  const auto text = escrow::Open(made.recovery, escrow_key_);
  ASSERT_TRUE(text.ok()) << Describe(text.status());
  const auto tried =
      test::RunTool({"cryptsetup", "open", "--test-passphrase", "--key-file=-", made.facts.device.string()},
                    ToText(text->ExposeSecret()));
  EXPECT_EQ(tried.exit_code, 0) << tried.err;
  // A dead TPM does not matter.
  const auto opened = keeper_->OpenByRecoveryKey(made.facts.device, "persistent", *text);
  ASSERT_TRUE(opened.ok()) << Describe(opened.status());
  EXPECT_EQ(mapper_.mapped["persistent"].key, made_key_);
  const MadeVolume other = Make("oem", "other");
  EXPECT_EQ(ReasonIdFrom(keeper_->OpenByRecoveryKey(other.facts.device, "oem", *text)), "RECOVERY_KEY_WRONG");
}

TEST_F(VolumeKeeperTest, TheHeaderGivesTheSameBlobThatIsUploaded) {
  const MadeVolume made = Make();
  const auto header = keeper_->ReadHeader(made.facts.device, "persistent");
  ASSERT_TRUE(header.ok()) << Describe(header.status());
  ASSERT_EQ(header->recoveries.size(), 1u);
  EXPECT_EQ(header->recoveries.front(), made.recovery);
  ASSERT_EQ(header->bindings.size(), 1u);
  EXPECT_EQ(header->bindings.front().policy_key, key_->public_key());
  EXPECT_TRUE(header->bindings.front().secure_boot.has_value());
}

TEST_F(VolumeKeeperTest, ReplacesTheRecoveryKeyNewFirst) {
  const MadeVolume made = Make();
  const auto old_text = escrow::Open(made.recovery, escrow_key_).value().ExposeSecret();
  const auto volume = keeper_->Unseal(made.facts.device, "persistent", Image());
  ASSERT_TRUE(volume.ok());
  const auto added = keeper_->AddRecovery(*volume, Options().escrow, "order-1");
  ASSERT_TRUE(added.ok()) << Describe(added.status());
  EXPECT_NE(added->subject.slot, made.recovery.subject.slot);
  EXPECT_EQ(keeper_->ReadHeader(made.facts.device, "persistent")->recoveries.size(), 2u);
  const SecretBytes old_key(ToBytes(old_text));
  const auto opens = [&](const SecretBytes& key) {
    mapper_.mapped.clear();
    return keeper_->OpenByRecoveryKey(made.facts.device, "persistent", key).ok();
  };
  const SecretBytes first = escrow::Open(made.recovery, escrow_key_).value();
  EXPECT_TRUE(opens(first));
  VolumeKeeper::OpenSlots keep{.luks_uuid = made.facts.luks_uuid, .tpm = volume->slot(), .recovery = 17};
  EXPECT_EQ(ReasonIdFrom(keeper_->DropRecovery(made.facts.device, keep)), "RECOVERY_KEY_UNKNOWN");
  keep.recovery = keep.tpm;
  EXPECT_EQ(ReasonIdFrom(keeper_->DropRecovery(made.facts.device, keep)), "RECOVERY_KEY_UNKNOWN");
  keep.recovery = added->subject.slot;
  keep.luks_uuid = "00000000-0000-0000-0000-000000000000";
  EXPECT_EQ(ReasonIdFrom(keeper_->DropRecovery(made.facts.device, keep)), "VOLUME_FOREIGN");
  EXPECT_TRUE(opens(first));
  keep.luks_uuid = made.facts.luks_uuid;
  ASSERT_TRUE(keeper_->DropRecovery(made.facts.device, keep).ok());
  EXPECT_FALSE(opens(first));
  EXPECT_TRUE(opens(escrow::Open(*added, escrow_key_).value()));
  EXPECT_EQ(keeper_->ReadHeader(made.facts.device, "persistent")->recoveries.size(), 1u);
  mapper_.mapped.clear();
  EXPECT_TRUE(UnsealAndOpen(made.facts.device, "persistent").ok());
}

TEST_F(VolumeKeeperTest, StaysLockedInAnotherSecureBootStateAndWithCompanions) {
  const MadeVolume made = Make();
  Boot('o', 'i');
  EXPECT_EQ(ReasonIdFrom(UnsealAndOpen(made.facts.device, "persistent")), "VOLUME_LOCKED");
  Boot('f', 'i');
  const RunningImage image = Image();
  for (const unsigned pcr : {12u, 13u, 11u}) {
    Boot('f', 'i');
    Measure(pcr, 'c');
    Connect();
    const auto volume = keeper_->Unseal(made.facts.device, "persistent", image);
    EXPECT_EQ(ReasonIdFrom(volume), "VOLUME_LOCKED");
    EXPECT_THAT(MessageOf(volume.status()), HasSubstr("no signature"));
  }
  Boot('f', 'i');
  EXPECT_TRUE(UnsealAndOpen(made.facts.device, "persistent").ok());
}

TEST_F(VolumeKeeperTest, AnImageOfAnotherPolicyKeyIsToldSo) {
  const MadeVolume made = Make();
  const auto other = SoftwareSigner::Generate(KeyType::kRsa).value();
  const auto volume = keeper_->Unseal(made.facts.device, "persistent", Image(*other));
  EXPECT_EQ(ReasonIdFrom(volume), "VOLUME_LOCKED");
  EXPECT_THAT(MessageOf(volume.status()), HasSubstr("another PCR policy key"));
}

TEST_F(VolumeKeeperTest, RefusesPlaintextForeignAndDamagedVolumes) {
  const auto plain = Device("plain");
  EXPECT_EQ(test::RunTool({"mkfs.ext4", "-q", "-F", "-L", "COS_PERSISTENT", plain.string()}).exit_code, 0);
  EXPECT_EQ(ReasonIdFrom(UnsealAndOpen(plain, "persistent")), "VOLUME_NOT_ENCRYPTED");
  EXPECT_EQ(ReasonIdFrom(UnsealAndOpen(folder_.path() / "none", "persistent")), "VOLUME_MISSING");

  const MadeVolume made = Make();
  const auto luks_format = [&](const std::filesystem::path& device, std::vector<std::string> more) {
    std::vector<std::string> argv{
        "cryptsetup", "luksFormat", "--batch-mode",       "--pbkdf",     "pbkdf2", "--pbkdf-force-iterations",
        "1000",       "--uuid",     made.facts.luks_uuid, "--key-file=-"};
    argv.insert(argv.end(), more.begin(), more.end());
    argv.push_back(device.string());
    EXPECT_EQ(test::RunTool(argv, "thief").exit_code, 0);
  };
  // Our label and UUID on a header of somebody else, and with our tokens copied over.
  const auto foreign = Device("foreign");
  luks_format(foreign, {"--type", "luks2", "--label", "persistent", "--sector-size", "512"});
  EXPECT_EQ(ReasonIdFrom(UnsealAndOpen(foreign, "persistent")), "VOLUME_FOREIGN");
  {
    auto to = LuksHeader::Load(foreign);
    ASSERT_TRUE(to.ok()) << Describe(to.status());
    const auto from = LuksHeader::Load(made.facts.device);
    ASSERT_TRUE(to->SetToken(-1, from->Tokens(kSealedTokenType).front().json).ok());
  }
  EXPECT_EQ(ReasonIdFrom(UnsealAndOpen(foreign, "persistent")), "VOLUME_FOREIGN");
  const auto first_luks = Device("luks1");
  luks_format(first_luks, {"--type", "luks1"});
  EXPECT_EQ(ReasonIdFrom(UnsealAndOpen(first_luks, "persistent")), "VOLUME_FOREIGN");

  // Both copies of the header spoilt.
  std::filesystem::resize_file(made.facts.device, kDeviceBytes);
  std::fstream file(made.facts.device, std::ios::binary | std::ios::in | std::ios::out);
  for (const int offset : {100, 4096 + 10, 16384 + 100, 16384 + 4096 + 10}) {
    file.seekp(offset);
    file.write("spoilt by a test", 16);
  }
  file.close();
  EXPECT_EQ(ReasonIdFrom(UnsealAndOpen(made.facts.device, "persistent")), "VOLUME_DAMAGED");
  EXPECT_TRUE(mapper_.mapped.empty());
}

TEST_F(VolumeKeeperTest, OneSpoiltCopyOfTheHeaderIsMended) {
  const MadeVolume made = Make();
  std::fstream file(made.facts.device, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(100);
  file.write("spoilt by a test", 16);
  file.close();
  EXPECT_TRUE(UnsealAndOpen(made.facts.device, "persistent").ok());
}

TEST_F(VolumeKeeperTest, AnEscrowKeyThatCannotEncryptLeavesTheDiskAlone) {
  const auto device = Device("disk");
  const Bytes before = ReadFile(device, kDeviceBytes).value();
  MakeOptions options = Options();
  options.escrow.key = SoftwareSigner::Generate(KeyType::kEcP256).value()->public_key();
  EXPECT_EQ(ReasonIdFrom(keeper_->Make({.device = device, .name = "persistent", .fs_label = "X"}, options)),
            "KEY_MISMATCH");
  EXPECT_EQ(ReadFile(device, kDeviceBytes).value(), before);
}

TEST_F(VolumeKeeperTest, AFileSystemThatIsNotMadeLeavesNothingMapped) {
  mounts_.unmakeable = "COS_X";
  EXPECT_FALSE(
      keeper_->Make({.device = Device("disk"), .name = "persistent", .fs_label = "COS_X"}, Options()).ok());
  EXPECT_TRUE(mapper_.mapped.empty());
}

TEST_F(VolumeKeeperTest, RefusesSwappedVolumes) {
  const MadeVolume persistent = Make();
  const MadeVolume oem = Make("oem", "oem");
  EXPECT_EQ(ReasonIdFrom(UnsealAndOpen(oem.facts.device, "persistent")), "VOLUME_FOREIGN");
  // With the name in the token changed, the tag no longer fits.
  {
    auto header = LuksHeader::Load(oem.facts.device).value();
    const auto token = header.Tokens(kSealedTokenType).front();
    auto changed = ParseSealedToken(token.json).value();
    changed.volume = "persistent";
    ASSERT_TRUE(header.RemoveToken(token.number).ok());
    ASSERT_TRUE(header.SetToken(-1, FormatSealedToken(changed)).ok());
  }
  EXPECT_EQ(ReasonIdFrom(UnsealAndOpen(oem.facts.device, "persistent")), "VOLUME_FOREIGN");
  EXPECT_TRUE(mapper_.mapped.empty());
}

// The thief boots an OS of his own, makes a volume exactly as the installer would, and puts it into the
// machine: policy and passphrase are in order, only the TPM's word on its making is not.
TEST_F(VolumeKeeperTest, RefusesAVolumeMadeInAnotherSecureBootState) {
  Boot('f', 'i');
  const auto honest_pcr7 = vault_->ReadPcrs(std::array<std::uint32_t, 1>{7}).value();
  Boot('o', 'x');
  MadeVolume planted = Make();
  {
    // Sealed once more, to the honest state's policy.
    auto header = LuksHeader::Load(planted.facts.device).value();
    const auto old = header.Tokens(kSealedTokenType).front();
    auto token = ParseSealedToken(old.json).value();
    token.policy.literal = honest_pcr7;
    ByteWriter payload(ByteWriter::Endian::kBig);
    payload.U8(1);
    payload.Raw(Bytes(32, 7));
    payload.U64(41);
    token.object = vault_->Seal(SecretBytes(payload.bytes()), token.policy, "sealift volume").value();
    ASSERT_TRUE(header.RemoveToken(old.number).ok());
    ASSERT_TRUE(header.SetToken(-1, FormatSealedToken(token)).ok());
  }
  Boot('f', 'i');
  const auto opened = UnsealAndOpen(planted.facts.device, "persistent");
  EXPECT_EQ(ReasonIdFrom(opened), "VOLUME_FOREIGN");
  EXPECT_THAT(MessageOf(opened.status()), HasSubstr("another Secure Boot state"));
}

TEST_F(VolumeKeeperTest, LeavingPcr7OutNeedsTheImagesConsent) {
  MakeOptions options = Options();
  options.binding.bind_secure_boot = false;
  const auto made = keeper_->Make({.device = Device("disk"), .name = "persistent", .fs_label = "X"}, options);
  ASSERT_TRUE(made.ok());
  mapper_.mapped.clear();
  Boot('o', 'i');
  RunningImage image = Image();
  EXPECT_EQ(ReasonIdFrom(keeper_->Unseal(made->facts.device, "persistent", image)), "VOLUME_FOREIGN");
  image.bind_secure_boot = false;
  EXPECT_TRUE(keeper_->Unseal(made->facts.device, "persistent", image).ok());
}

}  // namespace
}  // namespace sealift::agent
