// SHA-256, in one go and in pieces. Thread-safe functions; a hasher belongs to one thread.
#pragma once

#include "shared/base/bytes.h"
#include "shared/crypto/openssl.h"

namespace sealift {

Sha256Digest Sha256(ByteView bytes);

class Sha256Hasher {
 public:
  Sha256Hasher();
  void Update(ByteView bytes);
  // Ends this hash and starts the next.
  Sha256Digest Finish();

 private:
  EvpMdCtxPtr context_;
};

// Bytes from OpenSSL's cryptographic generator. Ends the process if it has none, which no caller could mend.
Bytes RandomBytes(std::size_t count);

}  // namespace sealift
