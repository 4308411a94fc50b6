// This machine's recovery keys, on its real volumes.
#pragma once

#include <filesystem>

#include "node-agent/order/escrow_keeper.h"
#include "node-agent/volume/volume_keeper.h"

namespace sealift::agent {

class VolumeRecoveryKeys final : public RecoveryKeys {
 public:
  // Borrows the keeper. `runtime`: where the early boot left what it found. `encrypted`: as the image says;
  // where it says no there are no keys, and where it says yes a missing word is an error.
  VolumeRecoveryKeys(std::filesystem::path runtime, bool encrypted, VolumeKeeper& keeper)
      : runtime_(std::move(runtime)), encrypted_(encrypted), keeper_(keeper) {}
  Result<std::vector<escrow::EscrowedKey>> List() override;
  Status DropOthers(const std::string& volume, std::uint32_t keep_slot) override;

 private:
  const std::filesystem::path runtime_;
  const bool encrypted_;
  VolumeKeeper& keeper_;
};

}  // namespace sealift::agent
