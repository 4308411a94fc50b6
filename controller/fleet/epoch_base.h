// Leave for a machine to count its security epoch from another base, after what makes one.
#pragma once

#include <cstdint>

#include "controller/fleet/stores.h"
#include "shared/base/status.h"

namespace sealift::controller {

// In CertifiedEpoch::base: the next certification says what it is. The lowest epoch may not fall by it.
inline constexpr std::uint64_t kAnyEpochBase = UINT64_MAX;

// Once, for a node whose volumes were made anew: a reset that two persons ordered, or an installation.
// Nothing where none was certified yet. Errors: NOT_FOUND/NODE_UNKNOWN.
Status AcceptNewEpochBase(NodeStore& nodes, const NodeId& node);

}  // namespace sealift::controller
