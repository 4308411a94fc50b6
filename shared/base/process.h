// What a process that handles secrets does about itself before it touches one.
#pragma once

#include "shared/base/status.h"

namespace sealift {

// No core file, and no other process of this user may attach or read its memory. Call it first in main.
// Errors: UNAVAILABLE/INTERNAL.
Status ForbidCoreDumps();

}  // namespace sealift
