// The one door of the gRPC servers: every call of every service passes it, reflection and health included.
//
// It sits in gRPC's authentication step (grpc::AuthMetadataProcessor), which runs before a method is looked
// up, so a handler that forgets to ask cannot exist. Thread-safe.
#pragma once

#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/server_context.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "controller/api/authorization.h"
#include "controller/fleet/stores.h"
#include "shared/base/clock.h"
#include "shared/crypto/certificate.h"

namespace sealift::controller {

// Who calls, as the certificate proves it.
struct Caller {
  Role role = Role::kAnonymous;
  // Of role kNode.
  std::optional<NodeId> node;
  // Of operators.
  std::string operator_name;
  // SHA-256 of the certificate's DER; zero for kAnonymous.
  Sha256Digest certificate;
  // The DER itself, of operators: what they sign is kept with it.
  Bytes certificate_der;
  UnixMillis not_before;
  UnixMillis not_after;
};

// The node that calls, for services that answer nodes. The gate let nobody else in; this holds without it,
// too. Errors: PERMISSION_DENIED/RPC_NOT_PERMITTED.
Result<NodeId> CallingNode(const Caller& caller);

// Reads a client certificate by the rules of this system: issued directly by a node CA it is a node and names
// exactly one "sealift:node:<uuid>"; issued directly by an operator CA it is an operator and names exactly
// one "sealift:operator:<name>?role=<role>". The issuer decides which; the name alone never does. Errors:
// UNAUTHENTICATED/CERTIFICATE_INVALID, CERTIFICATE_EXPIRED.
Result<Caller> IdentifyCertificate(const Certificate& certificate, const std::vector<Certificate>& node_cas,
                                   const std::vector<Certificate>& operator_cas, UnixMillis now);

struct GateOptions {
  std::vector<Certificate> node_cas;
  std::vector<Certificate> operator_cas;
  // Told of each refusal: method (or "unknown") and code.
  std::function<void(std::string_view method, Code code)> on_refusal;
};

class AccessGate final {
 public:
  // Borrows both.
  AccessGate(GateOptions options, CertificateStore& certificates, const Clock& clock)
      : options_(std::move(options)), certificates_(certificates), clock_(clock) {}

  // Certificate, validity now, revocation, then the table. `pem` empty: nobody.
  // Errors: UNAUTHENTICATED/CERTIFICATE_INVALID, CERTIFICATE_EXPIRED, CERTIFICATE_REVOKED;
  //         PERMISSION_DENIED/RPC_NOT_PERMITTED; UNAVAILABLE/STORE_FAILED.
  Status Admit(std::string_view method, const std::string& pem);
  // Who made a call that was admitted.
  Result<Caller> CallerOf(const grpc::ServerContextBase& context);
  // For ServerCredentials::SetAuthMetadataProcessor. Borrows this.
  std::shared_ptr<grpc::AuthMetadataProcessor> Processor();

 private:
  Result<Caller> Identify(const std::string& pem);
  void Refused(std::string_view method, const Status& status) const;

  GateOptions options_;
  CertificateStore& certificates_;
  const Clock& clock_;
  // Certificates whose issuer was checked; times and revocation are checked anew for each call.
  std::mutex mutex_;
  std::unordered_map<std::string, Caller> known_;
};

}  // namespace sealift::controller
