// Whose a node's certificate is.
#pragma once

#include "shared/base/ids.h"
#include "shared/base/status.h"
#include "shared/crypto/certificate.h"

namespace sealift {

// Of a leaf that names exactly one "sealift:node:<uuid>". Who issued it is not looked at. Thread-safe.
// Errors: INVALID_ARGUMENT/CERTIFICATE_INVALID; those of NodeId::Parse.
Result<NodeId> NodeIdOf(const Certificate& leaf);

}  // namespace sealift
