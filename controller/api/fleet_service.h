// FleetService: what operators do. Thin: checks shapes, calls the domain, answers.
#pragma once

#include <atomic>
#include <stop_token>

#include "controller/api/ports.h"
#include "controller/api/rpc_runner.h"
#include "controller/fleet/request_desk.h"
#include "controller/fleet/rollout_engine.h"
#include "controller/publish/content_store.h"
#include "controller/publish/tuf_repository.h"
#include "sealift/v1/fleet.grpc.pb.h"

namespace sealift::controller {

// All borrowed.
struct FleetServiceParts {
  RpcRunner& runner;
  NodeStore& nodes;
  RolloutStore& rollouts;
  ReleaseStore& releases;
  AdmissionStore& admission;
  AuditStore& audit;
  CertificateStore& certificates;
  RequestStore& requests;
  EscrowStore& escrow;
  RequestDesk& desk;
  RolloutEngine& engine;
  TufRepository& repository;
  ContentStore& content;
  const Clock& clock;
  // Whether a pending machine may be let in by an approver (AdmissionPolicy::approval).
  bool approval_admits = true;
  // Ends watches when the server shuts down.
  std::stop_token stop;
};

// Copies into the release store what the repository has published, manifests as they were signed.
// A release that cannot be read is logged and left out; the others are recorded. Returns the first failure.
Status RecordReleases(const TufRepository& repository, ContentStore& content, ReleaseStore& releases);

// Thread-safe.
class FleetServiceImpl final : public v1::FleetService::Service {
 public:
  explicit FleetServiceImpl(FleetServiceParts parts) : parts_(std::move(parts)) {}

  grpc::Status ListNodes(grpc::ServerContext* context, const v1::ListNodesRequest* request,
                         v1::ListNodesResponse* response) override;
  grpc::Status GetNode(grpc::ServerContext* context, const v1::GetNodeRequest* request,
                       v1::Node* response) override;
  grpc::Status ListReleases(grpc::ServerContext* context, const v1::ListReleasesRequest* request,
                            v1::ListReleasesResponse* response) override;
  grpc::Status GetRollout(grpc::ServerContext* context, const v1::GetRolloutRequest* request,
                          v1::Rollout* response) override;
  grpc::Status ListRollouts(grpc::ServerContext* context, const v1::ListRolloutsRequest* request,
                            v1::ListRolloutsResponse* response) override;
  grpc::Status WatchRollout(grpc::ServerContext* context, const v1::GetRolloutRequest* request,
                            grpc::ServerWriter<v1::Rollout>* writer) override;
  grpc::Status ListAudit(grpc::ServerContext* context, const v1::ListAuditRequest* request,
                         v1::ListAuditResponse* response) override;
  grpc::Status GetMetadata(grpc::ServerContext* context, const v1::GetMetadataRequest* request,
                           v1::GetMetadataResponse* response) override;
  grpc::Status CreateRollout(grpc::ServerContext* context, const v1::CreateRolloutRequest* request,
                             v1::Rollout* response) override;
  grpc::Status SetRolloutState(grpc::ServerContext* context, const v1::SetRolloutStateRequest* request,
                               v1::Rollout* response) override;
  grpc::Status UploadContent(grpc::ServerContext* context,
                             grpc::ServerReader<v1::UploadContentRequest>* reader,
                             v1::UploadContentResponse* response) override;
  grpc::Status PublishTargets(grpc::ServerContext* context, const v1::PublishTargetsRequest* request,
                              v1::PublishTargetsResponse* response) override;
  grpc::Status SetNodeLabels(grpc::ServerContext* context, const v1::SetNodeLabelsRequest* request,
                             v1::Node* response) override;
  grpc::Status AdmitEk(grpc::ServerContext* context, const v1::AdmitEkRequest* request,
                       v1::AdmitEkResponse* response) override;
  grpc::Status SetNodeAdmission(grpc::ServerContext* context, const v1::SetNodeAdmissionRequest* request,
                                v1::Node* response) override;
  // fleet_requests.cc
  grpc::Status ListRequests(grpc::ServerContext* context, const v1::ListRequestsRequest* request,
                            v1::ListRequestsResponse* response) override;
  grpc::Status GetRequest(grpc::ServerContext* context, const v1::GetRequestRequest* request,
                          v1::ChangeRequest* response) override;
  grpc::Status CreateRequest(grpc::ServerContext* context, const v1::CreateRequestRequest* request,
                             v1::ChangeRequest* response) override;
  grpc::Status CancelRequest(grpc::ServerContext* context, const v1::CancelRequestRequest* request,
                             v1::ChangeRequest* response) override;
  grpc::Status ApproveRequest(grpc::ServerContext* context, const v1::ApproveRequestRequest* request,
                              v1::ChangeRequest* response) override;
  grpc::Status FetchRecoveryKey(grpc::ServerContext* context, const v1::FetchRecoveryKeyRequest* request,
                                v1::FetchRecoveryKeyResponse* response) override;

  grpc::Status RevokeCertificate(grpc::ServerContext* context, const v1::RevokeCertificateRequest* request,
                                 v1::RevokeCertificateResponse* response) override;

 private:
  Result<Node> FindNode(const std::string& id_or_prefix);
  Status Watch(const std::string& id, grpc::ServerContext& context, grpc::ServerWriter<v1::Rollout>& writer);
  Result<Rollout> Create(const v1::CreateRolloutRequest& request, const Caller& caller);
  Status Upload(grpc::ServerReader<v1::UploadContentRequest>& reader, v1::UploadContentResponse& response);
  Status Publish(const v1::PublishTargetsRequest& request, v1::PublishTargetsResponse& response);

  FleetServiceParts parts_;
  std::atomic<int> watchers_ = 0;
};

}  // namespace sealift::controller
