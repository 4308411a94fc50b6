#include "controller/api/access_gate.h"

#include <fmt/format.h>
#include <grpc/grpc_security_constants.h>

#include "shared/base/log.h"
#include "shared/order/change_request.h"
#include "shared/wire/grpc_status.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxKnown = 20'000;
constexpr std::string_view kNodePrefix = "sealift:node:";

Status BadCertificate(std::string_view why) {
  return MakeError(Code::kUnauthenticated, Reason::kCertificateInvalid,
                   fmt::format("identify caller: {}", why));
}

Status CheckTimes(UnixMillis not_before, UnixMillis not_after, UnixMillis now) {
  // `not_after` is the last good second.
  if (now >= not_before && now < not_after + std::chrono::seconds(1)) return OkStatus();
  return MakeError(Code::kUnauthenticated, Reason::kCertificateExpired,
                   fmt::format("identify caller: the certificate is valid from {} to {}",
                               FormatRfc3339(not_before), FormatRfc3339(not_after)));
}

bool IssuedBy(const Certificate& certificate, const std::vector<Certificate>& cas, UnixMillis at) {
  const auto verified = VerifyChain(certificate, {}, cas, at, CertificatePurpose::kClient);
  // Directly: a certificate that was issued may not issue others, whatever it says of itself.
  return verified.ok() && verified->chain.size() == 2;
}

Result<NodeId> NodeFrom(const std::string& uri) {
  if (uri.rfind(kNodePrefix, 0) != 0)
    return BadCertificate("a node CA issued it, but it does not name a node");
  return NodeId::Parse(std::string_view(uri).substr(kNodePrefix.size()));
}

Status OperatorFrom(std::string_view uri, Caller& caller) {
  const auto person = order::ParsePersonUri(uri);
  if (!person.ok()) return BadCertificate(MessageOf(person.status()));
  caller.operator_name = person->name;
  SEALIFT_ASSIGN_OR_RETURN(caller.role, OperatorRoleFromName(person->role));
  return OkStatus();
}

std::string PeerPem(const grpc::AuthContext& context) {
  const auto values = context.FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
  if (values.empty()) return {};
  return {values.front().data(), values.front().size()};
}

class GateProcessor final : public grpc::AuthMetadataProcessor {
 public:
  explicit GateProcessor(AccessGate& gate) : gate_(gate) {}
  // A look into a map and one indexed read: not worth another thread.
  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context, OutputMetadata*,
                       OutputMetadata*) override {
    const auto path = metadata.find(":path");
    const std::string_view method = path == metadata.end()
                                        ? std::string_view()
                                        : std::string_view(path->second.data(), path->second.size());
    return ToGrpcStatusInMessage(gate_.Admit(method, PeerPem(*context)));
  }

 private:
  AccessGate& gate_;
};

}  // namespace

Result<NodeId> CallingNode(const Caller& caller) {
  if (caller.role == Role::kNode && caller.node) return *caller.node;
  return MakeError(Code::kPermissionDenied, Reason::kRpcNotPermitted, "identify caller: it is no node");
}

Result<Caller> IdentifyCertificate(const Certificate& certificate, const std::vector<Certificate>& node_cas,
                                   const std::vector<Certificate>& operator_cas, UnixMillis now) {
  SEALIFT_RETURN_IF_ERROR(CheckTimes(certificate.not_before(), certificate.not_after(), now));
  Caller caller{.certificate = certificate.fingerprint(),
                .not_before = certificate.not_before(),
                .not_after = certificate.not_after()};
  const std::vector<std::string> uris = certificate.uris();
  if (uris.size() != 1) return BadCertificate("it does not name exactly one subject URI");
  const bool by_node_ca = IssuedBy(certificate, node_cas, now);
  const bool by_operator_ca = IssuedBy(certificate, operator_cas, now);
  if (by_node_ca == by_operator_ca) return BadCertificate("neither a node CA nor an operator CA issued it");
  if (by_operator_ca) {
    SEALIFT_RETURN_IF_ERROR(OperatorFrom(uris.front(), caller));
    caller.certificate_der = certificate.der();
    return caller;
  }
  SEALIFT_ASSIGN_OR_RETURN(caller.node, NodeFrom(uris.front()));
  caller.role = Role::kNode;
  return caller;
}

Result<Caller> AccessGate::Identify(const std::string& pem) {
  if (pem.empty()) return Caller{};
  const UnixMillis now = clock_.Now();
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = known_.find(pem); found != known_.end()) {
      SEALIFT_RETURN_IF_ERROR(CheckTimes(found->second.not_before, found->second.not_after, now));
      return found->second;
    }
  }
  auto certificate = Certificate::FromPem(pem);
  if (!certificate.ok()) return BadCertificate(MessageOf(certificate.status()));
  SEALIFT_ASSIGN_OR_RETURN(Caller caller,
                           IdentifyCertificate(*certificate, options_.node_cas, options_.operator_cas, now));
  const std::lock_guard lock(mutex_);
  if (known_.size() >= kMaxKnown) known_.clear();
  known_.emplace(pem, caller);
  return caller;
}

Status AccessGate::Admit(std::string_view method, const std::string& pem) {
  const Status status = [&]() -> Status {
    SEALIFT_ASSIGN_OR_RETURN(const Caller caller, Identify(pem));
    if (caller.role != Role::kAnonymous) {
      SEALIFT_ASSIGN_OR_RETURN(const bool revoked, certificates_.IsRevoked(caller.certificate));
      if (revoked) {
        return MakeError(
            Code::kUnauthenticated, Reason::kCertificateRevoked,
            fmt::format("identify caller: certificate {} was revoked", caller.certificate.hex()));
      }
    }
    return CheckRole(method, caller.role);
  }();
  if (!status.ok()) Refused(method, status);
  return status;
}

void AccessGate::Refused(std::string_view method, const Status& status) const {
  // A name that is not in the table is the caller's text: it must not become a metric label.
  const RpcRule* rule = FindRule(method);
  const std::string_view known = rule == nullptr ? "unknown" : rule->method;
  log::Warning("call refused", {{"rpc", std::string(known)}, {"error", Describe(status)}});
  if (options_.on_refusal) options_.on_refusal(known, status.code());
}

Result<Caller> AccessGate::CallerOf(const grpc::ServerContextBase& context) {
  return Identify(PeerPem(*context.auth_context()));
}

std::shared_ptr<grpc::AuthMetadataProcessor> AccessGate::Processor() {
  return std::make_shared<GateProcessor>(*this);
}

}  // namespace sealift::controller
