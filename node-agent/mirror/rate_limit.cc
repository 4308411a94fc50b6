#include "node-agent/mirror/rate_limit.h"

#include <algorithm>
#include <thread>

namespace sealift::agent {

void RateLimit::Take(std::size_t bytes) {
  if (rate_ == 0) return;
  std::chrono::steady_clock::time_point due;
  {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(now - since_).count();
    // What was not used a second ago is gone.
    if (passed > 1000 && used_ * 1000 < rate_ * static_cast<std::uint64_t>(passed)) {
      since_ = now;
      used_ = 0;
    }
    used_ += bytes;
    due = since_ + std::chrono::microseconds(used_ * 1'000'000 / rate_);
  }
  std::this_thread::sleep_until(due);
}

std::size_t RateLimit::piece_bytes() const {
  constexpr std::uint64_t kLeast = 256;
  constexpr std::uint64_t kMost = 64u << 10;
  return static_cast<std::size_t>(rate_ == 0 ? kMost : std::clamp(rate_ / 16, kLeast, kMost));
}

}  // namespace sealift::agent
