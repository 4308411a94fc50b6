// Time as the agent believes it: never before what is known to have passed.
//
// A machine with a dead battery starts in the past, where expired metadata looks fresh. The floor is the
// build time measured with the running image, and the time at which metadata was last verified here: both
// were "now" once. Waiting and monotonic time are those of the clock beneath.
#pragma once

#include <atomic>

#include "shared/base/clock.h"

namespace sealift::agent {

// Thread-safe. Borrows `inner`, which outlives it.
class AgentClock final : public Clock {
 public:
  AgentClock(Clock& inner, UnixMillis image_built);
  // max(the clock beneath, the floor).
  UnixMillis Now() const override;
  std::chrono::steady_clock::time_point Steady() const override;
  bool SleepFor(std::chrono::milliseconds duration, std::stop_token stop) override;

  // Never lowers it.
  void RaiseFloor(UnixMillis floor);
  UnixMillis floor() const { return FromUnixMs(floor_ms_.load()); }

 private:
  Clock& inner_;
  std::atomic<std::int64_t> floor_ms_;
};

}  // namespace sealift::agent
