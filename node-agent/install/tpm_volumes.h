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
  // `image_epoch`: of the image that is installed.
  TpmVolumes(Parts parts, VolumeBinding binding, EscrowTo escrow, std::uint64_t image_epoch)
      : parts_(parts),
        options_{.binding = std::move(binding), .escrow = std::move(escrow)},
        image_epoch_(image_epoch) {}

  // Makes both counters where they are missing. From now on the machine accepts the image's epoch and above,
  // so that an older image does not open it. Errors: those of NewEpochBase and DefineCounter.
  Status Prepare() override;
  Result<std::filesystem::path> Make(const VolumeSpec& spec) override;
  Status Close(const std::string& name) override;

 private:
  Parts parts_;
  MakeOptions options_;
  const std::uint64_t image_epoch_;
};

}  // namespace sealift::agent
