// Where requests are made, approved, turned into orders and followed to their end.
//
// The desk adds nothing of its own authority: it refuses what a node would refuse, so that people hear of it
// at once, but a node believes the persons' signatures and not the desk. Thread-safe; borrows its parts.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "controller/fleet/request.h"
#include "controller/fleet/stores.h"
#include "shared/base/clock.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/signer.h"

namespace sealift::controller {

// Who calls, as the gate proved it.
struct RequestCaller {
  std::string name;
  // "operator", "approver", "custodian".
  std::string role;
  // DER of the certificate of the call.
  Bytes certificate;
};

struct RequestDeskParts {
  RequestStore& requests;
  EscrowStore& escrow;
  NodeStore& nodes;
  // Who may not speak any more.
  CertificateStore& certificates;
  const Clock& clock;
  std::vector<Certificate> operator_cas;
  // Signs orders. Null: this controller gives none.
  std::shared_ptr<Signer> orders;
  // Any generation of orders-root; the delegation is by one of them.
  std::vector<PublicKey> orders_roots;
  // Read at each approval, so that a new one needs no restart.
  std::function<Result<std::string>()> delegation;
};

class RequestDesk {
 public:
  explicit RequestDesk(RequestDeskParts parts) : parts_(std::move(parts)) {}

  // Errors: those of ParseChangeRequest; PERMISSION_DENIED/ORDER_UNAPPROVED (the requester in it is not the
  // caller, or may not ask for this); NOT_FOUND/NODE_UNKNOWN; ORDER_FOREIGN (the node has another EK);
  // ORDER_REPLAYED (the node has told another nonce since); ORDER_EXPIRED;
  // NOT_FOUND/RECOVERY_KEY_UNKNOWN; UNAUTHENTICATED/APPROVAL_INVALID (the signature).
  Result<RequestRecord> Create(const RequestCaller& caller, const std::string& canonical, ByteView signature);
  // Makes the order, where one follows, and proves it as the node will. Errors: REQUEST_UNKNOWN,
  // REQUEST_STATE_WRONG (also when its time is over); PERMISSION_DENIED/APPROVAL_BY_REQUESTER;
  // UNAUTHENTICATED/APPROVAL_INVALID; KEY_SET_INVALID without an orders key or delegation; those of
  // order::VerifyOrder, of which ORDER_EXPIRED is about the delegation; CERTIFICATE_REVOKED (the
  // requester's); those of the signer.
  Result<RequestRecord> Approve(const RequestCaller& caller, const std::string& id, ByteView signature);
  // By its requester or an approver, while the node has not been given it. Errors: REQUEST_UNKNOWN,
  // REQUEST_STATE_WRONG; PERMISSION_DENIED/RPC_NOT_PERMITTED for another person's.
  Result<RequestRecord> Cancel(const RequestCaller& caller, const std::string& id, const std::string& reason);
  // The node's escrowed keys, newest first. Errors: REQUEST_UNKNOWN, REQUEST_STATE_WRONG;
  // PERMISSION_DENIED with RPC_NOT_PERMITTED for anybody but the requester, CERTIFICATE_REVOKED when one of
  // both persons was revoked since; NOT_FOUND/RECOVERY_KEY_UNKNOWN.
  Result<std::vector<EscrowedKey>> ReleaseRecoveryKeys(const RequestCaller& caller, const std::string& id);

  // Envelopes for a node that tells `nonce`, of those that wait for it. One whose requester or approver was
  // revoked since is not handed out, and fails unless the node has been given it before.
  std::vector<std::string> Deliver(const std::vector<PendingOrder>& waiting, const Bytes& nonce);
  // Whether the outcome is stored, or about nothing of that node: it need not come again.
  bool TakeOutcome(const NodeId& node, const OrderOutcome& outcome);

 private:
  // Errors: PERMISSION_DENIED/CERTIFICATE_REVOKED; those of the store.
  Status CheckStanding(const RequestRecord& record, std::string_view doing);
  Status CheckAgainstNode(const order::ChangeRequest& request);
  Result<std::string> MakeOrder(const RequestRecord& record);
  Status ProveOrder(const std::string& envelope, const order::ChangeRequest& request);
  void Fail(const std::string& id, Reason reason, const std::string& message);
  void FailUnreplaced(const std::string& id);

  const RequestDeskParts parts_;
};

}  // namespace sealift::controller
