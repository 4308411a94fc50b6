// This machine's recovery keys, on its real volumes.
#pragma once

#include <filesystem>

#include "node-agent/order/escrow_keeper.h"
#include "node-agent/volume/volume_keeper.h"

namespace sealift::agent {

class VolumeRecoveryKeys final : public RecoveryKeys {
 public:
  // Borrows the keeper. `runtime`: where the early boot left what it found.
  VolumeRecoveryKeys(std::filesystem::path runtime, VolumeKeeper& keeper)
      : runtime_(std::move(runtime)), keeper_(keeper) {}
  Result<std::vector<escrow::EscrowedKey>> List() override;
  Status DropOthers(const std::string& volume, std::uint32_t keep_slot) override;

 private:
  const std::filesystem::path runtime_;
  VolumeKeeper& keeper_;
};

}  // namespace sealift::agent
