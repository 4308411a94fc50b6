// AES-256-GCM (NIST SP 800-38D) under keys that are used once. Thread-safe functions over plain values.
#pragma once

#include "shared/base/bytes.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"

namespace sealift {

inline constexpr std::size_t kAeadKeyBytes = 32;
inline constexpr std::size_t kAeadNonceBytes = 12;
// Follows the ciphertext.
inline constexpr std::size_t kAeadTagBytes = 16;

// The ciphertext with its tag. `associated` is authenticated beside it. Errors: INTERNAL/CRYPTO_FAILED, also
// for a key or nonce of another size.
Result<Bytes> AeadSeal(const SecretBytes& key, ByteView nonce, ByteView associated, const SecretBytes& plain);
// Errors: INVALID_ARGUMENT/MALFORMED where anything of it was changed, or is of another key.
Result<SecretBytes> AeadOpen(const SecretBytes& key, ByteView nonce, ByteView associated, ByteView sealed);

}  // namespace sealift
