#include "shared/crypto/key_reference.h"

#include <gtest/gtest.h>
#include <openssl/cms.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

namespace sealift {
namespace {

using SslCtxPtr = CPtr<SSL_CTX, SSL_CTX_free>;
using SslPtr = CPtr<SSL, SSL_free>;

// Counts what passes through, refuses when told to, and remembers the last intent.
class RecordingSigner final : public Signer {
 public:
  explicit RecordingSigner(KeyType type) : inner_(SoftwareSigner::Generate(type).value()) {}
  const PublicKey& public_key() const override { return inner_->public_key(); }
  Result<Bytes> Sign(const SigningRequest& request) override {
    ++signatures;
    if (!failure.ok()) return failure;
    {
      const std::lock_guard lock(mutex_);
      intent_ = request.intent;
    }
    return inner_->Sign(request);
  }
  std::string intent() const {
    const std::lock_guard lock(mutex_);
    return intent_;
  }

  std::atomic<int> signatures{0};
  Status failure;

 private:
  std::unique_ptr<SoftwareSigner> inner_;
  mutable std::mutex mutex_;
  std::string intent_;
};

// Certificates written with bare OpenSSL, so that the provider is tested against libcrypto and not against
// us.
X509Ptr SelfSigned(EVP_PKEY* key, bool ca) {
  X509Ptr certificate(X509_new());
  X509_set_version(certificate.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 7);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
  X509_NAME* name = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"),
                             -1, -1, 0);
  X509_set_issuer_name(certificate.get(), name);
  X509_set_pubkey(certificate.get(), key);
  if (ca) {
    const X509ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, "CA:TRUE"));
    X509_add_ext(certificate.get(), extension.get(), -1);
  }
  if (X509_sign(certificate.get(), key, EVP_sha256()) <= 0) return nullptr;
  return certificate;
}

class KeyReference : public ::testing::TestWithParam<KeyType> {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(InstallKeyProvider().ok()); }
  void SetUp() override {
    signer_ = std::make_shared<RecordingSigner>(GetParam());
    RegisterKeyResolver("test", [this](std::string_view uri) -> Result<std::shared_ptr<Signer>> {
      ++resolved_;
      if (uri == "test:one") return std::shared_ptr<Signer>(signer_);
      return MakeError(Code::kNotFound, Reason::kKeyMismatch, "open key: there is no such key");
    });
  }
  EvpPkeyPtr Wrapped(const std::string& intent = "test") { return WrapSigner(signer_, intent).value(); }

  std::shared_ptr<RecordingSigner> signer_;
  std::atomic<int> resolved_{0};
};

TEST_P(KeyReference, SignsACertificateThatVerifiesWithThePublicKeyAlone) {
  const EvpPkeyPtr key = Wrapped("certificate of a test");
  const X509Ptr certificate = SelfSigned(key.get(), false);
  ASSERT_NE(certificate, nullptr);
  EXPECT_EQ(signer_->intent(), "certificate of a test");
  unsigned char* der = nullptr;
  const int size = i2d_X509(certificate.get(), &der);
  const unsigned char* at = der;
  const X509Ptr again(d2i_X509(nullptr, &at, size));
  OPENSSL_free(der);
  const EvpPkeyPtr plain(X509_get_pubkey(again.get()));
  EXPECT_STREQ(OSSL_PROVIDER_get0_name(EVP_PKEY_get0_provider(plain.get())), "default");
  EXPECT_EQ(X509_verify(again.get(), plain.get()), 1);
  // The same object verifies too, and so does the certificate that still holds it.
  EXPECT_EQ(X509_verify(certificate.get(), key.get()), 1);
  EXPECT_EQ(X509_check_private_key(again.get(), key.get()), 1);
  const auto other = std::make_shared<RecordingSigner>(GetParam());
  const EvpPkeyPtr stranger = WrapSigner(other, "test").value();
  EXPECT_EQ(X509_check_private_key(again.get(), stranger.get()), 0);
  EXPECT_NE(X509_verify(again.get(), stranger.get()), 1);
  ERR_clear_error();
}

TEST_P(KeyReference, SignsCmsAndPkcs7) {
  const EvpPkeyPtr key = Wrapped();
  const X509Ptr certificate = SelfSigned(key.get(), false);
  ASSERT_NE(certificate, nullptr);
  const std::string content = "what is signed";
  const BioPtr data(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
  const CmsPtr cms(CMS_sign(certificate.get(), key.get(), nullptr, data.get(), CMS_BINARY | CMS_DETACHED));
  ASSERT_NE(cms, nullptr) << Describe(OpenSslError(Reason::kCryptoFailed, "sign", "CMS_sign"));
  const BioPtr cms_again(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
  EXPECT_EQ(CMS_verify(cms.get(), nullptr, nullptr, cms_again.get(), nullptr,
                       CMS_BINARY | CMS_NO_SIGNER_CERT_VERIFY),
            1);
  const std::string changed = "what is Signed";
  const BioPtr wrong(BIO_new_mem_buf(changed.data(), static_cast<int>(changed.size())));
  EXPECT_NE(
      CMS_verify(cms.get(), nullptr, nullptr, wrong.get(), nullptr, CMS_BINARY | CMS_NO_SIGNER_CERT_VERIFY),
      1);

  for (const int flags : {PKCS7_BINARY | PKCS7_DETACHED, PKCS7_BINARY | PKCS7_DETACHED | PKCS7_NOATTR}) {
    const BioPtr in(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
    const Pkcs7Ptr pkcs7(PKCS7_sign(certificate.get(), key.get(), nullptr, in.get(), flags));
    ASSERT_NE(pkcs7, nullptr) << Describe(OpenSslError(Reason::kCryptoFailed, "sign", "PKCS7_sign"));
    const BioPtr again(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
    EXPECT_EQ(PKCS7_verify(pkcs7.get(), nullptr, nullptr, again.get(), nullptr, PKCS7_NOVERIFY), 1);
  }
  ERR_clear_error();
}

TEST_P(KeyReference, PemReaderOfOpenSslOpensTheReference) {
  const std::string pem = KeyReferencePem("test:one");
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const EvpPkeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  ASSERT_NE(key, nullptr) << Describe(OpenSslError(Reason::kCryptoFailed, "read", "PEM_read"));
  EXPECT_EQ(resolved_, 1);
  const auto public_key = PublicKey::FromEvp(key.get());
  ASSERT_TRUE(public_key.ok());
  EXPECT_EQ(*public_key, signer_->public_key());
  // Nothing private comes out.
  const BioPtr out(BIO_new(BIO_s_mem()));
  EXPECT_NE(PEM_write_bio_PKCS8PrivateKey(out.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr), 1);
  ERR_clear_error();
}

TEST_P(KeyReference, ReportsTheSignersOwnReason) {
  const EvpPkeyPtr key = Wrapped();
  signer_->failure =
      MakeError(Code::kFailedPrecondition, Reason::kPermissionsTooLoose, "sign: token is away");
  EXPECT_EQ(SelfSigned(key.get(), false), nullptr);
  const Status status = OpenSslError(Reason::kCryptoFailed, "sign certificate 'x'", "X509_sign");
  EXPECT_EQ(ReasonOf(status), Reason::kPermissionsTooLoose);
  EXPECT_EQ(MessageOf(status), "sign certificate 'x': sign: token is away");
  EXPECT_EQ(ERR_peek_error(), 0u);
}

TEST_P(KeyReference, NamesWhatItCannotOpen) {
  EXPECT_EQ(ReasonOf(LoadKeyReference(KeyReferencePem("test:two")).status()), Reason::kKeyMismatch);
  EXPECT_EQ(LoadKeyReference(KeyReferencePem("nobody:x")).status().code(), Code::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(LoadKeyReference("-----BEGIN SEALIFT KEY REFERENCE-----\nAA").status()),
            Reason::kMalformed);
  EXPECT_EQ(ReasonOf(LoadKeyReference(KeyReferencePem(std::string(9000, 'x'))).status()), Reason::kMalformed);
  const std::string pem = KeyReferencePem("test:two");
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  EXPECT_EQ(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr), nullptr);
  ERR_clear_error();
}

TEST_P(KeyReference, LeavesOrdinaryKeysToTheDefaultProvider) {
  const auto ordinary = SoftwareSigner::Generate(GetParam()).value();
  EXPECT_STREQ(OSSL_PROVIDER_get0_name(EVP_PKEY_get0_provider(ordinary->evp())), "default");
  const std::string pem = ordinary->PrivatePem();
  const auto read = SoftwareSigner::FromPem(pem);
  ASSERT_TRUE(read.ok());
  EXPECT_STREQ(OSSL_PROVIDER_get0_name(EVP_PKEY_get0_provider((*read)->evp())), "default");
}

TEST_P(KeyReference, ManyThreadsSignWithOneKey) {
  const EvpPkeyPtr key = Wrapped();
  std::atomic<int> good{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        for (int n = 0; n < 8; ++n) {
          const X509Ptr certificate = SelfSigned(key.get(), false);
          if (certificate != nullptr && X509_verify(certificate.get(), key.get()) == 1) ++good;
        }
      });
    }
  }
  EXPECT_EQ(good, 64);
}

std::string TypeName(const ::testing::TestParamInfo<KeyType>& info) {
  if (info.param == KeyType::kRsa) return "Rsa";
  return info.param == KeyType::kEcP256 ? "P256" : "P384";
}

INSTANTIATE_TEST_SUITE_P(Types, KeyReference,
                         ::testing::Values(KeyType::kRsa, KeyType::kEcP256, KeyType::kEcP384), TypeName);

// --- TLS 1.3, both sides with keys that are only references

SslCtxPtr Context(const SSL_METHOD* method, X509* certificate, EVP_PKEY* key, X509* peer) {
  SslCtxPtr context(SSL_CTX_new(method));
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), peer);
  if (SSL_CTX_use_certificate(context.get(), certificate) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), key) != 1) {
    return nullptr;
  }
  return context;
}

// One side's step; a hard failure ends the handshake with its reason still on OpenSSL's queue.
enum class Step { kWaiting, kDone, kFailed };
Step Advance(SSL* side) {
  const int done = SSL_do_handshake(side);
  if (done == 1) return Step::kDone;
  return SSL_get_error(side, done) == SSL_ERROR_WANT_READ ? Step::kWaiting : Step::kFailed;
}

// True when both sides finished within a few turns.
bool Handshake(SSL_CTX* server_context, SSL_CTX* client_context) {
  const SslPtr server(SSL_new(server_context));
  const SslPtr client(SSL_new(client_context));
  BIO* left = nullptr;
  BIO* right = nullptr;
  BIO_new_bio_pair(&left, 0, &right, 0);
  SSL_set_bio(server.get(), left, left);
  SSL_set_bio(client.get(), right, right);
  SSL_set_accept_state(server.get());
  SSL_set_connect_state(client.get());
  for (int turn = 0; turn < 20; ++turn) {
    const Step connected = Advance(client.get());
    if (connected == Step::kFailed) return false;
    const Step accepted = Advance(server.get());
    if (accepted == Step::kFailed) return false;
    if (connected == Step::kDone && accepted == Step::kDone) {
      return SSL_version(client.get()) == TLS1_3_VERSION;
    }
  }
  return false;
}

class KeyReferenceTls : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(InstallKeyProvider().ok()); }
};

TEST_F(KeyReferenceTls, MutualTls13WithBothKeysBehindReferences) {
  const auto server_signer = std::make_shared<RecordingSigner>(KeyType::kEcP256);
  const auto client_signer = std::make_shared<RecordingSigner>(KeyType::kEcP256);
  RegisterKeyResolver("tls", [&](std::string_view uri) -> Result<std::shared_ptr<Signer>> {
    return std::shared_ptr<Signer>(uri == "tls:server" ? server_signer : client_signer);
  });
  const EvpPkeyPtr server_key = LoadKeyReference(KeyReferencePem("tls:server")).value();
  const EvpPkeyPtr client_key = LoadKeyReference(KeyReferencePem("tls:client")).value();
  const X509Ptr server_certificate = SelfSigned(server_key.get(), true);
  const X509Ptr client_certificate = SelfSigned(client_key.get(), true);
  server_signer->signatures = 0;
  client_signer->signatures = 0;
  const SslCtxPtr server =
      Context(TLS_server_method(), server_certificate.get(), server_key.get(), client_certificate.get());
  const SslCtxPtr client =
      Context(TLS_client_method(), client_certificate.get(), client_key.get(), server_certificate.get());
  ASSERT_NE(server, nullptr);
  ASSERT_NE(client, nullptr);
  EXPECT_TRUE(Handshake(server.get(), client.get()))
      << Describe(OpenSslError(Reason::kCryptoFailed, "shake hands", "SSL_do_handshake"));
  EXPECT_EQ(server_signer->signatures, 1);
  EXPECT_EQ(client_signer->signatures, 1);
  EXPECT_EQ(server_signer->intent(), "tls handshake");
  // A key that belongs to another certificate is not accepted.
  EXPECT_EQ(
      Context(TLS_server_method(), server_certificate.get(), client_key.get(), client_certificate.get()),
      nullptr);
  ERR_clear_error();
}

TEST_F(KeyReferenceTls, RsaIsRefusedWithAReason) {
  const auto signer = std::make_shared<RecordingSigner>(KeyType::kRsa);
  const EvpPkeyPtr key = WrapSigner(signer, "tls handshake").value();
  const X509Ptr certificate = SelfSigned(key.get(), true);
  const SslCtxPtr server = Context(TLS_server_method(), certificate.get(), key.get(), certificate.get());
  const SslCtxPtr client = Context(TLS_client_method(), certificate.get(), key.get(), certificate.get());
  ASSERT_NE(server, nullptr);
  ERR_clear_error();
  EXPECT_FALSE(Handshake(server.get(), client.get()));
  const Status status = OpenSslError(Reason::kInternal, "shake hands", "SSL_do_handshake");
  EXPECT_NE(MessageOf(status).find("TLS needs an EC key"), std::string::npos) << MessageOf(status);
}

}  // namespace
}  // namespace sealift
