// NodeSecretService: a node proves what it runs and gets a secret for it, encrypted to its TPM.
#pragma once

#include <map>
#include <mutex>
#include <optional>

#include "controller/api/ports.h"
#include "controller/api/rpc_runner.h"
#include "controller/attest/rate_limit.h"
#include "controller/fleet/stores.h"
#include "controller/secret/secret_desk.h"
#include "sealift/v1/secret.grpc.pb.h"

namespace sealift::controller {

// One nonce a node, each good once and for a short time. Thread-safe; bounded: when there are too many, those
// that have run out go, then all.
class SecretNonces {
 public:
  explicit SecretNonces(const Clock& clock) : clock_(clock) {}
  Bytes Give(const NodeId& node);
  std::optional<Bytes> Take(const NodeId& node);

 private:
  struct Entry {
    Bytes nonce;
    std::chrono::steady_clock::time_point expires;
  };
  const Clock& clock_;
  std::mutex mutex_;
  std::map<NodeId, Entry> open_;
};

// All borrowed.
struct NodeSecretServiceParts {
  RpcRunner& runner;
  NodeStore& nodes;
  EvidenceStore& evidence;
  AuditStore& audit;
  NodeAttestor& attestor;
  SecretDesk& desk;
  Metrics& metrics;
  const Clock& clock;
};

// Thread-safe. Each delivery, and each refusal of one, is in the audit log with the quote's digest before the
// node has its answer.
class NodeSecretServiceImpl final : public v1::NodeSecretService::Service {
 public:
  explicit NodeSecretServiceImpl(NodeSecretServiceParts parts);

  grpc::Status BeginFetchSecret(grpc::ServerContext* context, const v1::BeginFetchSecretRequest* request,
                                v1::BeginFetchSecretResponse* response) override;
  grpc::Status FetchSecret(grpc::ServerContext* context, const v1::FetchSecretRequest* request,
                           v1::FetchSecretResponse* response) override;

 private:
  Status CheckRate(const NodeId& id);
  Status HandleFetch(const NodeId& id, const v1::FetchSecretRequest& request,
                     v1::FetchSecretResponse& response);
  // The verdict on the quote of this call, kept as evidence; with the epoch.
  Result<Verdict> Judge(const Node& node, const AttestationEvidence& evidence,
                        const v1::FetchSecretRequest& request, ByteView nonce);

  NodeSecretServiceParts parts_;
  SecretNonces nonces_;
  RateLimiter calls_;
};

}  // namespace sealift::controller
