// BaselineService: what the firmware of hardware models measures, for operators to read and approve. Thin.
#pragma once

#include "controller/api/rpc_runner.h"
#include "controller/attest/baseline_review.h"
#include "controller/fleet/baseline.h"
#include "controller/fleet/revocations.h"
#include "sealift/v1/baseline.grpc.pb.h"

namespace sealift::controller {

// Thread-safe.
class BaselineServiceImpl final : public v1::BaselineService::Service {
 public:
  // Borrows all. `machines`: of BaselineRules.
  BaselineServiceImpl(RpcRunner& runner, BaselineStore& baselines, RevocationsStore& revocations,
                      std::uint32_t machines, const Clock& clock)
      : runner_(runner),
        baselines_(baselines),
        revocations_(revocations),
        machines_(machines),
        clock_(clock) {}

  grpc::Status ListBaselines(grpc::ServerContext* context, const v1::ListBaselinesRequest* request,
                             v1::ListBaselinesResponse* response) override;
  grpc::Status GetBaseline(grpc::ServerContext* context, const v1::GetBaselineRequest* request,
                           v1::GetBaselineResponse* response) override;
  grpc::Status ApproveBaseline(grpc::ServerContext* context, const v1::ApproveBaselineRequest* request,
                               v1::ApproveBaselineResponse* response) override;
  grpc::Status WithdrawBaseline(grpc::ServerContext* context, const v1::WithdrawBaselineRequest* request,
                                v1::WithdrawBaselineResponse* response) override;

 private:
  // With `most_nodes` of its machines.
  Result<v1::Baseline> Message(const ReviewedBaseline& reviewed, std::size_t most_nodes);
  // Beside the others of its model. `prefix`: of its id in hex.
  Result<ReviewedBaseline> Review(const std::string& prefix);

  // Lists of dbx are baselines of their own: of PCR 7's event, for every model.
  Result<v1::Baseline> Message(const RevocationsRecord& record, std::size_t most_nodes);
  // Nothing where it is none, or not the only one.
  Result<std::optional<RevocationsRecord>> FindRevocations(const std::string& prefix);
  Status SetApproval(const std::string& prefix, const Caller& caller, bool approved, v1::Baseline& outcome);

  RpcRunner& runner_;
  BaselineStore& baselines_;
  RevocationsStore& revocations_;
  const std::uint32_t machines_;
  const Clock& clock_;
};

}  // namespace sealift::controller
