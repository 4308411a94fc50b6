// When a peer that was turned away may come again.
#pragma once

namespace sealift::wire {

// Trailing metadata of a call that ends with RESOURCE_EXHAUSTED: milliseconds, decimal.
inline constexpr char kRetryAfter[] = "retry-after-ms";

}  // namespace sealift::wire
