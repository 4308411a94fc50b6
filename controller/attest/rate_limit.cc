#include "controller/attest/rate_limit.h"

#include <algorithm>
#include <iterator>

namespace sealift::controller {

std::optional<std::chrono::milliseconds> RateLimiter::Wait(const Sha256Digest& key) {
  const auto now = clock_.Steady();
  const std::lock_guard lock(mutex_);
  if (buckets_.size() >= max_keys_ && !buckets_.contains(key)) MakeRoom(now);
  Bucket& bucket = buckets_.try_emplace(key, Bucket{.tokens = limit_.burst, .filled = now}).first->second;
  Refill(bucket, now);
  if (bucket.tokens == 0) {
    return std::chrono::ceil<std::chrono::milliseconds>(bucket.filled + limit_.refill - now);
  }
  --bucket.tokens;
  return std::nullopt;
}

void RateLimiter::Refill(Bucket& bucket, std::chrono::steady_clock::time_point now) const {
  const auto gained = (now - bucket.filled) / limit_.refill;
  if (gained <= 0) return;
  bucket.filled += gained * limit_.refill;
  bucket.tokens = gained >= limit_.burst ? limit_.burst
                                         : std::min(limit_.burst, bucket.tokens + static_cast<int>(gained));
}

void RateLimiter::MakeRoom(std::chrono::steady_clock::time_point now) {
  for (auto at = buckets_.begin(); at != buckets_.end();) {
    Refill(at->second, now);
    at = at->second.tokens == limit_.burst ? buckets_.erase(at) : std::next(at);
  }
  if (buckets_.size() >= max_keys_) buckets_.clear();
}

}  // namespace sealift::controller
