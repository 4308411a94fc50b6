// SecretService: what operators tell and ask of secrets. Thin; no value ever leaves here.
#pragma once

#include "controller/api/rpc_runner.h"
#include "controller/fleet/stores.h"
#include "controller/secret/secret_desk.h"
#include "sealift/v1/secret.grpc.pb.h"

namespace sealift::controller {

// All borrowed.
struct SecretServiceParts {
  RpcRunner& runner;
  NodeStore& nodes;
  SecretStore& secrets;
  SecretDesk& desk;
  const Clock& clock;
};

// Thread-safe.
class SecretServiceImpl final : public v1::SecretService::Service {
 public:
  explicit SecretServiceImpl(SecretServiceParts parts) : parts_(parts) {}

  grpc::Status ListSecrets(grpc::ServerContext* context, const v1::ListSecretsRequest* request,
                           v1::ListSecretsResponse* response) override;
  grpc::Status GetSecret(grpc::ServerContext* context, const v1::GetSecretRequest* request,
                         v1::GetSecretResponse* response) override;
  grpc::Status PutSecret(grpc::ServerContext* context, const v1::PutSecretRequest* request,
                         v1::Secret* response) override;
  grpc::Status RevokeSecret(grpc::ServerContext* context, const v1::RevokeSecretRequest* request,
                            v1::Secret* response) override;

 private:
  Result<NodeId> NodeNamed(const std::string& id_or_prefix);

  SecretServiceParts parts_;
};

}  // namespace sealift::controller
