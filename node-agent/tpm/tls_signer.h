// The TPM's TLS key as a Signer, and as an EVP_PKEY for gRPC through "tpm2:" key references.
#pragma once

#include <memory>

#include "node-agent/tpm/tpm.h"
#include "shared/crypto/signer.h"

namespace sealift::agent {

// Thread-safe. Shares `tpm`. Every signature is verified before it is handed out.
// Errors of Sign: INVALID_ARGUMENT for another scheme than ECDSA with SHA-256; those of the TPM.
Result<std::shared_ptr<Signer>> MakeTlsSigner(std::shared_ptr<Tpm> tpm);

// From now on the key reference kTlsKeyUri means the TLS key of `tpm`; a second call replaces the TPM. A
// reference to another handle is refused with INVALID_ARGUMENT.
void RegisterTpmKeyResolver(std::shared_ptr<Tpm> tpm);

}  // namespace sealift::agent
