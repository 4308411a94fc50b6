#include "node-agent/mirror/node_tls.h"

#include "shared/crypto/certificate.h"
#include "shared/crypto/key_reference.h"
#include "shared/crypto/node_certificate.h"

namespace sealift::agent {

Result<SslContextPtr> MakeNodeTls(const NodeTls& own, const std::string& node_cas) {
  if (own.chain.empty()) {
    return MakeError(Code::kFailedPrecondition, Reason::kNotEnrolled,
                     "speak with a neighbour: this node has no certificate yet");
  }
  SEALIFT_ASSIGN_OR_RETURN(const auto chain, Certificate::ChainFromPem(own.chain));
  SEALIFT_ASSIGN_OR_RETURN(const auto cas, Certificate::ChainFromPem(node_cas));
  SEALIFT_ASSIGN_OR_RETURN(const EvpPkeyPtr key, LoadKeyPem(own.key, "load the node's key"));
  SslContextPtr context(SSL_CTX_new(TLS_method()));
  SEALIFT_CHECK(context != nullptr);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  // A node's certificate is a client's, whichever side it is on here.
  X509_VERIFY_PARAM* const parameters = SSL_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_purpose(parameters, X509_PURPOSE_SSL_CLIENT);
  X509_STORE* const store = SSL_CTX_get_cert_store(context.get());
  bool good = true;
  for (const Certificate& ca : cas) good = good && X509_STORE_add_cert(store, ca.x509()) == 1;
  good = good && SSL_CTX_use_certificate(context.get(), chain.front().x509()) == 1;
  for (std::size_t i = 1; i < chain.size(); ++i)
    good = good && SSL_CTX_add1_chain_cert(context.get(), chain[i].x509()) == 1;
  good = good && SSL_CTX_use_PrivateKey(context.get(), key.get()) == 1;
  if (!good) return OpenSslError(Reason::kCertificateInvalid, "speak with a neighbour", "SSL_CTX");
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.get(), 0);
  return context;
}

Result<NodePeer> PeerOf(const SSL* ssl) {
  const X509Ptr peer(SSL_get1_peer_certificate(ssl));
  unsigned char* bytes = nullptr;
  const int size =
      peer == nullptr || SSL_get_verify_result(ssl) != X509_V_OK ? -1 : i2d_X509(peer.get(), &bytes);
  if (size <= 0) {
    return MakeError(Code::kUnauthenticated, Reason::kCertificateInvalid,
                     "read a neighbour's certificate: it showed none that holds");
  }
  const auto certificate = Certificate::FromDer(ByteView(bytes, static_cast<std::size_t>(size)));
  OPENSSL_free(bytes);
  SEALIFT_RETURN_IF_ERROR(certificate.status());
  const auto id = NodeIdOf(*certificate);
  if (id.ok()) return NodePeer{.node_id = id->text(), .certificate = certificate->der()};
  return MakeError(Code::kUnauthenticated, Reason::kCertificateInvalid,
                   "read a neighbour's certificate: it is no node's");
}

}  // namespace sealift::agent
