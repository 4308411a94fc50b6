#include "hsm/orders_delegation.h"

#include <fmt/format.h>

#include "shared/order/delegation.h"

namespace sealift::hsm {

Result<std::string> DelegateOrders(Signer& orders_root, std::vector<PublicKey> orders,
                                   std::vector<Certificate> operator_cas, UnixMillis now, std::int64_t days) {
  const UnixMillis expires = now + std::chrono::hours(24) * days;
  if (days < 1 || expires > FromUnixMs(253402300799000)) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("delegate orders: it cannot last {} days", days));
  }
  return order::MakeDelegation({.orders = std::move(orders),
                                .operator_cas = std::move(operator_cas),
                                .issued = now,
                                .expires = expires},
                               orders_root);
}

Result<std::string> DelegateOrders(KeyRing& ring, UnixMillis now, std::int64_t days) {
  std::vector<PublicKey> orders;
  for (const InventoryKey* key : ring.inventory().Generations("orders")) {
    SEALIFT_ASSIGN_OR_RETURN(PublicKey one, ring.PublicKeyFor(*key));
    orders.push_back(std::move(one));
  }
  SEALIFT_ASSIGN_OR_RETURN(std::vector<Certificate> cas, ring.CertificatesFor("operator-ca"));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> root, ring.SignerFor("orders-root"));
  return DelegateOrders(*root, std::move(orders), std::move(cas), now, days);
}

}  // namespace sealift::hsm
