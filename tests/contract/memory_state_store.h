// StateStore in memory: the model that SqliteStateStore must equal. Passes state_store_contract.h.
#pragma once

#include <memory>

#include "node-agent/update/state_store.h"

namespace sealift::agent {

// What outlives the store, as a disk outlives a process.
struct MemoryStateDisk {
  NodeState state = [] {
    NodeState fresh;
    fresh.fresh = true;
    return fresh;
  }();
  // The next commit fails with this and changes nothing.
  Status fail_next;
};

class MemoryStateStore final : public StateStore {
 public:
  explicit MemoryStateStore(std::shared_ptr<MemoryStateDisk> disk) : disk_(std::move(disk)) {}

  Result<NodeState> Load() override { return disk_->state; }
  Status Commit(const StateChange& change) override {
    if (const Status status = CheckChange(change); !status.ok()) {
      return MakeError(Code::kInvalidArgument, Reason::kInternal, MessageOf(status));
    }
    if (!disk_->fail_next.ok()) return std::exchange(disk_->fail_next, OkStatus());
    ApplyChange(change, disk_->state);
    return OkStatus();
  }

 private:
  std::shared_ptr<MemoryStateDisk> disk_;
};

}  // namespace sealift::agent
