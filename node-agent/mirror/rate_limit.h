// How many bytes a second may be taken, by however many threads together.
//
// Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>

namespace sealift::agent {

class RateLimit {
 public:
  // Bytes a second; 0: no limit.
  explicit RateLimit(std::uint64_t rate) : rate_(rate) {}

  // Counts bytes that were taken and sleeps until they were due.
  void Take(std::size_t bytes);
  // The most to take at a time, so that no sleep is long.
  std::size_t piece_bytes() const;

 private:
  const std::uint64_t rate_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point since_{};
  std::uint64_t used_ = 0;
};

}  // namespace sealift::agent
