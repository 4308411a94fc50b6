// How often nodes may check in and report: a bucket for each node, and one for all of them. Who has none left
// is told when to come again, before anything is read or written for him.
#pragma once

#include <grpcpp/server_context.h>

#include <chrono>
#include <optional>

#include "controller/attest/rate_limit.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"

namespace sealift::controller {

struct NodeCallLimits {
  // An agent with work to do calls every few seconds.
  RateLimit per_node{.burst = 60, .refill = std::chrono::milliseconds(500)};
  RateLimit total{.burst = 20'000, .refill = std::chrono::microseconds(250)};
  // How long a node may take over one piece (64 KiB) of a content stream; on the slowest link that is any
  // good it takes a few seconds.
  std::chrono::milliseconds piece_patience = std::chrono::seconds(30);
};

// Thread-safe.
class CallLimits {
 public:
  CallLimits(const NodeCallLimits& limits, const Clock& clock)
      : nodes_(limits.per_node, clock), total_(limits.total, clock, 1) {}

  // Takes one call; nothing when it may go on, else how long to wait. The node's own bucket is asked first: a
  // node that hammers uses up nothing of the others.
  std::optional<std::chrono::milliseconds> Wait(const NodeId& node);

 private:
  RateLimiter nodes_;
  RateLimiter total_;
};

// RESOURCE_EXHAUSTED/SERVER_BUSY, with wire::kRetryAfter in `context`.
grpc::Status TurnAway(grpc::ServerContextBase& context, const NodeId& node, std::chrono::milliseconds wait);

}  // namespace sealift::controller
