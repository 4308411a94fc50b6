// What a node is told at a check-in: when to come again, and whether to quote. Pure.
#pragma once

#include <chrono>
#include <cstdint>

#include "controller/fleet/stores.h"

namespace sealift::controller {

struct CheckInPolicy {
  // Between check-ins of a node with nothing to do.
  std::chrono::milliseconds poll = std::chrono::seconds(30);
  // While it has another version to reach, or is not trusted.
  std::chrono::milliseconds busy_poll = std::chrono::seconds(5);
  // A trusted verdict is renewed after this.
  std::chrono::milliseconds quote_interval = std::chrono::hours(1);
  // After a verdict that was not trusted.
  std::chrono::milliseconds quote_retry = std::chrono::seconds(15);
  // How long a nonce may be quoted.
  std::chrono::milliseconds nonce_lifetime = std::chrono::minutes(2);
  // A node that is about to begin an update was quoted no longer ago.
  std::chrono::milliseconds before_update = std::chrono::minutes(10);
};

// A quote is due after each boot, at the interval, before an update begins, again while the last one was not
// trusted, and when the node says that its epoch was raised above the certified one.
bool QuoteDue(const CheckInView& view, const NodeStatus& status, UnixMillis now, const CheckInPolicy& policy);
// Firmware tried other boot options on the way to this boot, of a node that is admitted and trusted all the
// same: one clean reboot sets that right. The node decides when.
bool CureDue(const CheckInView& view, const NodeStatus& status);
// `spread`: any number; turns the interval into 80 % to 120 % of it, so that a fleet does not come at once.
std::chrono::milliseconds PollAfter(const CheckInView& view, const NodeStatus& status,
                                    const CheckInPolicy& policy, std::uint32_t spread);

}  // namespace sealift::controller
