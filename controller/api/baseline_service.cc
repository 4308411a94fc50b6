#include "controller/api/baseline_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/api/convert.h"
#include "shared/base/log.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxListed = 1000;
constexpr std::size_t kMaxIdBytes = 64;
// Machines named beside a baseline.
constexpr std::size_t kFewNodes = 10;
constexpr std::size_t kManyNodes = 1000;
constexpr char kRevocationsVendor[] = "UEFI";
constexpr char kRevocationsProduct[] = "revocations (dbx)";

std::string NotAudited() { return {}; }

std::string AuditText(std::string_view what, const std::string& id) {
  return fmt::format("{} baseline {}", what, id.substr(0, kMaxIdBytes));
}

}  // namespace

Result<v1::Baseline> BaselineServiceImpl::Message(const ReviewedBaseline& reviewed, std::size_t most_nodes) {
  const BaselineRecord& record = reviewed.record;
  v1::Baseline out;
  out.set_id(wire::ToWire(record.baseline.id));
  out.set_vendor(record.baseline.model.vendor);
  out.set_product(record.baseline.model.product);
  out.set_firmware_version(record.baseline.firmware_version);
  out.set_standing(static_cast<v1::Baseline::Standing>(reviewed.standing));
  out.set_nodes(record.nodes);
  out.set_first_seen_unix_ms(ToUnixMs(record.first_seen));
  out.set_approved_by(record.approved_by);
  out.set_approved_unix_ms(ToUnixMs(record.approved));
  out.set_difference(reviewed.difference);
  SEALIFT_ASSIGN_OR_RETURN(const auto nodes, baselines_.NodesOf(record.baseline.id, most_nodes));
  for (const NodeId& node : nodes) out.add_node_ids(node.text());
  return out;
}

Result<ReviewedBaseline> BaselineServiceImpl::Review(const std::string& prefix) {
  SEALIFT_RETURN_IF_ERROR(CheckText("id", prefix, kMaxIdBytes));
  SEALIFT_ASSIGN_OR_RETURN(const BaselineRecord found, baselines_.Find(prefix, machines_));
  SEALIFT_ASSIGN_OR_RETURN(auto records, baselines_.List(found.baseline.model, machines_, kMaxListed));
  for (ReviewedBaseline& one : ReviewBaselines(std::move(records))) {
    if (one.record.baseline.id == found.baseline.id) return std::move(one);
  }
  return ReviewedBaseline{.record = found, .standing = BaselineStanding::kProposed, .difference = ""};
}

grpc::Status BaselineServiceImpl::ListBaselines(grpc::ServerContext* context,
                                                const v1::ListBaselinesRequest* request,
                                                v1::ListBaselinesResponse* response) {
  return runner_.Run(*context, "/sealift.v1.BaselineService/ListBaselines", NotAudited,
                     [&](const Caller&) -> Status {
                       SEALIFT_RETURN_IF_ERROR(CheckText("vendor", request->vendor(), kMaxHardwareText));
                       SEALIFT_RETURN_IF_ERROR(CheckText("product", request->product(), kMaxHardwareText));
                       std::optional<HardwareModel> model;
                       if (!request->vendor().empty() || !request->product().empty()) {
                         model = HardwareModel{.vendor = request->vendor(), .product = request->product()};
                       }
                       SEALIFT_ASSIGN_OR_RETURN(auto records, baselines_.List(model, machines_, kMaxListed));
                       for (const ReviewedBaseline& one : ReviewBaselines(std::move(records))) {
                         SEALIFT_ASSIGN_OR_RETURN(*response->add_baselines(), Message(one, kFewNodes));
                       }
                       return OkStatus();
                     });
}

grpc::Status BaselineServiceImpl::GetBaseline(grpc::ServerContext* context,
                                              const v1::GetBaselineRequest* request,
                                              v1::GetBaselineResponse* response) {
  return runner_.Run(*context, "/sealift.v1.BaselineService/GetBaseline", NotAudited,
                     [&](const Caller&) -> Status {
                       SEALIFT_ASSIGN_OR_RETURN(const ReviewedBaseline found, Review(request->id()));
                       SEALIFT_ASSIGN_OR_RETURN(*response->mutable_baseline(), Message(found, kManyNodes));
                       const Baseline& baseline = found.record.baseline;
                       for (const auto& [pcr, value] : baseline.registers) {
                         (*response->mutable_registers())[pcr] = wire::ToWire(value);
                       }
                       for (const BaselineEvent& event : baseline.events) {
                         v1::BaselineEvent& to = *response->add_events();
                         to.set_pcr(event.pcr);
                         if (event.digest) to.set_digest(wire::ToWire(*event.digest));
                         to.set_text(event.text);
                       }
                       return OkStatus();
                     });
}

Result<v1::Baseline> BaselineServiceImpl::Message(const RevocationsRecord& record, std::size_t most_nodes) {
  v1::Baseline out;
  out.set_id(wire::ToWire(record.event));
  out.set_vendor(kRevocationsVendor);
  out.set_product(kRevocationsProduct);
  out.set_standing(record.approved_now() ? v1::Baseline::APPROVED
                   : record.confirmed    ? v1::Baseline::CONFIRMED
                                         : v1::Baseline::OUTLIER);
  out.set_nodes(record.nodes);
  out.set_first_seen_unix_ms(ToUnixMs(record.first_seen));
  out.set_approved_by(record.approved_by);
  out.set_approved_unix_ms(ToUnixMs(record.approved));
  out.set_difference("PCR 7: event 5: another dbx than the key set's");
  SEALIFT_ASSIGN_OR_RETURN(const auto nodes, revocations_.NodesOf(record.event, most_nodes));
  for (const NodeId& node : nodes) out.add_node_ids(node.text());
  return out;
}

Result<std::optional<RevocationsRecord>> BaselineServiceImpl::FindRevocations(const std::string& prefix) {
  std::optional<RevocationsRecord> found;
  SEALIFT_ASSIGN_OR_RETURN(auto records, revocations_.List(machines_, kMaxListed));
  for (RevocationsRecord& record : records) {
    if (prefix.empty() || !record.event.hex().starts_with(prefix)) continue;
    if (found) return std::optional<RevocationsRecord>();
    found = std::move(record);
  }
  return found;
}

Status BaselineServiceImpl::SetApproval(const std::string& prefix, const Caller& caller, bool approved,
                                        v1::Baseline& outcome) {
  SEALIFT_RETURN_IF_ERROR(CheckText("id", prefix, kMaxIdBytes));
  SEALIFT_ASSIGN_OR_RETURN(const auto revocations, FindRevocations(prefix));
  if (revocations) {
    const Sha256Digest event = revocations->event;
    SEALIFT_RETURN_IF_ERROR(approved ? revocations_.Approve(event, caller.operator_name, clock_.Now())
                                     : revocations_.Withdraw(event));
    log::Info(approved ? "revocations approved" : "revocations withdrawn", {{"key", event.hex()}});
    SEALIFT_ASSIGN_OR_RETURN(const auto now, FindRevocations(event.hex()));
    if (!now) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(outcome, Message(*now, kFewNodes));
    return OkStatus();
  }
  SEALIFT_ASSIGN_OR_RETURN(const ReviewedBaseline found, Review(prefix));
  const Sha256Digest id = found.record.baseline.id;
  SEALIFT_RETURN_IF_ERROR(approved ? baselines_.Approve(id, caller.operator_name, clock_.Now())
                                   : baselines_.Withdraw(id));
  log::Info(approved ? "baseline approved" : "baseline withdrawn", {{"key", id.hex()}});
  if (!approved) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const ReviewedBaseline reviewed, Review(id.hex()));
  SEALIFT_ASSIGN_OR_RETURN(outcome, Message(reviewed, kFewNodes));
  return OkStatus();
}

grpc::Status BaselineServiceImpl::ApproveBaseline(grpc::ServerContext* context,
                                                  const v1::ApproveBaselineRequest* request,
                                                  v1::ApproveBaselineResponse* response) {
  return runner_.Run(
      *context, "/sealift.v1.BaselineService/ApproveBaseline",
      [&] { return AuditText("approve", request->id()); },
      [&](const Caller& caller) {
        return SetApproval(request->id(), caller, true, *response->mutable_baseline());
      });
}

grpc::Status BaselineServiceImpl::WithdrawBaseline(grpc::ServerContext* context,
                                                   const v1::WithdrawBaselineRequest* request,
                                                   v1::WithdrawBaselineResponse* /*response*/) {
  return runner_.Run(
      *context, "/sealift.v1.BaselineService/WithdrawBaseline",
      [&] { return AuditText("withdraw", request->id()); },
      [&](const Caller& caller) {
        v1::Baseline ignored;
        return SetApproval(request->id(), caller, false, ignored);
      });
}

}  // namespace sealift::controller
