// How many nodes there are of each kind, without reading any of them.
#pragma once

#include <cstddef>
#include <vector>

#include "controller/fleet/node.h"

namespace sealift::controller {

struct NodeGroup {
  // kUnknown also for a node that has not been heard since its controller keeps the state apart.
  UpdateState state = UpdateState::kUnknown;
  Admission admission = Admission::kPending;
  Trust trust = Trust::kUnspecified;
  std::size_t nodes = 0;
  bool operator==(const NodeGroup&) const = default;
};

// Thread-safe. Conformance: unit:controller/store.
class NodeCounts {
 public:
  virtual ~NodeCounts() = default;
  // Groups that have nodes, in the order of their members. Errors: UNAVAILABLE/STORE_FAILED.
  virtual Result<std::vector<NodeGroup>> CountNodes() = 0;
};

}  // namespace sealift::controller
