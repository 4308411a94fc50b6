// The outer wrapper of what TPMs give each other: encrypted to a storage key of the receiving TPM, bound to a
// Name.
//
// Credentials (Part 1, 24) and duplicated objects (Part 1, 23.3.2.3) share it: a seed for the storage key,
// from which both sides derive an AES-128-CFB key and an HMAC key. Thread-safe. The parsers are bounded by
// their input; they check the form alone, what is inside only the TPM can tell.
#pragma once

#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"
#include "shared/tpm/structures.h"

namespace sealift::tpm {

struct ProtectedObject {
  // TPM2B_ID_OBJECT or TPM2B_PRIVATE: TPM2B_DIGEST of the HMAC, then the ciphertext.
  Bytes blob;
  // TPM2B_ENCRYPTED_SECRET.
  Bytes encrypted_seed;
};

// `storage_key` must pass CheckEndorsementKey. `label`: "IDENTITY", "DUPLICATE"; what the seed is for.
// Errors: INVALID_ARGUMENT/EK_UNSUITABLE; CRYPTO_FAILED.
Result<ProtectedObject> ProtectFor(const PublicArea& storage_key, std::string_view label, ByteView name,
                                   const SecretBytes& plain);

// Of ProtectedObject::blob. Borrows the bytes.
struct OuterWrapper {
  ByteView hmac;
  ByteView ciphertext;
};
inline constexpr std::size_t kMaxProtectedBytes = 1024;
// An HMAC by SHA-256 and at least a length; at most kMaxProtectedBytes. Errors: INVALID_ARGUMENT/MALFORMED.
Result<OuterWrapper> ParseOuterWrapper(ByteView blob);

// Of a seed: RSA ciphertext, or the two coordinates of a point.
struct EncryptedSeed {
  ByteView rsa;
  ByteView x;
  ByteView y;
  bool ecc() const { return rsa.empty(); }
};
// For an RSA-2048 or a P-256 key. Errors: INVALID_ARGUMENT/MALFORMED.
Result<EncryptedSeed> ParseEncryptedSeed(ByteView encrypted_seed);

// `bytes` with its size before it, as every TPM2B.
Bytes SizedBytes(ByteView bytes);

}  // namespace sealift::tpm
