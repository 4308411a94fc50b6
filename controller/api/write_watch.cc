#include "controller/api/write_watch.h"

#include <algorithm>

namespace sealift::controller {

WriteWatch::Piece::Piece(WriteWatch& watch, grpc::ServerContextBase& context)
    : watch_(watch), context_(context) {
  bool idle = false;
  {
    const std::lock_guard lock(watch_.mutex_);
    idle = watch_.idle_;
    watch_.under_way_[&context_] = std::chrono::steady_clock::now() + watch_.patience_;
  }
  // Otherwise the watcher wakes for an earlier one: being woken for each would cost more than sending it.
  if (idle) watch_.changed_.notify_one();
}

WriteWatch::Piece::~Piece() {
  const std::lock_guard lock(watch_.mutex_);
  watch_.under_way_.erase(&context_);
}

void WriteWatch::Run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    if (under_way_.empty()) {
      idle_ = true;
      changed_.wait(lock, stop, [this] { return !under_way_.empty(); });
      idle_ = false;
      continue;
    }
    const auto now = std::chrono::steady_clock::now();
    TimePoint next = now + patience_;
    for (auto& [context, ends] : under_way_) {
      if (ends <= now) {
        context->TryCancel();
        // Once; it is gone when its write returns.
        ends = TimePoint::max();
      } else {
        next = std::min(next, ends);
      }
    }
    changed_.wait_until(lock, stop, next, [] { return false; });
  }
}

}  // namespace sealift::controller
