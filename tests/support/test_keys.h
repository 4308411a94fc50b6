// Keys and certificates for tests: real RSA, made in memory once per program.
#pragma once

#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

#include "shared/crypto/openssl.h"
#include "shared/crypto/signer.h"

namespace sealift::test {

struct TestKey {
  std::unique_ptr<SoftwareSigner> signer;
  Bytes certificate;  // DER
  std::string certificate_pem;
};

// A key with a certificate issued by `issuer`, or by itself.
inline TestKey MakeTestKey(const std::string& name, const TestKey* issuer = nullptr,
                           KeyType type = KeyType::kRsa) {
  TestKey key;
  key.signer = SoftwareSigner::Generate(type).value();
  const X509Ptr certificate(X509_new());
  SEALIFT_CHECK(X509_set_version(certificate.get(), 2) == 1);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 4711 + static_cast<long>(name.size()));
  ASN1_TIME_set_string_X509(X509_getm_notBefore(certificate.get()), "20240101000000Z");
  ASN1_TIME_set_string_X509(X509_getm_notAfter(certificate.get()), "20640101000000Z");
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  EVP_PKEY* signing_key = key.signer->evp();
  if (issuer == nullptr) {
    X509_set_issuer_name(certificate.get(), subject);
  } else {
    const unsigned char* cursor = issuer->certificate.data();
    const X509Ptr parent(d2i_X509(nullptr, &cursor, static_cast<long>(issuer->certificate.size())));
    X509_set_issuer_name(certificate.get(), X509_get_subject_name(parent.get()));
    signing_key = issuer->signer->evp();
  }
  X509_set_pubkey(certificate.get(), key.signer->evp());
  if (issuer == nullptr) {
    const X509ExtensionPtr authority(
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, "critical,CA:TRUE"));
    X509_add_ext(certificate.get(), authority.get(), -1);
  }
  SEALIFT_CHECK(X509_sign(certificate.get(), signing_key, EVP_sha256()) > 0);
  unsigned char* der = nullptr;
  const int size = i2d_X509(certificate.get(), &der);
  key.certificate.assign(der, der + size);
  OPENSSL_free(der);
  const BioPtr bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(bio.get(), certificate.get());
  char* text = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &text);
  key.certificate_pem.assign(text, static_cast<std::size_t>(length));
  return key;
}

// Sees every request that passes, to check intents.
class RecordingSigner final : public Signer {
 public:
  explicit RecordingSigner(Signer& inner) : inner_(inner) {}
  const PublicKey& public_key() const override { return inner_.public_key(); }
  Result<Bytes> Sign(const SigningRequest& request) override {
    intents.push_back(request.intent);
    return inner_.Sign(request);
  }
  std::vector<std::string> intents;

 private:
  Signer& inner_;
};

}  // namespace sealift::test
