#include "shared/wire/tls.h"

#include <fmt/format.h>
#include <google/protobuf/stubs/logging.h>
#include <grpc/grpc_security_constants.h>
#include <grpc/support/log.h>
#include <openssl/pem.h>

#include <cstdlib>
#include <mutex>
#include <string_view>

#include "shared/base/log.h"
#include "shared/crypto/openssl.h"

namespace sealift::wire {
namespace {

// Suites that exist in every OpenSSL 3 build at security level 2 and that need a pre-shared key.
constexpr char kNoTls12[] =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:ECDHE-PSK-CHACHA20-POLY1305";

void ForwardLog(gpr_log_func_args* args) {
  const std::string_view text = args->message == nullptr ? "" : args->message;
  // gRPC's own error lines tell of peers that went away or failed a handshake; nobody must act on one.
  const log::Level level = args->severity == GPR_LOG_SEVERITY_ERROR ? log::Level::kInfo : log::Level::kDebug;
  log::Write(level, "gRPC says", {{"error", std::string(text)}});
}

// Tells of each field of a peer that is not UTF-8: the peer's doing, and as often as it likes.
void ForwardProtobufLog(google::protobuf::LogLevel level, const char*, int, const std::string& message) {
  // FATAL ends the process right after.
  const bool last = level == google::protobuf::LOGLEVEL_FATAL;
  log::Write(last ? log::Level::kError : log::Level::kDebug, "protobuf says", {{"error", message}});
}

Result<X509Ptr> FirstCertificate(const std::string& chain) {
  const BioPtr bio(BIO_new_mem_buf(chain.data(), static_cast<int>(chain.size())));
  X509Ptr certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (!certificate) {
    return OpenSslError(Reason::kCertificateInvalid, "read TLS certificate", "PEM_read_bio_X509");
  }
  return certificate;
}

// The way gRPC reads it: through whatever OpenSSL decoders are installed, the key provider's among them.
Result<EvpPkeyPtr> PrivateKey(const std::string& pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  EvpPkeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (!key) return OpenSslError(Reason::kKeyMismatch, "read TLS private key", "PEM_read_bio_PrivateKey");
  return key;
}

}  // namespace

void InitialiseGrpc() {
  static std::once_flag once;
  std::call_once(once, [] {
    SEALIFT_CHECK(setenv("GRPC_SSL_CIPHER_SUITES", kNoTls12, 1) == 0);
    gpr_set_log_function(ForwardLog);
    google::protobuf::SetLogHandler(ForwardProtobufLog);
  });
}

Status CheckTlsIdentity(const TlsIdentity& identity) {
  SEALIFT_ASSIGN_OR_RETURN(const X509Ptr certificate, FirstCertificate(identity.certificate_chain));
  SEALIFT_ASSIGN_OR_RETURN(const EvpPkeyPtr key, PrivateKey(identity.key));
  const EVP_PKEY* certified = X509_get0_pubkey(certificate.get());
  if (certified == nullptr || EVP_PKEY_eq(certified, key.get()) != 1) {
    return MakeError(Code::kInvalidArgument, Reason::kKeyMismatch,
                     "check TLS identity: the certificate is for another key");
  }
  return OkStatus();
}

Result<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(const std::string& ca,
                                                                         const TlsIdentity& identity) {
  InitialiseGrpc();
  SEALIFT_RETURN_IF_ERROR(FirstCertificate(ca).status());
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = ca;
  if (!identity.certificate_chain.empty() || !identity.key.empty()) {
    SEALIFT_RETURN_IF_ERROR(CheckTlsIdentity(identity));
    options.pem_cert_chain = identity.certificate_chain;
    options.pem_private_key = identity.key;
  }
  return grpc::SslCredentials(options);
}

Result<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(const TlsIdentity& identity,
                                                                       ClientCertificates clients,
                                                                       const std::string& client_ca) {
  InitialiseGrpc();
  SEALIFT_RETURN_IF_ERROR(CheckTlsIdentity(identity));
  grpc::SslServerCredentialsOptions options(clients == ClientCertificates::kRequired
                                                ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                                : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  options.pem_key_cert_pairs.push_back({identity.key, identity.certificate_chain});
  if (clients == ClientCertificates::kRequired) {
    SEALIFT_RETURN_IF_ERROR(FirstCertificate(client_ca).status());
    options.pem_root_certs = client_ca;
  }
  return grpc::SslServerCredentials(options);
}

}  // namespace sealift::wire
