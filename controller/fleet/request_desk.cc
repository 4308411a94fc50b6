#include "controller/fleet/request_desk.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "controller/fleet/epoch_base.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/order/order.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxOrdersAtOnce = 4;

Status WrongState(const RequestRecord& record, UnixMillis now, std::string_view doing) {
  return MakeError(Code::kFailedPrecondition, Reason::kRequestStateWrong,
                   fmt::format("{} request {}: it is {}", doing, record.request.id,
                               RequestStateName(StateAt(record, now))));
}

Status NotYours(const RequestRecord& record, std::string_view doing) {
  return MakeError(
      Code::kPermissionDenied, Reason::kRpcNotPermitted,
      fmt::format("{} request {}: it is {}'s", doing, record.request.id, record.request.requester));
}

bool IsRelease(const RequestRecord& record) {
  return record.request.action == order::Action::kReleaseRecoveryKey;
}

}  // namespace

Status RequestDesk::CheckStanding(const RequestRecord& record, std::string_view doing) {
  for (const auto& [person, name] : {std::pair(&record.requester, &record.request.requester),
                                     std::pair(&record.approver, &record.approver_name)}) {
    if (person->certificate.empty()) continue;
    SEALIFT_ASSIGN_OR_RETURN(const bool revoked, parts_.certificates.IsRevoked(Sha256(person->certificate)));
    if (!revoked) continue;
    return MakeError(
        Code::kPermissionDenied, Reason::kCertificateRevoked,
        fmt::format("{} request {}: the certificate of {} was revoked", doing, record.request.id, *name));
  }
  return OkStatus();
}

Status RequestDesk::CheckAgainstNode(const order::ChangeRequest& request) {
  SEALIFT_ASSIGN_OR_RETURN(const Node node, parts_.nodes.Get(request.node));
  if (node.ek_digest != request.ek_digest) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kOrderForeign,
        fmt::format("make request {}: node {} is another machine", request.id, request.node.text()));
  }
  // An empty one is for machines that told none: a release with it is followed by no order to replace the
  // key.
  if (request.nonce != node.status.order_nonce) {
    return MakeError(Code::kFailedPrecondition, Reason::kOrderReplayed,
                     fmt::format("make request {}: node {} told another nonce since; ask again", request.id,
                                 request.node.text()));
  }
  if (request.action != order::Action::kReleaseRecoveryKey) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const auto keys, parts_.escrow.List(request.node));
  if (!keys.empty()) return OkStatus();
  return MakeError(
      Code::kNotFound, Reason::kRecoveryKeyUnknown,
      fmt::format("make request {}: node {} has escrowed no recovery key", request.id, request.node.text()));
}

Result<RequestRecord> RequestDesk::Create(const RequestCaller& caller, const std::string& canonical,
                                          ByteView signature) {
  const UnixMillis now = parts_.clock.Now();
  SEALIFT_ASSIGN_OR_RETURN(order::ChangeRequest request, order::ParseChangeRequest(canonical));
  const bool may_ask = caller.role == "custodian" ||
                       (caller.role == "operator" && request.action != order::Action::kReleaseRecoveryKey);
  if (request.requester != caller.name || !may_ask) {
    return MakeError(Code::kPermissionDenied, Reason::kOrderUnapproved,
                     fmt::format("make request {}: {} as {} may not ask for this in the name of {}",
                                 request.id, caller.name, caller.role, request.requester));
  }
  if (now >= request.expires) {
    return MakeError(Code::kFailedPrecondition, Reason::kOrderExpired,
                     fmt::format("make request {}: its time is over; check the clocks", request.id));
  }
  SEALIFT_RETURN_IF_ERROR(CheckAgainstNode(request));
  order::PersonSignature person{.certificate = caller.certificate, .signature = ToBytes(signature)};
  if (const auto who = order::VerifyPerson(person, canonical, parts_.operator_cas, now); !who.ok())
    return MakeError(Code::kUnauthenticated, Reason::kApprovalInvalid, MessageOf(who.status()));
  RequestRecord record{.request = std::move(request),
                       .canonical = canonical,
                       .digest = Sha256(AsBytes(canonical)),
                       .requester = std::move(person)};
  return parts_.requests.Create(record);
}

Status RequestDesk::ProveOrder(const std::string& envelope, const order::ChangeRequest& request) {
  Status last = MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                          "make order: the key set has no orders-root");
  for (const PublicKey& root : parts_.orders_roots) {
    last = order::VerifyOrder(envelope, {.orders_root = root,
                                         .ek_digest = request.ek_digest,
                                         .nonce = request.nonce,
                                         .now = parts_.clock.Now()})
               .status();
    if (last.ok()) return last;
  }
  return last;
}

Result<std::string> RequestDesk::MakeOrder(const RequestRecord& record) {
  if (parts_.orders == nullptr) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeySetInvalid,
                     "make order: this controller has no orders key");
  }
  SEALIFT_ASSIGN_OR_RETURN(std::string delegation, parts_.delegation());
  SEALIFT_ASSIGN_OR_RETURN(std::string envelope, order::MakeOrder({.canonical = record.canonical,
                                                                   .requester = record.requester,
                                                                   .approver = record.approver,
                                                                   .delegation = std::move(delegation),
                                                                   .issued = parts_.clock.Now()},
                                                                  *parts_.orders));
  SEALIFT_RETURN_IF_ERROR(ProveOrder(envelope, record.request));
  return envelope;
}

Result<RequestRecord> RequestDesk::Approve(const RequestCaller& caller, const std::string& id,
                                           ByteView signature) {
  const UnixMillis now = parts_.clock.Now();
  SEALIFT_ASSIGN_OR_RETURN(RequestRecord record, parts_.requests.Get(id));
  if (StateAt(record, now) != RequestState::kOpen) return WrongState(record, now, "approve");
  SEALIFT_RETURN_IF_ERROR(CheckStanding(record, "approve"));
  record.approver = {.certificate = caller.certificate, .signature = ToBytes(signature)};
  const auto who = order::VerifyPerson(record.approver, record.canonical, parts_.operator_cas, now);
  if (!who.ok()) return MakeError(Code::kUnauthenticated, Reason::kApprovalInvalid, MessageOf(who.status()));
  const order::Person requester{.name = record.request.requester,
                                .role = IsRelease(record) ? "custodian" : "operator"};
  if (const Status two =
          order::CheckTwoPersons(record.request, requester, record.requester, *who, record.approver);
      !two.ok()) {
    return MakeError(Code::kPermissionDenied, Reason::kApprovalByRequester,
                     fmt::format("approve request {}: {}", record.request.id, MessageOf(two)));
  }
  record.approver_name = who->name;
  record.approved = now;
  record.state = RequestState::kApproved;
  if (!record.request.nonce.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(record.envelope, MakeOrder(record));
  }
  SEALIFT_RETURN_IF_ERROR(parts_.requests.Move(record, RequestState::kOpen));
  log::Info("request approved", {{"node", record.request.node.text()},
                                 {"state", std::string(order::ActionName(record.request.action))},
                                 {"key", record.digest.hex()}});
  return record;
}

Result<RequestRecord> RequestDesk::Cancel(const RequestCaller& caller, const std::string& id,
                                          const std::string& reason) {
  const UnixMillis now = parts_.clock.Now();
  SEALIFT_ASSIGN_OR_RETURN(RequestRecord record, parts_.requests.Get(id));
  const RequestState state = StateAt(record, now);
  if (state != RequestState::kOpen && state != RequestState::kApproved)
    return WrongState(record, now, "cancel");
  if (caller.role != "approver" && caller.name != record.request.requester) return NotYours(record, "cancel");
  const RequestState from = record.state;
  record.state = RequestState::kCancelled;
  record.outcome = OrderOutcome{
      .request_digest = record.digest,
      .message = fmt::format("cancelled by {}{}{}", caller.name, reason.empty() ? "" : ": ", reason),
      .at = now};
  SEALIFT_RETURN_IF_ERROR(parts_.requests.Move(record, from));
  return record;
}

Result<std::vector<EscrowedKey>> RequestDesk::ReleaseRecoveryKeys(const RequestCaller& caller,
                                                                  const std::string& id) {
  const UnixMillis now = parts_.clock.Now();
  SEALIFT_ASSIGN_OR_RETURN(RequestRecord record, parts_.requests.Get(id));
  const bool approved = record.state == RequestState::kApproved || record.state == RequestState::kDelivered;
  if (!IsRelease(record) || !approved || now >= record.request.expires)
    return WrongState(record, now, "release the recovery key of");
  if (caller.name != record.request.requester) return NotYours(record, "release the recovery key of");
  SEALIFT_RETURN_IF_ERROR(CheckStanding(record, "release the recovery key of"));
  SEALIFT_ASSIGN_OR_RETURN(std::vector<EscrowedKey> keys, parts_.escrow.List(record.request.node));
  if (keys.empty()) {
    return MakeError(
        Code::kNotFound, Reason::kRecoveryKeyUnknown,
        fmt::format("release recovery key: node {} has escrowed none", record.request.node.text()));
  }
  // Before the answer: what may have left counts as released, and the node is told to replace it.
  SEALIFT_RETURN_IF_ERROR(parts_.escrow.MarkReleased(record.request.node, now));
  if (record.state == RequestState::kApproved) {
    record.state = RequestState::kDelivered;
    SEALIFT_RETURN_IF_ERROR(parts_.requests.Move(record, RequestState::kApproved));
  }
  log::Warning("recovery key released to a custodian",
               {{"node", record.request.node.text()}, {"key", record.digest.hex()}});
  return keys;
}

void RequestDesk::Fail(const std::string& id, Reason reason, const std::string& message) {
  const auto found = parts_.requests.Get(id);
  if (!found.ok() || HasEnded(found->state)) return;
  RequestRecord record = *found;
  const RequestState from = record.state;
  record.state = RequestState::kFailed;
  record.outcome = OrderOutcome{.request_digest = record.digest,
                                .state = OutcomeState::kRefused,
                                .reason = std::string(ReasonId(reason)),
                                .message = message,
                                .at = parts_.clock.Now()};
  if (const Status moved = parts_.requests.Move(record, from); !moved.ok())
    log::Error("request not brought to its end", {{"key", record.digest.hex()}, {"error", Describe(moved)}});
}

// A key that was released has to be replaced, and nobody but two persons can order it: they hear of it.
void RequestDesk::FailUnreplaced(const std::string& id) {
  const auto record = parts_.requests.Get(id);
  // With an outcome the node has taken it, and goes on by itself.
  if (!record.ok() || !IsRelease(*record) || record->outcome) return;
  Fail(id, Reason::kOrderReplayed,
       "its keys were released, and the node has obeyed another order before it could be told to replace "
       "them: "
       "ask for replace-recovery-key");
}

std::vector<std::string> RequestDesk::Deliver(const std::vector<PendingOrder>& waiting, const Bytes& nonce) {
  std::vector<std::string> envelopes;
  // A node that cannot take orders now keeps them waiting.
  if (nonce.empty()) return envelopes;
  const UnixMillis now = parts_.clock.Now();
  for (const PendingOrder& order : waiting) {
    if (envelopes.size() >= kMaxOrdersAtOnce) break;
    if (now >= order.expires) continue;
    if (order.nonce != nonce) {
      // Only told by the node itself, of an order that was carried out or of its TPM's loss.
      if (order.state == RequestState::kApproved) {
        Fail(order.request_id, Reason::kOrderReplayed,
             "the node has obeyed another order since; make a new request");
      } else {
        FailUnreplaced(order.request_id);
      }
      continue;
    }
    auto record = parts_.requests.Get(order.request_id);
    if (!record.ok()) continue;
    if (const Status standing = CheckStanding(*record, "deliver"); !standing.ok()) {
      // What the node has been given may be done already: it tells.
      if (order.state == RequestState::kApproved && ReasonOf(standing) == Reason::kCertificateRevoked)
        Fail(order.request_id, Reason::kCertificateRevoked, MessageOf(standing));
      continue;
    }
    if (order.state == RequestState::kApproved) {
      record->state = RequestState::kDelivered;
      if (!parts_.requests.Move(*record, RequestState::kApproved).ok()) continue;
    }
    envelopes.push_back(order.envelope);
  }
  return envelopes;
}

bool RequestDesk::TakeOutcome(const NodeId& node, const OrderOutcome& outcome) {
  const auto found = parts_.requests.FindByDigest(outcome.request_digest);
  if (!found.ok()) return false;
  if (!found->has_value() || (*found)->request.node != node) return true;
  RequestRecord record = **found;
  // What FailUnreplaced gave up may have been taken before the power went: the node knows better.
  const bool given_up = IsRelease(record) && record.state == RequestState::kFailed && record.outcome &&
                        record.outcome->reason == ReasonId(Reason::kOrderReplayed) &&
                        outcome.state != OutcomeState::kRefused;
  if (HasEnded(record.state) && !given_up) return true;
  const RequestState from = record.state;
  record.outcome = outcome;
  record.state = outcome.state == OutcomeState::kDone       ? RequestState::kDone
                 : outcome.state == OutcomeState::kAccepted ? RequestState::kDelivered
                                                            : RequestState::kFailed;
  // Of a machine that opened no volume before it: none told the base of its epoch.
  if (record.state == RequestState::kDone && record.request.action == order::Action::kReset &&
      !AcceptNewEpochBase(parts_.nodes, node).ok())
    return false;
  const Status moved = parts_.requests.Move(record, from);
  if (!moved.ok()) return false;
  log::Info("a node told what became of an order", {{"node", node.text()},
                                                    {"state", std::string(OutcomeStateName(outcome.state))},
                                                    {"key", record.digest.hex()},
                                                    {"reason", outcome.reason}});
  return true;
}

}  // namespace sealift::controller
