#include "node-agent/update/agent_clock.h"

#include <algorithm>

namespace sealift::agent {

AgentClock::AgentClock(Clock& inner, UnixMillis image_built)
    : inner_(inner), floor_ms_(ToUnixMs(image_built)) {}

UnixMillis AgentClock::Now() const { return std::max(inner_.Now(), floor()); }

std::chrono::steady_clock::time_point AgentClock::Steady() const { return inner_.Steady(); }

bool AgentClock::SleepFor(std::chrono::milliseconds duration, std::stop_token stop) {
  return inner_.SleepFor(duration, std::move(stop));
}

void AgentClock::RaiseFloor(UnixMillis floor) {
  const std::int64_t wanted = ToUnixMs(floor);
  std::int64_t held = floor_ms_.load();
  while (held < wanted && !floor_ms_.compare_exchange_weak(held, wanted)) {
  }
}

}  // namespace sealift::agent
