// The controller over gRPC. See controller_client.h for what calls do; proto/sealift/v1 for the wire.
//
// Thread-safe; every call has a deadline, so that a silent peer cannot hold the agent.
#pragma once

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>

#include "node-agent/link/controller_client.h"

namespace sealift::agent {

struct LinkDeadlines {
  std::chrono::milliseconds call = std::chrono::seconds(20);
  // Of one content stream, however much it brought; the next one goes on where it ended.
  std::chrono::milliseconds content = std::chrono::minutes(2);
};

std::unique_ptr<EnrolmentClient> MakeGrpcEnrolmentClient(const std::shared_ptr<grpc::Channel>& channel,
                                                         LinkDeadlines deadlines = {});
std::unique_ptr<ControllerClient> MakeGrpcControllerClient(const std::shared_ptr<grpc::Channel>& channel,
                                                           LinkDeadlines deadlines = {});

}  // namespace sealift::agent
