// NodeService: orders out, their outcomes and recovery keys in, and what a node's epoch proves.
#include <fmt/format.h>

#include "controller/api/convert.h"
#include "controller/api/node_service.h"
#include "controller/attest/epoch.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/escrow/escrow.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr int kMaxOutcomes = 8;
constexpr std::size_t kMaxBlobBytes = 8u << 10;

std::string NotAudited() { return {}; }

}  // namespace

// Rare: nearly all check-ins have nothing here.
Status NodeServiceImpl::ExchangeOrders(const NodeId& id, const CheckInView& view, const NodeStatus& status,
                                       const v1::CheckInRequest& request, v1::CheckInResponse& response) {
  if (request.order_outcomes_size() > kMaxOutcomes) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, "read order_outcomes: too many");
  }
  std::vector<OrderOutcome> outcomes;
  for (const v1::OrderOutcome& outcome : request.order_outcomes()) {
    SEALIFT_ASSIGN_OR_RETURN(OrderOutcome one, OutcomeFromProto(outcome));
    outcomes.push_back(std::move(one));
  }
  for (const OrderOutcome& outcome : outcomes) {
    if (parts_.desk.TakeOutcome(id, outcome))
      response.add_known_outcomes(wire::ToWire(outcome.request_digest));
  }
  // A quarantined node is heard and told nothing.
  if (view.orders.empty() || view.admission != Admission::kAdmitted) return OkStatus();
  for (std::string& envelope : parts_.desk.Deliver(view.orders, status.order_nonce))
    response.add_signed_orders(std::move(envelope));
  return OkStatus();
}

grpc::Status NodeServiceImpl::EscrowRecoveryKey(grpc::ServerContext* context,
                                                const v1::EscrowRecoveryKeyRequest* request,
                                                v1::EscrowRecoveryKeyResponse* response) {
  return parts_.runner.Run(*context, "/sealift.v1.NodeService/EscrowRecoveryKey", NotAudited,
                           [&](const Caller& caller) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const NodeId node, CallingNode(caller));
                             return HandleEscrow(node, *request, *response);
                           });
}

Status NodeServiceImpl::HandleEscrow(const NodeId& id, const v1::EscrowRecoveryKeyRequest& request,
                                     v1::EscrowRecoveryKeyResponse& response) {
  SEALIFT_RETURN_IF_ERROR(AdmittedView(id).status());
  SEALIFT_RETURN_IF_ERROR(CheckText("blob", request.blob(), kMaxBlobBytes));
  if (!quotes_.Allow(Sha256(AsBytes("escrow " + id.text())))) {
    return MakeError(Code::kResourceExhausted, Reason::kServerBusy,
                     fmt::format("escrow key of node {}: it sends too many", id.text()));
  }
  SEALIFT_ASSIGN_OR_RETURN(const Node node, parts_.nodes.Get(id));
  SEALIFT_ASSIGN_OR_RETURN(const escrow::EscrowedKey parsed, escrow::Parse(request.blob()));
  const escrow::Subject claimed{.ek_digest = node.ek_digest,
                                .volume = request.volume(),
                                .luks_uuid = request.luks_uuid(),
                                .slot = request.slot()};
  if (parsed.subject != claimed) {
    return MakeError(
        Code::kInvalidArgument, Reason::kEscrowMalformed,
        fmt::format("escrow key of node {}: it is for another machine, volume or slot", id.text()));
  }
  const Sha256Digest digest = Sha256(AsBytes(request.blob()));
  SEALIFT_RETURN_IF_ERROR(parts_.escrow.Put({.node = id,
                                             .volume = request.volume(),
                                             .luks_uuid = request.luks_uuid(),
                                             .slot = request.slot(),
                                             .blob = request.blob(),
                                             .blob_digest = digest,
                                             .stored = parts_.clock.Now()}));
  log::Info("recovery key escrowed", {{"node", id.text()}, {"key", digest.hex()}});
  response.set_blob_digest(wire::ToWire(digest));
  return OkStatus();
}

Status NodeServiceImpl::JudgeNodeEpoch(const Node& node, const v1::AttestRequest& request, ByteView nonce,
                                       UnixMillis now, Verdict& verdict) {
  std::optional<CounterEvidence> evidence;
  if (request.has_epoch()) {
    SEALIFT_ASSIGN_OR_RETURN(evidence, EpochEvidenceFromProto(request.epoch()));
  }
  const EpochJudgement judged = JudgeEpoch(node, evidence, nonce, now);
  if (judged.epoch) SEALIFT_RETURN_IF_ERROR(parts_.nodes.RecordEpoch(node.id, *judged.epoch));
  if (!judged.problem.ok()) {
    log::Warning("a node's epoch is not what it was",
                 {{"node", node.id.text()}, {"error", Describe(judged.problem)}});
    verdict.trust = Trust::kUntrusted;
    verdict.reasons.push_back(ReasonIdOf(judged.problem));
  }
  return OkStatus();
}

}  // namespace sealift::controller
