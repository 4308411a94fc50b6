// Time, as a seam: everything that waits or compares times takes a Clock.
//
// Wall time is milliseconds since 1970-01-01T00:00:00Z, as on the wire and in the stores.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stop_token>
#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace sealift {

using UnixMillis = std::chrono::sys_time<std::chrono::milliseconds>;

inline std::int64_t ToUnixMs(UnixMillis time) { return time.time_since_epoch().count(); }
inline UnixMillis FromUnixMs(std::int64_t ms) { return UnixMillis(std::chrono::milliseconds(ms)); }
// "2026-11-23T02:51:58Z"; milliseconds are dropped.
std::string FormatRfc3339(UnixMillis time);
// Exactly the form above, as TUF metadata has it. Errors: INVALID_ARGUMENT/MALFORMED.
Result<UnixMillis> ParseRfc3339(std::string_view text);

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual UnixMillis Now() const = 0;
  // Monotonic, for deadlines and back-off.
  virtual std::chrono::steady_clock::time_point Steady() const = 0;
  // Returns early, false, when `stop` is requested.
  virtual bool SleepFor(std::chrono::milliseconds duration, std::stop_token stop) = 0;
};

class SystemClock final : public Clock {
 public:
  UnixMillis Now() const override;
  std::chrono::steady_clock::time_point Steady() const override;
  bool SleepFor(std::chrono::milliseconds duration, std::stop_token stop) override;
};

// Stands still until told. Sleepers wake when Advance passes their time.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(UnixMillis start) : now_(start) {}
  UnixMillis Now() const override;
  std::chrono::steady_clock::time_point Steady() const override;
  bool SleepFor(std::chrono::milliseconds duration, std::stop_token stop) override;
  void Advance(std::chrono::milliseconds by);
  // Moves wall time only, as an operator or a dead battery does.
  void SetWall(UnixMillis now);

 private:
  mutable std::mutex mutex_;
  std::condition_variable_any moved_;
  UnixMillis now_;
  std::chrono::steady_clock::time_point steady_{};
};

}  // namespace sealift
