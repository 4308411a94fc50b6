// SiteService: hints for nodes that pass objects on to each other, and who may take part. Thin.
#pragma once

#include "controller/api/rpc_runner.h"
#include "controller/fleet/site_directory.h"
#include "controller/fleet/stores.h"
#include "controller/publish/content_store.h"
#include "sealift/v1/site.grpc.pb.h"
#include "shared/crypto/certificate.h"

namespace sealift::controller {

// All borrowed but the certificates.
struct SiteServiceParts {
  RpcRunner& runner;
  NodeStore& nodes;
  CertificateStore& certificates;
  ContentStore& content;
  const Clock& clock;
  std::vector<Certificate> node_cas;
};

// Thread-safe.
class SiteServiceImpl final : public v1::SiteService::Service {
 public:
  explicit SiteServiceImpl(SiteServiceParts parts) : parts_(std::move(parts)) {}

  grpc::Status Locate(grpc::ServerContext* context, const v1::LocateRequest* request,
                      v1::LocateResponse* response) override;
  grpc::Status Offer(grpc::ServerContext* context, const v1::OfferRequest* request,
                     v1::OfferResponse* response) override;
  grpc::Status GetSite(grpc::ServerContext* context, const v1::GetSiteRequest* request,
                       v1::GetSiteResponse* response) override;
  grpc::Status AdmitPeer(grpc::ServerContext* context, const v1::AdmitPeerRequest* request,
                         v1::AdmitPeerResponse* response) override;

 private:
  // The site of a node in good standing; empty: it has none, or is not. Errors: those of the store.
  Result<std::string> SiteOf(const NodeId& id);
  Status HandleLocate(const Caller& caller, const v1::LocateRequest& request, v1::LocateResponse& response);
  Status HandleOffer(const Caller& caller, const v1::OfferRequest& request);
  Result<bool> IsNeighbour(const Caller& caller, const v1::AdmitPeerRequest& request);

  SiteServiceParts parts_;
  SiteDirectory directory_;
};

}  // namespace sealift::controller
