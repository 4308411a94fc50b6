// What every gRPC endpoint of this project shares: TLS 1.3, P-256, keys that may live elsewhere, one log.
//
// gRPC 1.51 has no public way to set a minimum TLS version. It has one to set the TLS 1.2 cipher list, so the
// list given to it holds only suites that need a pre-shared key, which this process never has: a TLS 1.2
// handshake cannot find a cipher, a TLS 1.3 one does not look at that list. See
// docs/decisions/0010-tls-1.3-only.md.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "shared/base/status.h"

namespace sealift::wire {

// Cipher list and log redirection. Every function below calls it; a program calls it first thing in main,
// since it sets an environment variable and must come before gRPC's first use in the process. Safe to call
// again.
void InitialiseGrpc();

// PEM texts. `key` may be a SEALIFT KEY REFERENCE (then InstallKeyProvider was called and its scheme has a
// resolver) or unencrypted PKCS#8. Empty chain and key: no client certificate.
struct TlsIdentity {
  std::string certificate_chain;
  std::string key;
};

// Errors: INVALID_ARGUMENT/CERTIFICATE_INVALID, KEY_MISMATCH: gRPC itself would only log and fail every
// connection later.
Status CheckTlsIdentity(const TlsIdentity& identity);

// `ca`: the roots that may have issued the server's certificate.
Result<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(const std::string& ca,
                                                                         const TlsIdentity& identity);

enum class ClientCertificates { kNone, kRequired };
// `client_ca`: the roots of client certificates; unused with kNone.
Result<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const TlsIdentity& identity,
                                                                       ClientCertificates clients,
                                                                       const std::string& client_ca);

}  // namespace sealift::wire
