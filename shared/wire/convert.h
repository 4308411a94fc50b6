// Wire values into domain values, refusing what has the wrong shape.
#pragma once

#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/ids.h"

namespace sealift::wire {

// `what` names the field in the error. Errors: INVALID_ARGUMENT/MALFORMED unless exactly 32 bytes.
Result<Sha256Digest> DigestFromWire(std::string_view what, std::string_view bytes);
inline std::string ToWire(const Sha256Digest& digest) { return ToText(digest.view()); }
inline std::string ToWire(const ReleaseId& id) { return ToText(id.digest.view()); }

}  // namespace sealift::wire
