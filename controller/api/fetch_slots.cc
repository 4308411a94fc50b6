#include "controller/api/fetch_slots.h"

#include <fmt/format.h>

namespace sealift::controller {

FetchSlots::Slot::~Slot() {
  if (slots_ == nullptr) return;
  const std::lock_guard lock(slots_->mutex_);
  --slots_->total_;
  const auto found = slots_->taken_.find(node_);
  if (--found->second == 0) slots_->taken_.erase(found);
}

Result<FetchSlots::Slot> FetchSlots::Take(const NodeId& node) {
  const std::lock_guard lock(mutex_);
  const auto found = taken_.find(node);
  const std::size_t own = found == taken_.end() ? 0 : found->second;
  if (own >= most_per_node_ || total_ >= most_) {
    return MakeError(Code::kResourceExhausted, Reason::kServerBusy,
                     fmt::format("serve content to node {}: {} of its own and {} streams in all run",
                                 node.text(), own, total_));
  }
  ++taken_[node];
  ++total_;
  return Slot(this, node);
}

}  // namespace sealift::controller
