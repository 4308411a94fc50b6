// Moves rollouts as records change: one thread, woken by whoever changed one.
//
// Thread-safe. Holds no state of its own that matters: everything is in the stores, so it may be stopped at
// any moment and several controllers may run one each (the store refuses the slower of two that write the
// same rollout).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stop_token>
#include <string>

#include "controller/fleet/stores.h"
#include "shared/base/clock.h"

namespace sealift::controller {

class RolloutEngine {
 public:
  // Borrows all three.
  RolloutEngine(NodeStore& nodes, RolloutStore& rollouts, Clock& clock)
      : nodes_(nodes), rollouts_(rollouts), clock_(clock) {}

  // Something a rollout depends on changed.
  void Poke();
  // Evaluates on every poke until `stop`; the first time at once. A pass that failed is tried again after a
  // second.
  void Run(const std::stop_token& stop);
  // One pass over all rollouts that have not ended. Errors of one rollout do not keep the others from moving;
  // the first is returned.
  Status EvaluateAll();
  // A pass for what was just written. What goes wrong in it is no failure of the write: it is logged, and Run
  // tries again.
  void EvaluateNow();
  // An operator's order, then a pass. Errors: those of RolloutStore::Get and SetState.
  Result<Rollout> Order(const std::string& id, RolloutState target);

  // Counts saved changes, for those who watch.
  std::uint64_t generation() const;
  // Returns the current generation when it differs from `seen`, or after `patience`.
  std::uint64_t WaitForChange(std::uint64_t seen, std::chrono::milliseconds patience,
                              const std::stop_token& stop);

 private:
  Status EvaluateOne(const Rollout& rollout);
  Status Save(const Rollout& rollout, const Evaluation& evaluation);
  void Changed();

  NodeStore& nodes_;
  RolloutStore& rollouts_;
  Clock& clock_;
  // Held through a pass and through an order; taken before mutex_.
  std::mutex pass_;
  mutable std::mutex mutex_;
  std::condition_variable_any woken_;
  bool poked_ = true;
  std::uint64_t generation_ = 1;
};

}  // namespace sealift::controller
