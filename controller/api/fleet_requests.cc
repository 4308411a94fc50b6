// FleetService: what needs a second person.
#include <fmt/format.h>

#include <algorithm>

#include "controller/api/convert.h"
#include "controller/api/fleet_service.h"
#include "shared/base/log.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxIdBytes = 64;
constexpr std::size_t kMaxSignatureBytes = 1024;
constexpr std::size_t kMaxNoteBytes = 256;
constexpr std::uint32_t kDefaultPage = 100;
constexpr std::uint32_t kMaxPage = 1000;

std::string NotAudited() { return {}; }

RequestCaller CallerFrom(const Caller& caller) {
  return {.name = caller.operator_name,
          .role = std::string(RoleName(caller.role)),
          .certificate = caller.certificate_der};
}

// What an audit entry says of a request that is not trusted yet.
std::string AuditText(const std::string& canonical) {
  const auto request = order::ParseChangeRequest(canonical);
  if (!request.ok()) return "unreadable";
  std::string parameters;
  for (const auto& [key, value] : request->parameters) parameters += fmt::format(" {}={}", key, value);
  return fmt::format("id={} node={} action={}{} reason={}", request->id, request->node.text(),
                     order::ActionName(request->action), parameters, request->reason);
}

}  // namespace

grpc::Status FleetServiceImpl::ListRequests(grpc::ServerContext* context,
                                            const v1::ListRequestsRequest* request,
                                            v1::ListRequestsResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/ListRequests", NotAudited, [&](const Caller&) -> Status {
        RequestQuery query{.open_only = request->open_only()};
        query.limit = request->page_size() == 0 ? kDefaultPage : std::min(request->page_size(), kMaxPage);
        if (!request->node_id().empty()) {
          SEALIFT_ASSIGN_OR_RETURN(const Node node, FindNode(request->node_id()));
          query.node = node.id;
        }
        SEALIFT_ASSIGN_OR_RETURN(const auto records, parts_.requests.List(query));
        const UnixMillis now = parts_.clock.Now();
        for (const RequestRecord& record : records) {
          if (query.open_only && HasEnded(StateAt(record, now))) continue;
          *response->add_requests() = ToProto(record, now);
        }
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::GetRequest(grpc::ServerContext* context, const v1::GetRequestRequest* request,
                                          v1::ChangeRequest* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/GetRequest", NotAudited, [&](const Caller&) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("id", request->id(), kMaxIdBytes));
        SEALIFT_ASSIGN_OR_RETURN(const RequestRecord record, parts_.requests.Get(request->id()));
        *response = ToProto(record, parts_.clock.Now());
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::CreateRequest(grpc::ServerContext* context,
                                             const v1::CreateRequestRequest* request,
                                             v1::ChangeRequest* response) {
  const auto text = [&] { return AuditText(request->canonical()); };
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/CreateRequest", text, [&](const Caller& caller) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("signature", request->signature(), kMaxSignatureBytes));
        SEALIFT_ASSIGN_OR_RETURN(
            const RequestRecord record,
            parts_.desk.Create(CallerFrom(caller), request->canonical(), AsBytes(request->signature())));
        *response = ToProto(record, parts_.clock.Now());
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::ApproveRequest(grpc::ServerContext* context,
                                              const v1::ApproveRequestRequest* request,
                                              v1::ChangeRequest* response) {
  const auto text = [&] {
    return fmt::format("id={} {}", request->id().substr(0, kMaxIdBytes),
                       response->canonical().empty() ? "" : AuditText(response->canonical()));
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/ApproveRequest", text, [&](const Caller& caller) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("id", request->id(), kMaxIdBytes));
        SEALIFT_RETURN_IF_ERROR(CheckText("signature", request->signature(), kMaxSignatureBytes));
        SEALIFT_ASSIGN_OR_RETURN(
            const RequestRecord record,
            parts_.desk.Approve(CallerFrom(caller), request->id(), AsBytes(request->signature())));
        *response = ToProto(record, parts_.clock.Now());
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::CancelRequest(grpc::ServerContext* context,
                                             const v1::CancelRequestRequest* request,
                                             v1::ChangeRequest* response) {
  const auto text = [&] {
    return fmt::format("id={} reason={}", request->id().substr(0, kMaxIdBytes),
                       request->reason().substr(0, kMaxNoteBytes));
  };
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/CancelRequest", text, [&](const Caller& caller) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("id", request->id(), kMaxIdBytes));
        SEALIFT_RETURN_IF_ERROR(CheckText("reason", request->reason(), kMaxNoteBytes));
        SEALIFT_ASSIGN_OR_RETURN(const RequestRecord record,
                                 parts_.desk.Cancel(CallerFrom(caller), request->id(), request->reason()));
        *response = ToProto(record, parts_.clock.Now());
        return OkStatus();
      });
}

grpc::Status FleetServiceImpl::FetchRecoveryKey(grpc::ServerContext* context,
                                                const v1::FetchRecoveryKeyRequest* request,
                                                v1::FetchRecoveryKeyResponse* response) {
  const auto text = [&] { return fmt::format("request={}", request->request_id().substr(0, kMaxIdBytes)); };
  return parts_.runner.Run(
      *context, "/sealift.v1.FleetService/FetchRecoveryKey", text, [&](const Caller& caller) -> Status {
        SEALIFT_RETURN_IF_ERROR(CheckText("request_id", request->request_id(), kMaxIdBytes));
        SEALIFT_ASSIGN_OR_RETURN(const auto keys,
                                 parts_.desk.ReleaseRecoveryKeys(CallerFrom(caller), request->request_id()));
        for (const EscrowedKey& key : keys) {
          v1::FetchRecoveryKeyResponse::Blob& to = *response->add_blobs();
          to.set_volume(key.volume);
          to.set_luks_uuid(key.luks_uuid);
          to.set_slot(key.slot);
          to.set_blob(key.blob);
        }
        return OkStatus();
      });
}

}  // namespace sealift::controller
