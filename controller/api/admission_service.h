// AdmissionService: who may become a node, and what came of those that tried. Thin: checks shapes, calls the
// stores, answers.
#pragma once

#include "controller/api/rpc_runner.h"
#include "controller/fleet/admission.h"
#include "controller/fleet/stores.h"
#include "sealift/v1/admission.grpc.pb.h"

namespace sealift::controller {

// All borrowed.
struct AdmissionServiceParts {
  RpcRunner& runner;
  InventoryStore& inventory;
  JoinTokenStore& join_tokens;
  RefusalStore& refusals;
  const Clock& clock;
};

// Thread-safe.
class AdmissionServiceImpl final : public v1::AdmissionService::Service {
 public:
  explicit AdmissionServiceImpl(AdmissionServiceParts parts) : parts_(parts) {}

  grpc::Status ListInventory(grpc::ServerContext* context, const v1::ListInventoryRequest* request,
                             v1::ListInventoryResponse* response) override;
  grpc::Status ListJoinTokens(grpc::ServerContext* context, const v1::ListJoinTokensRequest* request,
                              v1::ListJoinTokensResponse* response) override;
  grpc::Status ListRefusals(grpc::ServerContext* context, const v1::ListRefusalsRequest* request,
                            v1::ListRefusalsResponse* response) override;
  grpc::Status ImportInventory(grpc::ServerContext* context, const v1::ImportInventoryRequest* request,
                               v1::ImportInventoryResponse* response) override;
  grpc::Status WithdrawEk(grpc::ServerContext* context, const v1::WithdrawEkRequest* request,
                          v1::WithdrawEkResponse* response) override;
  grpc::Status CreateJoinToken(grpc::ServerContext* context, const v1::CreateJoinTokenRequest* request,
                               v1::CreateJoinTokenResponse* response) override;
  grpc::Status RevokeJoinToken(grpc::ServerContext* context, const v1::RevokeJoinTokenRequest* request,
                               v1::JoinToken* response) override;
  grpc::Status ReplaceEk(grpc::ServerContext* context, const v1::ReplaceEkRequest* request,
                         v1::ReplaceEkResponse* response) override;

 private:
  AdmissionServiceParts parts_;
};

}  // namespace sealift::controller
