// How many content streams may run at once: a bound for each node, so that none takes the threads of all
// others, and one for the whole controller, so that operators and check-ins always find a thread.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

#include "shared/base/ids.h"
#include "shared/base/status.h"

namespace sealift::controller {

// Thread-safe. Outlives every Slot it hands out.
class FetchSlots {
 public:
  FetchSlots(std::size_t most_per_node, std::size_t most) : most_per_node_(most_per_node), most_(most) {}

  // Held while a stream runs. Move-only.
  class Slot {
   public:
    Slot(Slot&& other) noexcept
        : slots_(std::exchange(other.slots_, nullptr)), node_(std::move(other.node_)) {}
    Slot& operator=(Slot&&) = delete;
    ~Slot();

   private:
    friend class FetchSlots;
    Slot(FetchSlots* slots, const NodeId& node) : slots_(slots), node_(node) {}
    FetchSlots* slots_;
    NodeId node_;
  };

  // Errors: RESOURCE_EXHAUSTED/SERVER_BUSY; worth a later try.
  Result<Slot> Take(const NodeId& node);

 private:
  const std::size_t most_per_node_;
  const std::size_t most_;
  std::mutex mutex_;
  std::map<NodeId, std::size_t> taken_;
  std::size_t total_ = 0;
};

}  // namespace sealift::controller
