// TPM2_MakeCredential in software: a secret that only one TPM gives back, and only for one key.
//
// Whoever returns the secret has shown that the key of `name` lies in the TPM that holds the endorsement key
// (TPM 2.0 Library Part 1, 24; key derivation 11.4.10). Thread-safe.
#pragma once

#include "shared/base/bytes.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"
#include "shared/tpm/structures.h"

namespace sealift::tpm {

struct Credential {
  // TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, as TPM2_ActivateCredential takes them.
  Bytes blob;
  Bytes encrypted_secret;
};

// `endorsement_key` must pass CheckEndorsementKey; `secret` holds 1 to 32 bytes.
// Errors: INVALID_ARGUMENT with EK_UNSUITABLE or INVALID_ARGUMENT; CRYPTO_FAILED.
Result<Credential> MakeCredential(const PublicArea& endorsement_key, ByteView name,
                                  const SecretBytes& secret);

// Whether these are a credential's two parts in form; asked before a TPM is. Errors:
// INVALID_ARGUMENT/MALFORMED.
Status CheckCredential(ByteView blob, ByteView encrypted_secret);

// KDFa and KDFe with SHA-256 (Part 1, 11.4.10.2 and .3), for vectors and for other protected objects. `label`
// without its NUL. At most 8160 bytes.
SecretBytes KdfA(ByteView key, std::string_view label, ByteView context_u, ByteView context_v,
                 std::size_t bytes);
SecretBytes KdfE(ByteView z, std::string_view label, ByteView party_u, ByteView party_v, std::size_t bytes);

}  // namespace sealift::tpm
