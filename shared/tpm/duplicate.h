// TPM2_Duplicate in software: a secret as a sealed object that one TPM alone can import.
//
// The object (KEYEDHASH, Part 2, 12.2.3.2) is wrapped for a storage key of that TPM (Part 1, 23.3.2.3: outer
// wrapper; there is no inner one, whose key would travel beside the object) and opens by its policy alone:
// userWithAuth is clear, and adminWithPolicy set, so that no password stands beside the policy and nothing of
// the object can be changed or duplicated on. Thread-safe, pure but for the random seeds.
#pragma once

#include "shared/base/bytes.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"
#include "shared/tpm/structures.h"

namespace sealift::tpm {

inline constexpr std::size_t kMaxSealedBytes = 128;

// As TPM2_Import takes them: objectPublic, duplicate, inSymSeed; encryptionKey is empty, symmetricAlg null.
struct DuplicatedSecret {
  // TPM2B_PUBLIC.
  Bytes public_area;
  // TPM2B_PRIVATE.
  Bytes duplicate;
  // TPM2B_ENCRYPTED_SECRET.
  Bytes encrypted_seed;
};

// `storage_key` must pass CheckEndorsementKey; `secret`: 1 to kMaxSealedBytes. `policy`: digest of the policy
// that opens it. Errors: INVALID_ARGUMENT with EK_UNSUITABLE or INVALID_ARGUMENT; CRYPTO_FAILED.
Result<DuplicatedSecret> DuplicateSecret(const PublicArea& storage_key, const SecretBytes& secret,
                                         const Sha256Digest& policy);

// What a sealed object says of itself.
struct SealedArea {
  std::uint32_t attributes = 0;
  Sha256Digest policy;
};
// TPM2B_PUBLIC of a sealed object with a SHA-256 name and policy. Errors: INVALID_ARGUMENT/MALFORMED.
Result<SealedArea> ParseSealedArea(ByteView tpm2b_public);

// Whether the three parts have the form of DuplicateSecret's, for `policy`: asked before a TPM is. Errors:
// INVALID_ARGUMENT/MALFORMED.
Status CheckDuplicate(const DuplicatedSecret& object, const Sha256Digest& policy);

}  // namespace sealift::tpm
