#include "tests/sim/fleet/bare_handshakes.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "shared/base/status.h"
#include "shared/crypto/openssl.h"

namespace sealift::sim {
namespace {

using SslCtxPtr = CPtr<SSL_CTX, SSL_CTX_free>;
using SslPtr = CPtr<SSL, SSL_free>;

SslCtxPtr MakeContext(const TlsParty& party, const std::string& ca_pem, bool server) {
  SslCtxPtr context(SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()));
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.get(), 0);
  const BioPtr chain(BIO_new_mem_buf(party.chain.data(), static_cast<int>(party.chain.size())));
  const X509Ptr leaf(PEM_read_bio_X509(chain.get(), nullptr, nullptr, nullptr));
  const BioPtr key(BIO_new_mem_buf(party.key.data(), static_cast<int>(party.key.size())));
  const EvpPkeyPtr private_key(PEM_read_bio_PrivateKey(key.get(), nullptr, nullptr, nullptr));
  const BioPtr ca(BIO_new_mem_buf(ca_pem.data(), static_cast<int>(ca_pem.size())));
  const X509Ptr anchor(PEM_read_bio_X509(ca.get(), nullptr, nullptr, nullptr));
  SEALIFT_CHECK(SSL_CTX_use_certificate(context.get(), leaf.get()) == 1 &&
                SSL_CTX_use_PrivateKey(context.get(), private_key.get()) == 1 &&
                X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), anchor.get()) == 1);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return context;
}

void Shake(SSL_CTX* client_context, SSL_CTX* server_context) {
  const SslPtr client(SSL_new(client_context));
  const SslPtr server(SSL_new(server_context));
  BIO* one = nullptr;
  BIO* other = nullptr;
  SEALIFT_CHECK(BIO_new_bio_pair(&one, 1 << 16, &other, 1 << 16) == 1);
  SSL_set_bio(client.get(), one, one);
  SSL_set_bio(server.get(), other, other);
  SSL_set_connect_state(client.get());
  SSL_set_accept_state(server.get());
  int turns = 0;
  for (bool done = false; !done && turns < 20; ++turns) {
    const bool client_done = SSL_do_handshake(client.get()) == 1;
    const bool server_done = SSL_do_handshake(server.get()) == 1;
    done = client_done && server_done;
  }
  SEALIFT_CHECK(turns < 20);
}

}  // namespace

double BareHandshakesPerSecond(const TlsParty& client, const TlsParty& server, const std::string& ca_pem,
                               int threads, double seconds) {
  std::atomic<long> done = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  {
    std::vector<std::jthread> workers;
    for (int i = 0; i < threads; ++i) {
      workers.emplace_back([&] {
        const SslCtxPtr client_context = MakeContext(client, ca_pem, false);
        const SslCtxPtr server_context = MakeContext(server, ca_pem, true);
        while (elapsed() < seconds) {
          Shake(client_context.get(), server_context.get());
          ++done;
        }
      });
    }
  }
  return static_cast<double>(done) / elapsed();
}

}  // namespace sealift::sim
