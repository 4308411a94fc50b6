// SBAT: the generations of boot components in an image, by which shim revokes old ones (shim's SBAT.md).
//
// Thread-safe functions over plain values.
#pragma once

#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace sealift::uki {

// The lines of `own` (a stub's .sbat, NULs at its end dropped) and then those of `given`, each once and ended
// by a line feed, under the one header line "sbat,1,...". A component of `given` that `own` has with another
// generation is refused: which of the two counts would be up to the reader. Errors:
// INVALID_ARGUMENT/UKI_LAYOUT_INVALID: a line that is not printable ASCII, has no component or no generation
// number, such a contradiction, or more than 16 KiB.
Result<std::string> MergeSbat(std::string_view own, std::string_view given);

}  // namespace sealift::uki
