#include "controller/api/enrolment_service.h"

#include <arpa/inet.h>

#include "controller/api/convert.h"
#include "shared/base/log.h"
#include "shared/base/secret.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxPublicBytes = 2048;
constexpr std::size_t kMaxSessionBytes = 128;
constexpr std::size_t kMaxSecretBytes = 256;
constexpr std::size_t kMaxCsrBytes = 8192;
constexpr std::size_t kMaxAttestBytes = 4096;
constexpr int kMaxChain = 8;
constexpr std::size_t kMaxTokenBytes = 256;

std::string NotAudited() { return {}; }

Result<EnrolmentOffer> OfferFrom(const v1::BeginRequest& request) {
  if (request.ek_certificate_chain_size() > kMaxChain) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "read ek_certificate_chain: more than 8");
  }
  EnrolmentOffer offer;
  for (const std::string& der : request.ek_certificate_chain()) {
    SEALIFT_RETURN_IF_ERROR(CheckText("ek_certificate_chain", der, kMaxCertificateBytes));
    offer.ek_certificate_chain.push_back(ToBytes(der));
  }
  SEALIFT_RETURN_IF_ERROR(CheckText("ek_public", request.ek_public(), kMaxPublicBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("ak_public", request.ak_public(), kMaxPublicBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("tls_public", request.tls_public(), kMaxPublicBytes));
  offer.ek_public = ToBytes(request.ek_public());
  offer.ak_public = ToBytes(request.ak_public());
  offer.tls_public = ToBytes(request.tls_public());
  SEALIFT_RETURN_IF_ERROR(CheckText("join_token", request.join_token(), kMaxTokenBytes));
  offer.join_token = SecretBytes(AsBytes(request.join_token()));
  return offer;
}

Result<EnrolmentProof> ProofFrom(const v1::CompleteRequest& request) {
  SEALIFT_RETURN_IF_ERROR(CheckText("session", request.session(), kMaxSessionBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("activated_secret", request.activated_secret(), kMaxSecretBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("certify_attest", request.certify_attest(), kMaxAttestBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("certify_signature", request.certify_signature(), kMaxAttestBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("csr", request.csr(), kMaxCsrBytes));
  SEALIFT_ASSIGN_OR_RETURN(AttestationEvidence evidence, EvidenceFromProto(request.quote()));
  std::optional<InstallRecord> install;
  if (request.has_install()) {
    SEALIFT_ASSIGN_OR_RETURN(install, InstallFromProto(request.install()));
  }
  std::optional<CounterEvidence> counter;
  if (request.has_epoch()) {
    SEALIFT_ASSIGN_OR_RETURN(counter, EpochEvidenceFromProto(request.epoch()));
  }
  return EnrolmentProof{.session = request.session(),
                        .activated_secret = SecretBytes(AsBytes(request.activated_secret())),
                        .certify_attest = ToBytes(request.certify_attest()),
                        .certify_signature = ToBytes(request.certify_signature()),
                        .csr = ToBytes(request.csr()),
                        .evidence = {.quote = {.attest = std::move(evidence.attest),
                                               .signature = std::move(evidence.signature),
                                               .pcrs = std::move(evidence.pcrs)},
                                     .event_log = std::move(evidence.event_log)},
                        .install = std::move(install),
                        .epoch = std::move(counter)};
}

std::string_view StateName(EnrolmentState state) {
  switch (state) {
    case EnrolmentState::kIssued:
      return "issued";
    case EnrolmentState::kPending:
      return "pending";
    case EnrolmentState::kRefused:
      return "refused";
  }
  return "unknown";
}

void LogAnswer(const grpc::ServerContext& context, const EnrolmentAnswer& answer) {
  log::Info("enrolment", {{"peer", context.peer()},
                          {"node", answer.node_id ? answer.node_id->text() : ""},
                          {"state", std::string(StateName(answer.state))},
                          {"reason", answer.reason},
                          {"error", answer.message}});
}

}  // namespace

std::string OriginOfPeer(const std::string& peer) {
  const std::size_t kind = peer.find(':');
  const std::size_t port = peer.rfind(':');
  if (kind == std::string::npos || port <= kind) return peer;
  std::string address = peer.substr(kind + 1, port - kind - 1);
  // gRPC writes "[::1]" in percent encoding.
  for (const char* bracket : {"%5B", "%5D", "[", "]"}) {
    if (const std::size_t at = address.find(bracket); at != std::string::npos) {
      address.erase(at, std::string_view(bracket).size());
    }
  }
  in6_addr six{};
  if (::inet_pton(AF_INET6, address.c_str(), &six) != 1) return address;
  return HexEncode(ByteView(six.s6_addr, 8));
}

grpc::Status EnrolmentServiceImpl::Begin(grpc::ServerContext* context, const v1::BeginRequest* request,
                                         v1::BeginResponse* response) {
  return runner_.Run(*context, "/sealift.v1.EnrolmentService/Begin", NotAudited,
                     [&](const Caller&) -> Status {
                       SEALIFT_ASSIGN_OR_RETURN(EnrolmentOffer offer, OfferFrom(*request));
                       offer.origin = OriginOfPeer(context->peer());
                       SEALIFT_ASSIGN_OR_RETURN(const EnrolmentChallenge challenge, enrolment_.Begin(offer));
                       response->set_session(challenge.session);
                       response->set_credential_blob(ToText(challenge.credential_blob));
                       response->set_encrypted_secret(ToText(challenge.encrypted_secret));
                       response->set_nonce(ToText(challenge.nonce));
                       return OkStatus();
                     });
}

grpc::Status EnrolmentServiceImpl::Complete(grpc::ServerContext* context, const v1::CompleteRequest* request,
                                            v1::CompleteResponse* response) {
  return runner_.Run(*context, "/sealift.v1.EnrolmentService/Complete", NotAudited,
                     [&](const Caller&) -> Status {
                       SEALIFT_ASSIGN_OR_RETURN(const EnrolmentProof proof, ProofFrom(*request));
                       SEALIFT_ASSIGN_OR_RETURN(const EnrolmentAnswer answer, enrolment_.Complete(proof));
                       LogAnswer(*context, answer);
                       response->set_state(static_cast<v1::CompleteResponse::State>(answer.state));
                       for (const Bytes& der : answer.certificate_chain)
                         response->add_certificate_chain(ToText(der));
                       if (answer.node_id) response->set_node_id(answer.node_id->text());
                       response->set_reason(answer.reason);
                       response->set_message(answer.message);
                       return OkStatus();
                     });
}

}  // namespace sealift::controller
