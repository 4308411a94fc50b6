#include "shared/crypto/hash.h"

#include <openssl/rand.h>

namespace sealift {

Sha256Hasher::Sha256Hasher() : context_(EVP_MD_CTX_new()) {
  SEALIFT_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
}

void Sha256Hasher::Update(ByteView bytes) {
  SEALIFT_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
}

Sha256Digest Sha256Hasher::Finish() {
  Sha256Digest digest;
  unsigned size = 0;
  SEALIFT_CHECK(EVP_DigestFinal_ex(context_.get(), digest.bytes.data(), &size) == 1 &&
                size == digest.bytes.size());
  SEALIFT_CHECK(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  return digest;
}

Sha256Digest Sha256(ByteView bytes) {
  Sha256Hasher hasher;
  hasher.Update(bytes);
  return hasher.Finish();
}

Bytes RandomBytes(std::size_t count) {
  Bytes bytes(count);
  SEALIFT_CHECK(RAND_bytes(bytes.data(), static_cast<int>(count)) == 1);
  return bytes;
}

}  // namespace sealift
