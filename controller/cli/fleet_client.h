// FleetService as the verbs use it: one stub, a deadline on every call, our Status out.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sealift/v1/fleet.grpc.pb.h"
#include "shared/base/status.h"
#include "shared/wire/channel.h"
#include "shared/wire/grpc_status.h"

namespace sealift::cli {

// Used by one thread.
class FleetClient {
 public:
  explicit FleetClient(const std::shared_ptr<grpc::ChannelInterface>& channel)
      : channel_(channel), stub_(v1::FleetService::NewStub(channel)) {}
  // For the other services at the same address.
  const std::shared_ptr<grpc::ChannelInterface>& channel() const { return channel_; }
  // `profile` empty: the default one. Errors: those of LoadProfile and OpenChannel.
  static Result<FleetClient> Connect(const std::string& profile);

  // Call(&v1::FleetService::StubInterface::GetNode, request): the response or the status.
  template <typename Request, typename Response>
  Result<Response> Call(grpc::Status (v1::FleetService::StubInterface::*method)(grpc::ClientContext*,
                                                                                const Request&, Response*),
                        const Request& request) {
    Response response;
    const auto context = wire::MakeContext();
    const grpc::Status status = ((*stub_).*method)(context.get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }

  // Every page. Errors: those of the calls.
  Result<std::vector<v1::Node>> AllNodes(const std::string& selector);
  Result<std::vector<v1::AuditEntry>> AllAudit(std::uint64_t after);
  // `show` for each state until the rollout ends or `show` returns false; connects again where the stream
  // breaks off.
  Status Watch(const std::string& rollout_id, const std::function<bool(const v1::Rollout&)>& show);

 private:
  std::shared_ptr<grpc::ChannelInterface> channel_;
  std::unique_ptr<v1::FleetService::StubInterface> stub_;
};

}  // namespace sealift::cli
