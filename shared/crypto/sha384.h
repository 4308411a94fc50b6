// SHA-384, for TPMs whose SHA-384 bank is used beside the SHA-256 one. Thread-safe functions; a hasher
// belongs to one thread.
#pragma once

#include <array>
#include <compare>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/crypto/openssl.h"

namespace sealift {

struct Sha384Digest {
  std::array<std::uint8_t, 48> bytes{};

  auto operator<=>(const Sha384Digest&) const = default;
  ByteView view() const { return bytes; }
  std::string hex() const { return HexEncode(bytes); }
  // Errors: INVALID_ARGUMENT/MALFORMED unless exactly 48 bytes in lower-case hex.
  static Result<Sha384Digest> FromHex(std::string_view hex);
};

Sha384Digest Sha384(ByteView bytes);

class Sha384Hasher {
 public:
  Sha384Hasher();
  void Update(ByteView bytes);
  // Ends this hash and starts the next.
  Sha384Digest Finish();

 private:
  EvpMdCtxPtr context_;
};

}  // namespace sealift
