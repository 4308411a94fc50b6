#include "controller/fleet/epoch_base.h"

namespace sealift::controller {

Status AcceptNewEpochBase(NodeStore& nodes, const NodeId& id) {
  SEALIFT_ASSIGN_OR_RETURN(const Node node, nodes.Get(id));
  if (!node.certified_epoch) return OkStatus();
  CertifiedEpoch epoch = *node.certified_epoch;
  epoch.base = kAnyEpochBase;
  return nodes.RecordEpoch(id, epoch);
}

}  // namespace sealift::controller
