// Work on foreign bytes in a process of its own that can do nothing but compute.
//
// The child is a copy of this process: it holds what `work` refers to, keeps no file open but those that are
// named, has no capability, and may make only the calls that reading and writing open files and memory take
// (seccomp; others fail with EPERM). It cannot open, connect, start or signal anything, map code, or gain
// rights. Memory and processor time are bounded; it ends with this process.
//
// Nothing it says is believed: the caller bounds and checks what comes out. Called by one thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::agent {

struct Confinement {
  // Open files that `prepare` and `work` use.
  std::vector<int> keep;
  // Beyond what this process has mapped already. Not with sanitizers, which map everything.
  std::uint64_t memory_bytes = 512u << 20;
  std::chrono::seconds processor_time = std::chrono::minutes(20);
  // It is given up when nothing comes out for so long: a lock that another thread held when the process was
  // copied stays locked there for ever.
  std::chrono::milliseconds silence = std::chrono::minutes(3);
};

using ConfinedSink = std::function<Status(ByteView)>;

// Runs in the child: `prepare`, which may still do everything (open files), then `work` under all limits.
// What `work` hands to its sink comes to `sink` here, in order.
// Errors: those of `sink`; those that prepare and work end with, as the child tells them, without native
// codes; FAILED_PRECONDITION/TOOL_FAILED where the child could not be made or confined;
// INVALID_ARGUMENT/DELTA_INVALID when it ended otherwise: a signal, silence, too much memory.
Status RunConfined(const Confinement& limits, const std::function<Status()>& prepare,
                   const std::function<Status(const ConfinedSink&)>& work, const ConfinedSink& sink);

}  // namespace sealift::agent
