// NodeService: what a node asks. Each call acts for the node of the certificate and for no other.
#pragma once

#include <functional>

#include "controller/api/call_limits.h"
#include "controller/api/call_order.h"
#include "controller/api/fetch_slots.h"
#include "controller/api/ports.h"
#include "controller/api/rpc_runner.h"
#include "controller/api/write_watch.h"
#include "controller/attest/rate_limit.h"
#include "controller/fleet/check_in_policy.h"
#include "controller/fleet/policy_enforcer.h"
#include "controller/fleet/request_desk.h"
#include "controller/fleet/rollout_engine.h"
#include "controller/publish/content_store.h"
#include "controller/publish/tuf_repository.h"
#include "sealift/v1/node.grpc.pb.h"

namespace sealift::controller {

// All borrowed.
struct NodeServiceParts {
  RpcRunner& runner;
  NodeStore& nodes;
  NodeStatusStore& node_status;
  EvidenceStore& evidence;
  EscrowStore& escrow;
  RequestDesk& desk;
  RolloutEngine& engine;
  NodeAttestor& attestor;
  PolicyEnforcer& enforcer;
  TufRepository& repository;
  ContentStore& content;
  Metrics& metrics;
  const Clock& clock;
  CheckInPolicy policy;
  NodeCallLimits limits;
};

// Thread-safe.
// CheckIn, the one call that comes all the time, holds no thread while the disk works; the others are few.
class NodeServiceImpl final : public v1::NodeService::WithCallbackMethod_CheckIn<v1::NodeService::Service> {
 public:
  explicit NodeServiceImpl(NodeServiceParts parts);

  grpc::ServerUnaryReactor* CheckIn(grpc::CallbackServerContext* context, const v1::CheckInRequest* request,
                                    v1::CheckInResponse* response) override;
  grpc::Status Report(grpc::ServerContext* context, const v1::ReportRequest* request,
                      v1::ReportResponse* response) override;
  grpc::Status Attest(grpc::ServerContext* context, const v1::AttestRequest* request,
                      v1::AttestResponse* response) override;
  grpc::Status EscrowRecoveryKey(grpc::ServerContext* context, const v1::EscrowRecoveryKeyRequest* request,
                                 v1::EscrowRecoveryKeyResponse* response) override;
  grpc::Status GetMetadata(grpc::ServerContext* context, const v1::GetMetadataRequest* request,
                           v1::GetMetadataResponse* response) override;
  grpc::Status FetchContent(grpc::ServerContext* context, const v1::FetchContentRequest* request,
                            grpc::ServerWriter<v1::FetchContentResponse>* writer) override;

 private:
  // What a check-in will be answered and what is to be recorded first.
  struct CheckInRecord {
    NodeStatus status;
    UnixMillis now;
    std::optional<NodeStatusStore::QuoteNonce> nonce;
  };
  Result<CheckInRecord> PrepareCheckIn(const NodeId& id, const v1::CheckInRequest& request,
                                       v1::CheckInResponse& response);
  // Whether it is accepted. A new image is blessed on that, so one on trial must have proven itself by a
  // quote in the boot it reports; until then the node asks again. The report is stored either way.
  // `place`: of the call among the node's (CallOrder).
  Result<bool> HandleReport(const NodeId& id, const v1::ReportRequest& request, std::uint64_t place);
  // Waits until it is stored. Errors: those of CallOrder::IfLatest and the store.
  Status RecordReport(const NodeId& id, const NodeStatus& status, UnixMillis now, std::uint64_t place);
  Status HandleAttest(const NodeId& id, const v1::AttestRequest& request, v1::AttestResponse& response);
  Status HandleFetch(const v1::FetchContentRequest& request, grpc::ServerContext& context,
                     grpc::ServerWriter<v1::FetchContentResponse>& writer);
  Status HandleEscrow(const NodeId& id, const v1::EscrowRecoveryKeyRequest& request,
                      v1::EscrowRecoveryKeyResponse& response);
  Status ExchangeOrders(const NodeId& id, const CheckInView& view, const NodeStatus& status,
                        const v1::CheckInRequest& request, v1::CheckInResponse& response);
  // Adds to `verdict` what the epoch's counter proves, or fails to.
  Status JudgeNodeEpoch(const Node& node, const v1::AttestRequest& request, ByteView nonce, UnixMillis now,
                        Verdict& verdict);
  Status AdoptLabels(const NodeId& id, const v1::CheckInRequest& request);
  // Refuses a node that was thrown out.
  Result<CheckInView> AdmittedView(const NodeId& id);
  // Refuses a quarantined node, too: it may show that it is well again, and gets nothing before.
  Status CheckServed(const NodeId& id);

  NodeServiceParts parts_;
  CallLimits limits_;
  CallOrder order_;
  WriteWatch writes_;
  FetchSlots fetches_;
  // What a node may have judged, and kept as evidence.
  RateLimiter quotes_;
};

}  // namespace sealift::controller
