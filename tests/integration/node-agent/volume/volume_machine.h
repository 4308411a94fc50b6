// A machine with a real TPM (swtpm) and disks in files with real LUKS2 headers; only the kernel's mapping is
// left out.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <memory>

#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/volume/volume_keeper.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/signer.h"
#include "tests/support/escrow_key.h"
#include "tests/support/status_matchers.h"
#include "tests/support/swtpm.h"
#include "tests/support/volume_fakes.h"

namespace sealift::test {

inline constexpr std::uint64_t kDeviceBytes = 20u << 20;

// Made once: RSA keys take long.
inline SoftwareEscrowKey& EscrowKey() {
  static SoftwareEscrowKey key;
  return key;
}
inline SoftwareSigner& PolicyKey() {
  static const std::unique_ptr<SoftwareSigner> key = SoftwareSigner::Generate(KeyType::kRsa).value();
  return *key;
}

inline constexpr std::array<std::uint32_t, 3> kMovingPcrs{11, 12, 13};

class VolumeMachine : public ::testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "tpm2_pcrextend", "cryptsetup");
    ::setenv("TSS2_LOG", "all+NONE", 1);
    swtpm_ = Swtpm::Start({.ek_certificate = false});
    Boot('f', 'i');
  }

  // A fresh boot: PCR 7 and 11 measured with a letter each.
  void Boot(char firmware, char image) {
    keeper_.reset();
    vault_.reset();
    counters_.reset();
    swtpm_->PowerCycle();
    Measure(7, firmware);
    Measure(11, image);
    Connect();
  }
  void Measure(unsigned pcr, char with) {
    keeper_.reset();
    vault_.reset();
    counters_.reset();
    swtpm_->Tool({"tpm2_pcrextend", std::to_string(pcr) + ":sha256=" +
                                        Sha256(Bytes(1, static_cast<std::uint8_t>(with))).hex()});
  }
  void Connect() {
    const auto device = agent::OpenTpmDevice({.tcti = swtpm_->tcti()}).value();
    vault_ = agent::MakeEsysVault(device);
    counters_ = agent::MakeEsysCounters(device);
    keeper_ = std::make_unique<agent::VolumeKeeper>(
        agent::VolumeKeeper::Parts{.vault = *vault_, .mapper = mapper_, .mounts = mounts_});
  }
  // The image that runs, signed by `key` for the registers of now.
  agent::RunningImage Image(SoftwareSigner& key) {
    const auto values = vault_->ReadPcrs(kMovingPcrs).value();
    const Sha256Digest policy = uki::PcrPolicyDigest({values.begin(), values.end()});
    uki::PcrSignature entry{.pcrs = {11, 12, 13},
                            .key_fingerprint = key.public_key().Pkcs1Fingerprint().value(),
                            .policy = policy,
                            .signature = key.SignMessage(policy.view(), "test").value()};
    return {.signatures = {{"sha256", {std::move(entry)}}}, .policy_key = key.public_key()};
  }
  agent::RunningImage Image() { return Image(*key_); }

  std::filesystem::path Device(const std::string& name) {
    const std::filesystem::path path = folder_.path() / name;
    std::ofstream(path, std::ios::binary).close();
    std::filesystem::resize_file(path, kDeviceBytes);
    return path;
  }
  agent::MakeOptions Options() {
    return {.binding = {.policy_key = key_->public_key()},
            .escrow = {.key = escrow_key_.public_key(),
                       .oaep = escrow::OaepHash::kSha1,
                       .ek_digest = Sha256(AsBytes("ek"))},
            .epoch_base = 41};
  }
  agent::MadeVolume Make(const std::string& name, const std::string& file) {
    auto made = keeper_->Make({.device = Device(file), .name = name, .fs_label = "COS_X"}, Options());
    EXPECT_TRUE(made.ok()) << Describe(made.status());
    made_key_ = mapper_.mapped[name].key;
    mapper_.mapped.clear();
    return *std::move(made);
  }
  agent::MadeVolume Make() { return Make("persistent", "disk"); }
  Result<agent::VolumeFacts> UnsealAndOpen(const std::filesystem::path& device, const std::string& name) {
    SEALIFT_ASSIGN_OR_RETURN(const agent::UnsealedVolume volume, keeper_->Unseal(device, name, Image()));
    return keeper_->Open(volume);
  }

  const TempDir folder_ = TempDir::Create("sealift-volume").value();
  std::unique_ptr<Swtpm> swtpm_;
  RecordingMapper mapper_;
  RecordingMounts mounts_;
  std::unique_ptr<agent::TpmVault> vault_;
  std::unique_ptr<agent::TpmCounters> counters_;
  std::unique_ptr<agent::VolumeKeeper> keeper_;
  SoftwareSigner* const key_ = &PolicyKey();
  SoftwareEscrowKey& escrow_key_ = EscrowKey();
  Bytes made_key_;
};

}  // namespace sealift::test
