#include "node-agent/link/site_client.h"

#include <fmt/format.h>

#include "sealift/v1/site.grpc.pb.h"
#include "shared/wire/channel.h"
#include "shared/wire/convert.h"
#include "shared/wire/grpc_status.h"

namespace sealift::agent {
namespace {

constexpr std::chrono::milliseconds kDeadline = std::chrono::seconds(10);

// Of a method that takes a context, a request and a response.
template <typename Method, typename Request, typename Response>
Status Call(const ControllerLink& link, std::string_view name, Method method, const Request& request,
            Response& response) {
  SEALIFT_ASSIGN_OR_RETURN(const auto channel, link.Channel());
  const auto stub = v1::SiteService::NewStub(channel);
  const auto context = wire::MakeContext(kDeadline);
  const grpc::Status status = (stub.get()->*method)(context.get(), request, &response);
  return status.ok() ? OkStatus() : Annotate(StatusFromGrpc(status), fmt::format("call {}", name));
}

}  // namespace

Result<SiteAdvice> SiteClient::Locate(const Sha256Digest& object, const std::set<std::string>& failed) {
  v1::LocateRequest request;
  request.set_digest(wire::ToWire(object));
  for (const std::string& node : failed) request.add_failed(node);
  v1::LocateResponse response;
  SEALIFT_RETURN_IF_ERROR(Call(link_, "Locate", &v1::SiteService::Stub::Locate, request, response));
  SiteAdvice advice{.wait = std::chrono::milliseconds(response.wait_ms())};
  if (response.has_holder())
    advice.holder = SiteNeighbour{response.holder().node_id(), response.holder().address()};
  return advice;
}

Status SiteClient::Offer(const std::vector<Sha256Digest>& objects, const std::string& address) {
  v1::OfferRequest request;
  for (const Sha256Digest& object : objects) request.add_digests(wire::ToWire(object));
  request.set_address(address);
  v1::OfferResponse response;
  return Call(link_, "Offer", &v1::SiteService::Stub::Offer, request, response);
}

Result<std::string> SiteClient::NodeCas() {
  v1::GetSiteResponse response;
  SEALIFT_RETURN_IF_ERROR(
      Call(link_, "GetSite", &v1::SiteService::Stub::GetSite, v1::GetSiteRequest(), response));
  return response.node_cas();
}

Result<bool> SiteClient::Admits(ByteView certificate) {
  v1::AdmitPeerRequest request;
  request.set_certificate(ToText(certificate));
  v1::AdmitPeerResponse response;
  SEALIFT_RETURN_IF_ERROR(Call(link_, "AdmitPeer", &v1::SiteService::Stub::AdmitPeer, request, response));
  return response.admitted();
}

}  // namespace sealift::agent
