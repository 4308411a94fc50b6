// Counters that only grow: NV indexes of type counter in this machine's TPM.
//
// A seam of plain values; EsysCounters (esys_tpm.h) stands behind it. Thread-safe, as Tpm. Whoever is root
// can raise a counter or undefine it; nobody can lower one: a counter defined anew starts above every counter
// that this TPM ever had (TPM 2.0 part 1, 37.2.4). A raised counter locks, it does not open.
//
// Errors everywhere: UNAVAILABLE/TPM_UNAVAILABLE, FAILED_PRECONDITION/TPM_COMMAND_FAILED.
#pragma once

#include <cstdint>

#include "node-agent/tpm/tpm.h"
#include "shared/base/status.h"

namespace sealift::agent {

// TCG handle registry: owner-defined indexes (0x01800000 to 0x01BFFFFF).
// The lowest security epoch this machine accepts, plus a base that was recorded when it was installed.
inline constexpr std::uint32_t kEpochCounter = 0x01810020;
// Signed orders carried out.
inline constexpr std::uint32_t kOrderCounter = 0x01810021;

class TpmCounters {
 public:
  virtual ~TpmCounters() = default;
  // Makes the counter where it is missing and counts once, so that it can be read. Returns its value.
  // Errors also: FAILED_PRECONDITION/EPOCH_UNUSABLE when something else lies there.
  virtual Result<std::uint64_t> DefineCounter(std::uint32_t handle) = 0;
  // Errors also: FAILED_PRECONDITION/EPOCH_UNUSABLE when it is missing, never counted or no counter of ours.
  virtual Result<std::uint64_t> ReadCounter(std::uint32_t handle) = 0;
  // Counts once; returns the new value. Errors: as ReadCounter.
  virtual Result<std::uint64_t> IncrementCounter(std::uint32_t handle) = 0;
  // The attestation key certifies the counter's value (TPM2_NV_Certify); shared/tpm/counter.h verifies it.
  // Makes a missing attestation key. `nonce`: at most 32 bytes. Errors: as ReadCounter.
  virtual Result<Attestation> CertifyCounter(std::uint32_t handle, ByteView nonce) = 0;
};

}  // namespace sealift::agent
