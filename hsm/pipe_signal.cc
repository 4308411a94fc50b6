#include "hsm/pipe_signal.h"

#include <signal.h>

#include <ctime>
#include <utility>

namespace sealift::hsm {
namespace {

struct Held {
  int depth = 0;
  bool was_blocked = false;
};
thread_local Held held;

sigset_t PipeOnly() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  return set;
}

}  // namespace

PipeSignalHeld::PipeSignalHeld() {
  if (held.depth++ > 0) return;
  const sigset_t pipe_only = PipeOnly();
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
  held.was_blocked = sigismember(&before, SIGPIPE) == 1;
}

PipeSignalHeld::PipeSignalHeld(PipeSignalHeld&& other) noexcept
    : holds_(std::exchange(other.holds_, false)) {}

PipeSignalHeld::~PipeSignalHeld() {
  if (!holds_ || --held.depth > 0 || held.was_blocked) return;
  const sigset_t pipe_only = PipeOnly();
  const timespec at_once{};
  // One that came meanwhile is pending for this thread alone, and is the module's.
  sigtimedwait(&pipe_only, nullptr, &at_once);
  pthread_sigmask(SIG_UNBLOCK, &pipe_only, nullptr);
}

}  // namespace sealift::hsm
