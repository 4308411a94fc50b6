// Signed orders: the only way to make a node do something that cannot be taken back.
//
// A DSSE envelope by an `orders` key around a request that two persons signed (change_request.h), with the
// delegation that orders-root gave that key. A node believes none of these alone: whoever holds the
// controller has no person's key, and a person has no controller's. Thread-safe functions over plain values.
#pragma once

#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"
#include "shared/crypto/public_key.h"
#include "shared/crypto/signer.h"
#include "shared/order/change_request.h"

namespace sealift::order {

inline constexpr std::string_view kOrderPayloadType = "application/vnd.sealift.order+json";

struct OrderParts {
  // ParseChangeRequest takes it.
  std::string canonical;
  PersonSignature requester;
  PersonSignature approver;
  // Of MakeDelegation.
  std::string delegation;
  UnixMillis issued;
};

// The envelope's text; `orders` is one of the delegated keys. Errors: those of the signer; ORDER_MALFORMED
// when it would be larger than kMaxEnvelopeBytes.
Result<std::string> MakeOrder(const OrderParts& parts, Signer& orders);

// What the machine knows that judges an order.
struct OrderContext {
  // From the image.
  PublicKey orders_root;
  // From its TPM.
  Sha256Digest ek_digest;
  // The one in force.
  Bytes nonce;
  // Never before what signed metadata and the image prove.
  UnixMillis now;
};

class VerifiedOrder;

// The checks, in this order:
//   ORDER_MALFORMED          envelope, delegation, request: anything but their one form; too large
//   ORDER_SIGNATURE_INVALID  delegation not by orders_root, envelope not by a delegated key
//   ORDER_EXPIRED            the delegation's time, then the request's
//   ORDER_FOREIGN            another machine's EK
//   ORDER_REPLAYED           another nonce: carried out before, or the machine has obeyed another one since
//   ORDER_UNAPPROVED         not signed by two persons who may; certificates not valid at `now`, or at the
//                            request's creation where that is later (a clock that runs behind)
//   ORDER_UNSUPPORTED        an action of a later version
Result<VerifiedOrder> VerifyOrder(std::string_view envelope, const OrderContext& context);

// Evidence that VerifyOrder succeeded; nothing else makes one.
class VerifiedOrder {
 public:
  const ChangeRequest& request() const { return request_; }
  // SHA-256 of the canonical request: how outcomes name it.
  const Sha256Digest& digest() const { return digest_; }
  const Person& approver() const { return approver_; }

 private:
  friend Result<VerifiedOrder> VerifyOrder(std::string_view, const OrderContext&);
  VerifiedOrder(ChangeRequest request, const Sha256Digest& digest, Person approver)
      : request_(std::move(request)), digest_(digest), approver_(std::move(approver)) {}
  ChangeRequest request_;
  Sha256Digest digest_;
  Person approver_;
};

// Digest and action of an order without believing it: to name it in an outcome. Errors: ORDER_MALFORMED,
// ORDER_UNSUPPORTED.
struct OrderLabel {
  Sha256Digest digest;
  ChangeRequest request;
};
Result<OrderLabel> ReadOrderLabel(std::string_view envelope);

}  // namespace sealift::order
