// Is this boot well? Every probe of the image's node.toml is asked, each within its own time-out.
//
// The HealthCheck of a node. Not thread-safe: asked by the one thread that owns the update machine, which
// waits as long as the probes take.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/tpm/tpm.h"
#include "node-agent/update/seams.h"
#include "shared/base/status.h"

namespace sealift::agent {

// One thing that must be so.
class Probe {
 public:
  virtual ~Probe() = default;
  // Whatever error it returns is why the machine is not healthy.
  virtual Status Check() = 0;
};

class NodeHealthCheck final : public HealthCheck {
 public:
  explicit NodeHealthCheck(std::vector<std::unique_ptr<Probe>> probes) : probes_(std::move(probes)) {}
  // Asks all of them; `problem` names up to three that fail.
  Health Check() override;

 private:
  std::vector<std::unique_ptr<Probe>> probes_;
};

// How systemctl is called; a stand-in in tests.
using Systemctl = std::vector<std::string>;

// boot-complete.target is there, or can be reached: whatever an OS vendor ordered before it worked.
std::unique_ptr<Probe> MakeBootCompleteProbe(Systemctl systemctl, std::chrono::milliseconds timeout);
// No unit of systemd has failed.
std::unique_ptr<Probe> MakeFailedUnitsProbe(Systemctl systemctl, std::chrono::milliseconds timeout);
// Each of these units is active.
std::unique_ptr<Probe> MakeActiveUnitsProbe(Systemctl systemctl, std::vector<std::string> units,
                                            std::chrono::milliseconds timeout);
// The command exits with 0.
std::unique_ptr<Probe> MakeCommandProbe(std::vector<std::string> command, std::chrono::milliseconds timeout);

// PCR 11 carries all phase words that a running system extends. The image is read once, from where the boot
// loader found it, and what it must have been measured as is computed from its bytes. `read_image` and `tpm`
// are borrowed. Errors of Check: FAILED_PRECONDITION/PHASE_MISSING; those of the TPM and of reading the
// image.
std::unique_ptr<Probe> MakePhaseProbe(Tpm& tpm, std::function<Result<Bytes>()> read_image);

// Every folder is the root of a mounted file system that lies on a mapped (encrypted) device. `mounts`:
// /proc/self/mounts. Errors of Check: FAILED_PRECONDITION/VOLUME_LOCKED, VOLUME_NOT_ENCRYPTED.
std::unique_ptr<Probe> MakeVolumesProbe(std::filesystem::path mounts,
                                        std::vector<std::filesystem::path> folders);

}  // namespace sealift::agent
