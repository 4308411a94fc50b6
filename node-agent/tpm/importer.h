// Secrets that somebody else encrypted to this machine's TPM: imported under its endorsement key, and opened
// by the policy they came with (shared/tpm/release_policy.h).
//
// A seam of plain values; EsysImporter (esys_tpm.h) stands behind it. Thread-safe, as Tpm. Whoever knows the
// endorsement key's public half can encrypt to it: an imported object says nothing of who made it.
//
// Errors everywhere: UNAVAILABLE/TPM_UNAVAILABLE, FAILED_PRECONDITION/TPM_COMMAND_FAILED with the TPM's own
// code.
#pragma once

#include <array>
#include <optional>

#include "node-agent/tpm/vault.h"
#include "shared/tpm/duplicate.h"
#include "shared/tpm/release_policy.h"

namespace sealift::agent {

// Registers that an image's signatures have to be for, in the branch "signed".
inline constexpr std::array<std::uint32_t, 3> kSecretSignedPcrs{11, 12, 13};

// Loads again under the endorsement key of the TPM that imported it. Foreign bytes when read from a disk.
struct ImportedObject {
  // TPM2B_PUBLIC, TPM2B_PRIVATE.
  Bytes public_area;
  Bytes private_area;
};

class TpmImporter {
 public:
  virtual ~TpmImporter() = default;

  // TPM2_Import. Opens nothing yet. Errors: INVALID_ARGUMENT/MALFORMED: not of the form it has to have, or
  // another policy; FAILED_PRECONDITION/TPM_COMMAND_FAILED also where it is for another TPM.
  virtual Result<ImportedObject> Import(const tpm::DuplicatedSecret& object,
                                        const tpm::ReleasePolicy& policy) = 0;
  // TPM2_Load and TPM2_Unseal: by the branch "running" where the registers are those of it, else by
  // `approval` where there is one. The secret does not cross the bus in clear text. Errors:
  // INVALID_ARGUMENT/MALFORMED for what is none of this TPM's objects, or of another policy;
  // FAILED_PRECONDITION/SECRET_WITHHELD where the TPM refuses, naming the first register that differs where
  // it can be told.
  virtual Result<SecretBytes> Unseal(const ImportedObject& object, const tpm::ReleasePolicy& policy,
                                     const std::optional<SignedPcrs>& approval) = 0;
};

}  // namespace sealift::agent
