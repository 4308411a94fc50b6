#include "node-agent/app/recovery_keys.h"

#include <fmt/format.h>

#include <algorithm>

#include "node-agent/volume/unlock.h"

namespace sealift::agent {

Result<std::vector<escrow::EscrowedKey>> VolumeRecoveryKeys::List() {
  if (!encrypted_) return std::vector<escrow::EscrowedKey>();
  return ReadEscrowedKeys(runtime_);
}

// Goes by what the early boot has proven, not by names and tokens on disks.
Status VolumeRecoveryKeys::DropOthers(const std::string& volume, std::uint32_t keep_slot) {
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<OpenVolume> open, ReadOpenVolumes(runtime_));
  const auto found =
      std::ranges::find_if(open, [&](const OpenVolume& one) { return one.header.name == volume; });
  if (found == open.end()) {
    return MakeError(Code::kNotFound, Reason::kVolumeMissing,
                     fmt::format("remove old recovery keys: the TPM opened no volume '{}'", volume));
  }
  return keeper_.DropRecovery(
      found->device, {.luks_uuid = found->header.luks_uuid, .tpm = found->slot, .recovery = keep_slot});
}

}  // namespace sealift::agent
