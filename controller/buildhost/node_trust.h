// What node.toml says of the key set whose releases the node runs.
#pragma once

#include <string>

#include "hsm/key_ring.h"
#include "shared/base/status.h"

namespace sealift::controller {

// Adds from the set `orders.root_pem` where the file has no [orders] table, and `escrow.public_pem` where it
// has no [escrow] table: an image of this set obeys orders that its root delegated, and its recovery keys are
// for its custodians. The newest generation of each; the file's own word stays. Errors: KEY_SET_INVALID.
Result<std::string> WithKeySetTrust(std::string node_config, const hsm::KeyRing& ring);

}  // namespace sealift::controller
