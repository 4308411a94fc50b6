// What orders-root says: which keys sign orders, and which CAs say who a person is.
//
// A DSSE envelope of its own, made where the root token is (`sealift keys init`, `sealift keys
// delegate-orders`), kept with the controller and carried by every order. Plain values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/base/clock.h"
#include "shared/base/status.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/public_key.h"
#include "shared/crypto/signer.h"

namespace sealift::order {

inline constexpr std::string_view kDelegationPayloadType = "application/vnd.sealift.orders-delegation+json";
// In a key set's folder.
inline constexpr std::string_view kDelegationFile = "orders-delegation.json";

struct Delegation {
  // Every generation of `orders` that may sign; at most 8.
  std::vector<PublicKey> orders;
  // Who issues operators' certificates; at most 8.
  std::vector<Certificate> operator_cas;
  UnixMillis issued;
  UnixMillis expires;
};

// The envelope's text. Errors: those of the signer.
Result<std::string> MakeDelegation(const Delegation& delegation, Signer& orders_root);

// Errors: INVALID_ARGUMENT/ORDER_MALFORMED; UNAUTHENTICATED/ORDER_SIGNATURE_INVALID;
// FAILED_PRECONDITION/ORDER_EXPIRED.
Result<Delegation> VerifyDelegation(std::string_view envelope, const PublicKey& orders_root, UnixMillis now);

}  // namespace sealift::order
