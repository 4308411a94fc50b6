// What a key's TPM must guarantee before the key is believed in a role. Thread-safe, pure.
//
// The attributes are only worth something once the TPM is known to enforce them: for the EK through its
// certificate, for the AK through credential activation, for the TLS key through its certification by the AK.
#pragma once

#include "shared/base/status.h"
#include "shared/tpm/structures.h"

namespace sealift::tpm {

// Restricted decryption key, born in and fixed to its TPM, AES-128-CFB, SHA-256 name: what the default
// templates of the TCG EK Credential Profile (L-1 RSA 2048, L-2 ECC P-256) make. Errors:
// INVALID_ARGUMENT/EK_UNSUITABLE.
Status CheckEndorsementKey(const PublicArea& key);
// Restricted signing key, born in and fixed to its TPM: it signs what the TPM itself made, nothing else.
// Errors: INVALID_ARGUMENT/AK_UNSUITABLE.
Status CheckAttestationKey(const PublicArea& key);
// Signing key, not restricted, born in and fixed to its TPM, ECDSA P-256: what TLS 1.3 needs.
// Errors: INVALID_ARGUMENT/TLS_KEY_UNSUITABLE.
Status CheckTlsKey(const PublicArea& key);

}  // namespace sealift::tpm
