// What an encrypted volume of this machine is: values that the rooms above share.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/tpm/vault.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"
#include "shared/escrow/escrow.h"

namespace sealift::agent {

inline constexpr std::string_view kOemVolume = "oem";
inline constexpr std::string_view kPersistentVolume = "persistent";
// Where opened volumes appear, by their names.
inline constexpr std::string_view kMappedFolder = "/dev/mapper";

struct VolumeSpec {
  // The partition, or a file in tests. Whatever it holds goes.
  std::filesystem::path device;
  // PARTLABEL and name of the mapped device: letters, digits, '-' and '_', at most 36.
  std::string name;
  // "COS_PERSISTENT".
  std::string fs_label;
  // "ext4": mkfs.<fs_type> is run.
  std::string fs_type = "ext4";
};

// To what software a volume opens.
struct VolumeBinding {
  // The PCR policy key of the images (.pcrpkey).
  PublicKey policy_key;
  std::vector<std::uint32_t> signed_pcrs{11, 12, 13};
  // Leaving it out opens the disk to whoever boots another OS and extends PCR 11 with public digests.
  bool bind_secure_boot = true;
};

struct EscrowTo {
  PublicKey key;
  escrow::OaepHash oaep = escrow::OaepHash::kSha1;
  // Of this machine.
  Sha256Digest ek_digest;
};

// What a made or opened volume is, beyond its device.
struct VolumeFacts {
  std::string name;
  std::string luks_uuid;
  std::filesystem::path device;
  // "/dev/mapper/persistent".
  std::filesystem::path mapped;
};

struct MadeVolume {
  VolumeFacts facts;
  // Kept in the LUKS header, too; to be uploaded after enrolment.
  escrow::EscrowedKey recovery;
};

}  // namespace sealift::agent
