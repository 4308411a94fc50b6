// EnrolmentService: messages in, controller/attest/enrolment.h behind. Thread-safe.
#pragma once

#include "controller/api/rpc_runner.h"
#include "controller/attest/enrolment.h"
#include "sealift/v1/enrolment.grpc.pb.h"

namespace sealift::controller {

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
