#include "shared/wire/convert.h"

namespace sealift::wire {

Result<Sha256Digest> DigestFromWire(std::string_view what, std::string_view bytes) {
  auto digest = Sha256Digest::FromBytes(AsBytes(bytes));
  if (!digest.ok()) return Annotate(digest.status(), what);
  return digest;
}

}  // namespace sealift::wire
