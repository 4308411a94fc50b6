#include "controller/api/site_service.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>

#include "controller/api/convert.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr int kMaxFailed = 16;
constexpr int kMaxOffered = 256;
constexpr int kMaxHolders = 64;
constexpr std::size_t kMaxAddressBytes = 64;
constexpr std::size_t kMaxPeerBytes = 8192;
constexpr char kSiteLabel[] = "site";

std::string NotAudited() { return {}; }

// Nodes connect to it: an IP address and an unprivileged port, nothing that has to be looked up.
Status CheckAddress(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  unsigned port = 0;
  const std::string digits = colon == std::string::npos ? "" : address.substr(colon + 1);
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  unsigned char buffer[sizeof(in6_addr)];
  const bool ip =
      inet_pton(AF_INET, host.c_str(), buffer) == 1 || inet_pton(AF_INET6, host.c_str(), buffer) == 1;
  if (address.size() <= kMaxAddressBytes && ip && parsed.ec == std::errc() &&
      parsed.ptr == digits.data() + digits.size() && port >= 1024 && port <= 65535)
    return OkStatus();
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   "offer objects: the address is no IP address with a port from 1024 on");
}

}  // namespace

Result<std::string> SiteServiceImpl::SiteOf(const NodeId& id) {
  const Result<Node> node = parts_.nodes.Get(id);
  if (node.status().code() == Code::kNotFound) return std::string();
  SEALIFT_RETURN_IF_ERROR(node.status());
  const bool untrusted = node->last_verdict && node->last_verdict->trust == Trust::kUntrusted;
  const auto label = node->labels.find(kSiteLabel);
  if (node->admission != Admission::kAdmitted || untrusted || label == node->labels.end())
    return std::string();
  return label->second;
}

Status SiteServiceImpl::HandleLocate(const Caller& caller, const v1::LocateRequest& request,
                                     v1::LocateResponse& response) {
  SEALIFT_ASSIGN_OR_RETURN(const NodeId id, CallingNode(caller));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, wire::DigestFromWire("digest", request.digest()));
  SEALIFT_ASSIGN_OR_RETURN(const std::string site, SiteOf(id));
  // What is no object of ours has no place in the directory, so that nobody can fill it.
  if (site.empty() || request.failed_size() > kMaxFailed || !parts_.content.Has(digest)) return OkStatus();
  const std::set<std::string> failed(request.failed().begin(), request.failed().end());
  for (int i = 0; i < kMaxHolders; ++i) {
    const SiteAdvice advice = directory_.Locate(id, site, digest, failed, std::chrono::steady_clock::now());
    response.set_wait_ms(static_cast<std::uint32_t>(advice.wait.count()));
    if (!advice.holder) return OkStatus();
    // As it stands now, not as it stood when it made the offer.
    SEALIFT_ASSIGN_OR_RETURN(const std::string holder_site, SiteOf(advice.holder->node));
    if (holder_site == site) {
      response.mutable_holder()->set_node_id(advice.holder->node.text());
      response.mutable_holder()->set_address(advice.holder->address);
      return OkStatus();
    }
    directory_.Withdraw(advice.holder->node, site, digest);
  }
  return OkStatus();
}

grpc::Status SiteServiceImpl::Locate(grpc::ServerContext* context, const v1::LocateRequest* request,
                                     v1::LocateResponse* response) {
  return parts_.runner.Run(*context, "/sealift.v1.SiteService/Locate", NotAudited,
                           [&](const Caller& caller) { return HandleLocate(caller, *request, *response); });
}

Status SiteServiceImpl::HandleOffer(const Caller& caller, const v1::OfferRequest& request) {
  SEALIFT_ASSIGN_OR_RETURN(const NodeId id, CallingNode(caller));
  if (!request.address().empty()) SEALIFT_RETURN_IF_ERROR(CheckAddress(request.address()));
  if (request.digests_size() > kMaxOffered) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("offer objects: more than {} at once", kMaxOffered));
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::string site, SiteOf(id));
  if (site.empty()) return OkStatus();
  const auto now = std::chrono::steady_clock::now();
  for (const std::string& bytes : request.digests()) {
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, wire::DigestFromWire("digests", bytes));
    if (request.address().empty()) {
      directory_.Withdraw(id, site, digest);
    } else if (parts_.content.Has(digest)) {
      directory_.Offer(id, site, digest, request.address(), now);
    }
  }
  return OkStatus();
}

grpc::Status SiteServiceImpl::Offer(grpc::ServerContext* context, const v1::OfferRequest* request,
                                    v1::OfferResponse*) {
  return parts_.runner.Run(*context, "/sealift.v1.SiteService/Offer", NotAudited,
                           [&](const Caller& caller) { return HandleOffer(caller, *request); });
}

grpc::Status SiteServiceImpl::GetSite(grpc::ServerContext* context, const v1::GetSiteRequest*,
                                      v1::GetSiteResponse* response) {
  return parts_.runner.Run(*context, "/sealift.v1.SiteService/GetSite", NotAudited,
                           [&](const Caller& caller) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const NodeId id, CallingNode(caller));
                             SEALIFT_ASSIGN_OR_RETURN(*response->mutable_site(), SiteOf(id));
                             for (const Certificate& ca : parts_.node_cas)
                               *response->mutable_node_cas() += ca.Pem();
                             return OkStatus();
                           });
}

Result<bool> SiteServiceImpl::IsNeighbour(const Caller& caller, const v1::AdmitPeerRequest& request) {
  SEALIFT_ASSIGN_OR_RETURN(const NodeId id, CallingNode(caller));
  if (request.certificate().size() > kMaxPeerBytes) return false;
  const auto certificate = Certificate::FromDer(AsBytes(request.certificate()));
  if (!certificate.ok()) return false;
  const auto peer = IdentifyCertificate(*certificate, parts_.node_cas, {}, parts_.clock.Now());
  if (!peer.ok() || !peer->node) return false;
  SEALIFT_ASSIGN_OR_RETURN(const bool revoked, parts_.certificates.IsRevoked(certificate->fingerprint()));
  SEALIFT_ASSIGN_OR_RETURN(const std::string site, SiteOf(id));
  SEALIFT_ASSIGN_OR_RETURN(const std::string peer_site, SiteOf(*peer->node));
  return !revoked && !site.empty() && peer_site == site;
}

grpc::Status SiteServiceImpl::AdmitPeer(grpc::ServerContext* context, const v1::AdmitPeerRequest* request,
                                        v1::AdmitPeerResponse* response) {
  return parts_.runner.Run(*context, "/sealift.v1.SiteService/AdmitPeer", NotAudited,
                           [&](const Caller& caller) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const bool admitted, IsNeighbour(caller, *request));
                             response->set_admitted(admitted);
                             return OkStatus();
                           });
}

}  // namespace sealift::controller
