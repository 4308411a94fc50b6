// The update machine's question whether an image will open this machine's disks.
#pragma once

#include <filesystem>

#include "node-agent/esp/efi_variables.h"
#include "node-agent/tpm/tpm.h"
#include "node-agent/update/seams.h"

namespace sealift::agent {

// Borrows its parts. Reads the image from the ESP, what the early boot left in the runtime folder, the event
// log and the firmware's variables; asks the TPM for PCR 7. A machine whose disks were not opened by the TPM
// in this boot (recovery key) has nothing to lose: no image is refused then. One whose early boot left no
// word is not believed to be such.
class MachineUnlockCheck final : public UnlockCheck {
 public:
  struct Places {
    std::filesystem::path esp;
    std::filesystem::path runtime;
    std::filesystem::path event_log;
  };
  MachineUnlockCheck(Places places, EfiVariables& variables, Tpm& tpm)
      : places_(std::move(places)), variables_(variables), tpm_(tpm) {}

  Status WillUnlock(const StagedImage& image, const NextEvents& events) override;

 private:
  Places places_;
  EfiVariables& variables_;
  Tpm& tpm_;
};

}  // namespace sealift::agent
