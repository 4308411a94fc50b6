// Volumes of a new machine: sealed to its TPM and to the software of the running image.
//
// Not thread-safe; borrows its parts.
#pragma once

#include "node-agent/install/installer.h"
#include "node-agent/tpm/counters.h"
#include "node-agent/volume/volume_keeper.h"

namespace sealift::agent {

class TpmVolumes final : public VolumeMaker {
 public:
  struct Parts {
    VolumeKeeper& keeper;
    TpmCounters& counters;
    Mapper& mapper;
  };
  TpmVolumes(Parts parts, VolumeBinding binding, EscrowTo escrow)
      : parts_(parts), options_{.binding = std::move(binding), .escrow = std::move(escrow)} {}

  // Makes both counters where they are missing; the epoch begins where its counter stands now.
  Status Prepare() override;
  Result<std::filesystem::path> Make(const VolumeSpec& spec) override;
  Status Close(const std::string& name) override;

 private:
  Parts parts_;
  MakeOptions options_;
};

}  // namespace sealift::agent
