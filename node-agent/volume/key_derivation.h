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

// HMAC-SHA256 under the key for "recovery token": that the early boot of this machine wrote the token.
// `escrowed`: escrow::Format's; `slot_salt`: of the key slot it is for, so that an old token cannot speak for
// a new key in the same slot.
Sha256Digest RecoveryTag(ByteView secret, std::string_view escrowed, std::string_view order,
                         std::string_view slot_salt);

}  // namespace sealift::agent
