#include "controller/api/call_order.h"

#include <fmt/format.h>

namespace sealift::controller {

std::uint64_t CallOrder::Enter(const NodeId& node) {
  const std::lock_guard lock(mutex_);
  if (nodes_.size() >= max_nodes_ && !nodes_.contains(node)) MakeRoom();
  return nodes_[node].latest = ++next_;
}

void CallOrder::Writing(const NodeId& node) {
  const std::lock_guard lock(mutex_);
  ++nodes_[node].writing;
}

void CallOrder::Written(const NodeId& node) {
  const std::lock_guard lock(mutex_);
  --nodes_[node].writing;
}

Status CallOrder::IfLatest(const NodeId& node, std::uint64_t place, const std::function<void()>& enqueue) {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  // A forgotten node has no call after this one either.
  if (found != nodes_.end() && (found->second.latest > place || found->second.writing > 0)) {
    return MakeError(Code::kAborted, Reason::kServerBusy,
                     fmt::format("take report of node {}: a newer call of it is under way", node.text()));
  }
  enqueue();
  return OkStatus();
}

void CallOrder::MakeRoom() {
  std::erase_if(nodes_, [](const auto& one) { return one.second.writing == 0; });
}

}  // namespace sealift::controller
