// ContentService: the content store, for operators. Thin.
#pragma once

#include <atomic>

#include "controller/api/rpc_runner.h"
#include "controller/fleet/stores.h"
#include "controller/publish/content_keeper.h"
#include "controller/publish/content_store.h"
#include "controller/publish/tuf_repository.h"
#include "sealift/v1/content.grpc.pb.h"

namespace sealift::controller {

// All borrowed.
struct ContentServiceParts {
  RpcRunner& runner;
  ContentStore& content;
  ContentKeeper& keeper;
  TufRepository& repository;
  ReleaseStore& releases;
};

// Thread-safe.
class ContentServiceImpl final : public v1::ContentService::Service {
 public:
  explicit ContentServiceImpl(ContentServiceParts parts) : parts_(parts) {}

  grpc::Status FetchObject(grpc::ServerContext* context, const v1::FetchObjectRequest* request,
                           grpc::ServerWriter<v1::FetchObjectResponse>* writer) override;
  grpc::Status ImportRelease(grpc::ServerContext* context, const v1::ImportReleaseRequest* request,
                             v1::ImportReleaseResponse* response) override;
  grpc::Status Collect(grpc::ServerContext* context, const v1::CollectRequest* request,
                       v1::CollectResponse* response) override;

 private:
  Status Send(const v1::FetchObjectRequest& request, grpc::ServerWriter<v1::FetchObjectResponse>& writer);

  ContentServiceParts parts_;
  std::atomic<int> streams_ = 0;
};

}  // namespace sealift::controller
