#include "shared/crypto/hmac.h"

#include <openssl/hmac.h>

namespace sealift {

Sha256Digest HmacSha256(ByteView key, ByteView message) {
  Sha256Digest mac;
  SEALIFT_CHECK(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), message.data(), message.size(),
                     mac.bytes.data(), nullptr) != nullptr);
  return mac;
}

}  // namespace sealift
