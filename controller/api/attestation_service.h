// AttestationService: what machines proved, and the evidence behind it, for operators to read. Thin.
#pragma once

#include "controller/api/rpc_runner.h"
#include "controller/fleet/stores.h"
#include "sealift/v1/attestation.grpc.pb.h"

namespace sealift::controller {

// Thread-safe.
class AttestationServiceImpl final : public v1::AttestationService::Service {
 public:
  // Borrows all.
  AttestationServiceImpl(RpcRunner& runner, NodeStore& nodes, EvidenceStore& evidence)
      : runner_(runner), nodes_(nodes), evidence_(evidence) {}

  grpc::Status ListVerdicts(grpc::ServerContext* context, const v1::ListVerdictsRequest* request,
                            v1::ListVerdictsResponse* response) override;
  grpc::Status GetEvidence(grpc::ServerContext* context, const v1::GetEvidenceRequest* request,
                           v1::GetEvidenceResponse* response) override;

 private:
  Result<Node> FindNode(const std::string& id_or_prefix);

  RpcRunner& runner_;
  NodeStore& nodes_;
  EvidenceStore& evidence_;
};

}  // namespace sealift::controller
