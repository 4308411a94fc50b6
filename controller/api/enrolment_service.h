// EnrolmentService: messages in, controller/attest/enrolment.h behind. Thread-safe.
#pragma once

#include <string>

#include "controller/api/rpc_runner.h"
#include "controller/attest/enrolment.h"
#include "sealift/v1/enrolment.grpc.pb.h"

namespace sealift::controller {

// "ipv4:192.0.2.7:5000" -> "192.0.2.7"; of IPv6 the first 64 bits, which is what one machine may choose
// freely in. Anything else as it is.
std::string OriginOfPeer(const std::string& peer);

class EnrolmentServiceImpl final : public v1::EnrolmentService::Service {
 public:
  // Borrows both.
  EnrolmentServiceImpl(RpcRunner& runner, Enrolment& enrolment) : runner_(runner), enrolment_(enrolment) {}

  grpc::Status Begin(grpc::ServerContext* context, const v1::BeginRequest* request,
                     v1::BeginResponse* response) override;
  grpc::Status Complete(grpc::ServerContext* context, const v1::CompleteRequest* request,
                        v1::CompleteResponse* response) override;

 private:
  RpcRunner& runner_;
  Enrolment& enrolment_;
};

}  // namespace sealift::controller
