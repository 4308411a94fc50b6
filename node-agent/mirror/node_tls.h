// TLS 1.3 between nodes: each side proves by a certificate of the node CA which node it is.
//
// Thread-safe functions.
#pragma once

#include <openssl/ssl.h>

#include <string>

#include "node-agent/mirror/site_hints.h"
#include "shared/base/status.h"
#include "shared/crypto/openssl.h"

namespace sealift::agent {

using SslContextPtr = CPtr<SSL_CTX, SSL_CTX_free>;
using SslPtr = CPtr<SSL, SSL_free>;

// For both sides: the peer has to show a certificate that one of `node_cas` (PEM) issued. Errors:
// FAILED_PRECONDITION/NOT_ENROLLED without a certificate of one's own; CERTIFICATE_INVALID.
Result<SslContextPtr> MakeNodeTls(const NodeTls& own, const std::string& node_cas);

// Whom the other side proved to be.
struct NodePeer {
  std::string node_id;
  // DER
  Bytes certificate;
};

// After the handshake. Errors: UNAUTHENTICATED/CERTIFICATE_INVALID.
Result<NodePeer> PeerOf(const SSL* ssl);

}  // namespace sealift::agent
