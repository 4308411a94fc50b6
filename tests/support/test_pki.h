// Certificates of a moment, from software keys, for tests of what checks certificates. Built with OpenSSL
// calls only, so that the code under test does not vouch for itself.
#pragma once

#include <gtest/gtest.h>
#include <openssl/pem.h>

#include <memory>
#include <string>

#include "shared/crypto/openssl.h"
#include "shared/crypto/signer.h"

namespace sealift::test {

struct TestCertificate {
  X509Ptr x509;
  std::shared_ptr<SoftwareSigner> key;

  std::string Pem() const {
    const BioPtr bio(BIO_new(BIO_s_mem()));
    PEM_write_bio_X509(bio.get(), x509.get());
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return {data, static_cast<std::size_t>(size)};
  }
  std::string KeyPem() const { return key->PrivatePem(); }
};

struct CertificateRequest {
  std::string common_name;
  // "URI:sealift:node:...", "DNS:localhost,IP:127.0.0.1"; empty: none.
  std::string subject_alt_name;
  // Seconds from now.
  long not_before = -3600;
  long not_after = 24 * 3600;
  bool ca = false;
  // "clientAuth", "serverAuth"; empty: none.
  std::string extended_key_usage = "clientAuth";
};

inline void AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const X509ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  ASSERT_NE(extension, nullptr) << value;
  ASSERT_EQ(X509_add_ext(certificate, extension.get(), -1), 1);
}

// Self-signed when `issuer` is null.
inline TestCertificate Issue(const CertificateRequest& request, const TestCertificate* issuer) {
  static long serial = 1000;
  TestCertificate out;
  auto key = SoftwareSigner::Generate(KeyType::kEcP256);
  SEALIFT_CHECK(key.ok());
  out.key = std::move(key).value();
  out.x509.reset(X509_new());
  X509* x = out.x509.get();
  X509_set_version(x, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(x), request.not_before);
  X509_gmtime_adj(X509_getm_notAfter(x), request.not_after);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(request.common_name.c_str()), -1, -1, 0);
  X509* issued_by = issuer == nullptr ? x : issuer->x509.get();
  X509_set_issuer_name(x, X509_get_subject_name(issued_by));
  X509_set_pubkey(x, out.key->evp());
  AddExtension(x, issued_by, NID_basic_constraints, request.ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
  AddExtension(x, issued_by, NID_key_usage,
               request.ca ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature");
  if (request.ca) AddExtension(x, issued_by, NID_subject_key_identifier, "hash");
  if (!request.ca && !request.extended_key_usage.empty()) {
    AddExtension(x, issued_by, NID_ext_key_usage, request.extended_key_usage);
  }
  if (!request.subject_alt_name.empty()) {
    AddExtension(x, issued_by, NID_subject_alt_name, request.subject_alt_name);
  }
  X509_sign(x, (issuer == nullptr ? out.key : issuer->key)->evp(), EVP_sha256());
  return out;
}

inline TestCertificate MakeCa(const std::string& name) {
  return Issue(
      {.common_name = name, .not_before = -30L * 24 * 3600, .not_after = 365L * 24 * 3600, .ca = true},
      nullptr);
}

}  // namespace sealift::test
