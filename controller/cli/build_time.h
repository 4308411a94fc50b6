// The moment a build is of.
#pragma once

#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::cli {

// SOURCE_DATE_EPOCH, which makes a build repeatable to the byte; else now. Errors: INVALID_ARGUMENT.
Result<UnixMillis> BuildTime();

}  // namespace sealift::cli
