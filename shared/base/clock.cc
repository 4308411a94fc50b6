#include "shared/base/clock.h"

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <ctime>

namespace sealift {

std::string FormatRfc3339(UnixMillis time) {
  const std::time_t seconds = std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count();
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

Result<UnixMillis> ParseRfc3339(std::string_view text) {
  const auto malformed = [&] {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("parse time '{}': expected YYYY-MM-DDTHH:MM:SSZ", text.substr(0, 40)));
  };
  constexpr std::string_view kShape = "dddd-dd-ddTdd:dd:ddZ";
  if (text.size() != kShape.size()) return malformed();
  std::array<int, 6> fields{};
  std::size_t field = 0;
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    if (kShape[i] != 'd') {
      if (text[i] != kShape[i]) return malformed();
      ++field;
    } else if (text[i] < '0' || text[i] > '9') {
      return malformed();
    } else {
      fields.at(field) = fields.at(field) * 10 + (text[i] - '0');
    }
  }
  const std::chrono::year_month_day date{std::chrono::year(fields[0]),
                                         std::chrono::month(static_cast<unsigned>(fields[1])),
                                         std::chrono::day(static_cast<unsigned>(fields[2]))};
  if (!date.ok() || fields[3] > 23 || fields[4] > 59 || fields[5] > 59) return malformed();
  return UnixMillis(std::chrono::sys_days(date)) + std::chrono::hours(fields[3]) +
         std::chrono::minutes(fields[4]) + std::chrono::seconds(fields[5]);
}

UnixMillis SystemClock::Now() const {
  return std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
}

std::chrono::steady_clock::time_point SystemClock::Steady() const { return std::chrono::steady_clock::now(); }

bool SystemClock::SleepFor(std::chrono::milliseconds duration, std::stop_token stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, stop, duration, [] { return false; });
  return !stop.stop_requested();
}

UnixMillis FakeClock::Now() const {
  const std::lock_guard lock(mutex_);
  return now_;
}

std::chrono::steady_clock::time_point FakeClock::Steady() const {
  const std::lock_guard lock(mutex_);
  return steady_;
}

bool FakeClock::SleepFor(std::chrono::milliseconds duration, std::stop_token stop) {
  std::unique_lock lock(mutex_);
  const auto until = steady_ + duration;
  moved_.wait(lock, stop, [&] { return steady_ >= until; });
  return !stop.stop_requested();
}

void FakeClock::Advance(std::chrono::milliseconds by) {
  {
    const std::lock_guard lock(mutex_);
    now_ += by;
    steady_ += by;
  }
  moved_.notify_all();
}

void FakeClock::SetWall(UnixMillis now) {
  const std::lock_guard lock(mutex_);
  now_ = now;
}

}  // namespace sealift
