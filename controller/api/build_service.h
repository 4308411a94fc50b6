// BuildService: builds where the release token is. Thin: a stream of events around BuildHost.
#pragma once

#include <stop_token>

#include "controller/api/rpc_runner.h"
#include "controller/buildhost/build_host.h"
#include "sealift/v1/build.grpc.pb.h"

namespace sealift::controller {

// Thread-safe.
class BuildServiceImpl final : public v1::BuildService::Service {
 public:
  // Borrows both. `host` null: every call is refused with BUILD_NOT_OFFERED. `stop` ends builds when the
  // server shuts down.
  BuildServiceImpl(RpcRunner& runner, BuildHost* host, std::stop_token stop)
      : runner_(runner), host_(host), stop_(std::move(stop)) {}

  grpc::Status Build(grpc::ServerContext* context, const v1::BuildRequest* request,
                     grpc::ServerWriter<v1::BuildEvent>* writer) override;

 private:
  Status Run(const v1::BuildRequest& wire, const Caller& caller, grpc::ServerContext& context,
             grpc::ServerWriter<v1::BuildEvent>& writer, std::string& build_id);

  RpcRunner& runner_;
  BuildHost* const host_;
  const std::stop_token stop_;
};

}  // namespace sealift::controller
