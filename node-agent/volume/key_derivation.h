// What is derived from a volume's sealed secret. Thread-safe functions.
#pragma once

#include <string_view>

#include "shared/base/secret.h"

namespace sealift::agent {

// HKDF-SHA256 (RFC 5869) without salt: 32 bytes for each `purpose`.
SecretBytes DeriveKey(ByteView secret, std::string_view purpose);

// HMAC-SHA256 under the key for "proof", over everything that makes a volume this one: its name, UUID,
// cipher and volume key, each with its length before it.
Sha256Digest VolumeTag(ByteView secret, std::string_view name, std::string_view luks_uuid,
                       std::string_view cipher, const SecretBytes& volume_key);

}  // namespace sealift::agent
