// Which of a node's calls came last, so that a report that was overtaken never overwrites what came after it.
//
// A node makes one call at a time; calls overlap here only where it gave one up. Thread-safe. Bounded by the
// calls under way and `max_nodes`.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>

#include "shared/base/ids.h"
#include "shared/base/status.h"

namespace sealift::controller {

class CallOrder {
 public:
  explicit CallOrder(std::size_t max_nodes = 1u << 20) : max_nodes_(max_nodes) {}

  // A call of the node came; gives its place.
  std::uint64_t Enter(const NodeId& node);
  // A call whose status is being written, until Written.
  void Writing(const NodeId& node);
  void Written(const NodeId& node);
  // Runs `enqueue`, which must not block, if no other call of the node came after `place` and none is still
  // writing. Errors: ABORTED/SERVER_BUSY.
  Status IfLatest(const NodeId& node, std::uint64_t place, const std::function<void()>& enqueue);

 private:
  struct Entry {
    std::uint64_t latest = 0;
    std::size_t writing = 0;
  };
  void MakeRoom();

  const std::size_t max_nodes_;
  std::mutex mutex_;
  std::map<NodeId, Entry> nodes_;
  std::uint64_t next_ = 0;
};

}  // namespace sealift::controller
