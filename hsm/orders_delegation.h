// The delegation of orders (shared/order/delegation.h) from a key set's own keys.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hsm/key_ring.h"
#include "shared/base/clock.h"

namespace sealift::hsm {

inline constexpr std::int64_t kDelegationDays = 365;

// What orders-root says of `orders` and `operator_cas`, for so many days. Errors: INVALID_ARGUMENT; those of
// the signer.
Result<std::string> DelegateOrders(Signer& orders_root, std::vector<PublicKey> orders,
                                   std::vector<Certificate> operator_cas, UnixMillis now, std::int64_t days);

// The same for every generation of the ring's set; needs its `orders-root` key. Errors: those of KeyRing.
Result<std::string> DelegateOrders(KeyRing& ring, UnixMillis now, std::int64_t days);

}  // namespace sealift::hsm
