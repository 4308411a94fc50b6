// HMAC with SHA-256 (RFC 2104). Thread-safe.
#pragma once

#include "shared/base/bytes.h"

namespace sealift {

Sha256Digest HmacSha256(ByteView key, ByteView message);

}  // namespace sealift
