// What one node asks of another: GET of an object, from an offset on.
//
// Foreign bytes, bounded. Pure function; thread-safe.
#pragma once

#include <cstdint>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::agent {

struct ShareRequest {
  Sha256Digest digest;
  std::uint64_t offset = 0;
  bool operator==(const ShareRequest&) const = default;
};

inline constexpr std::size_t kMaxShareRequestBytes = 4096;

// Up to and with the empty line. "GET /objects/<2 hex>/<64 hex> HTTP/1.1", and of the fields "Range:
// bytes=N-". Errors: INVALID_ARGUMENT/INVALID_ARGUMENT.
Result<ShareRequest> ParseShareRequest(std::string_view head);

}  // namespace sealift::agent
