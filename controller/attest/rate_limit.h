// Token buckets by key: so many at once, then one per interval.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <optional>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"

namespace sealift::controller {

struct RateLimit {
  int burst = 10;
  std::chrono::microseconds refill = std::chrono::seconds(30);
};

// Thread-safe. Keeps at most `max_keys` buckets; when there are more, full ones are forgotten first, then all
// that is left: a flood of keys resets counts, it does not take memory.
class RateLimiter {
 public:
  RateLimiter(RateLimit limit, const Clock& clock, std::size_t max_keys = 65536)
      : limit_(limit), clock_(clock), max_keys_(max_keys) {}

  // Takes one token of `key`; false when there is none.
  bool Allow(const Sha256Digest& key) { return !Wait(key); }
  // The same; nothing when there was one, else how long until the next, rounded up.
  std::optional<std::chrono::milliseconds> Wait(const Sha256Digest& key);

 private:
  struct Bucket {
    int tokens = 0;
    std::chrono::steady_clock::time_point filled;
  };
  void Refill(Bucket& bucket, std::chrono::steady_clock::time_point now) const;
  void MakeRoom(std::chrono::steady_clock::time_point now);

  const RateLimit limit_;
  const Clock& clock_;
  const std::size_t max_keys_;
  std::mutex mutex_;
  std::map<Sha256Digest, Bucket> buckets_;
};

}  // namespace sealift::controller
