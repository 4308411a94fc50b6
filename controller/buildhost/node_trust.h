// What node.toml says of the key set whose releases the node runs.
#pragma once

#include <string>

#include "hsm/key_ring.h"
#include "shared/base/status.h"

namespace sealift::controller {

// Adds `orders.root_pem` from the set where the file has no [orders] table: an image of this set obeys orders
// that its root delegated. The file's own word stays. Errors: KEY_SET_INVALID.
Result<std::string> WithOrdersRoot(std::string node_config, const hsm::KeyRing& ring);

}  // namespace sealift::controller
