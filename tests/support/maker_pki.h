// Certificates of TPM makers for tests: any name, key, extension, time. OpenSSL calls only, so that the code
// under test does not vouch for itself.
#pragma once

#include <openssl/conf.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "shared/base/clock.h"
#include "shared/crypto/openssl.h"

namespace sealift::test {

struct MakerSpec {
  std::string name;
  // "P-256", "P-384", "P-521", or "RSA" (2048 bits).
  std::string key_type = "P-256";
  // OpenSSL's configuration form: {"basicConstraints", "critical,CA:TRUE"}.
  std::vector<std::pair<std::string, std::string>> extensions;
  // MBSTRING_UTF8, V_ASN1_PRINTABLESTRING, ...
  int string_type = MBSTRING_UTF8;
  // 2026 to 2036.
  std::int64_t not_before = 1767225600;
  std::int64_t not_after = 2082758400;
  std::string serial = "1001";
  const EVP_MD* hash = EVP_sha256();
};

inline const std::vector<std::pair<std::string, std::string>> kCaExtensions{
    {"basicConstraints", "critical,CA:TRUE"},
    {"keyUsage", "critical,keyCertSign,cRLSign"},
    {"subjectKeyIdentifier", "hash"}};
inline const std::vector<std::pair<std::string, std::string>> kEkExtensions{
    {"basicConstraints", "critical,CA:FALSE"}, {"extendedKeyUsage", "2.23.133.8.1"}};

struct Made {
  std::shared_ptr<X509> x509;
  std::shared_ptr<EVP_PKEY> key;

  Bytes der() const {
    unsigned char* raw = nullptr;
    const int size = i2d_X509(x509.get(), &raw);
    Bytes bytes(raw, raw + size);
    OPENSSL_free(raw);
    return bytes;
  }
};

inline std::shared_ptr<EVP_PKEY> MakeKey(const std::string& type) {
  return {type == "RSA" ? EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA", static_cast<std::size_t>(2048))
                        : EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", type.c_str()),
          EVP_PKEY_free};
}

// Signed by `issuer` (itself where null); the subject's key is `key` where it is given.
inline Made MakeMaker(const MakerSpec& spec, const Made* issuer, std::shared_ptr<EVP_PKEY> key = nullptr) {
  Made made{.x509 = {X509_new(), X509_free}, .key = key != nullptr ? std::move(key) : MakeKey(spec.key_type)};
  X509* const x = made.x509.get();
  X509_set_version(x, X509_VERSION_3);
  BIGNUM* serial = nullptr;
  BN_hex2bn(&serial, spec.serial.c_str());
  const BigNumPtr serial_owner(serial);
  BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(x));
  ASN1_TIME_set(X509_getm_notBefore(x), spec.not_before);
  ASN1_TIME_set(X509_getm_notAfter(x), spec.not_after);
  if (!spec.name.empty()) {
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", spec.string_type,
                               reinterpret_cast<const unsigned char*>(spec.name.c_str()), -1, -1, 0);
  }
  X509* const by = issuer == nullptr ? x : issuer->x509.get();
  X509_set_issuer_name(x, X509_get_subject_name(by));
  X509_set_pubkey(x, made.key.get());
  for (const auto& [name, value] : spec.extensions) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, by, x, nullptr, nullptr, 0);
    const CPtr<CONF, NCONF_free> conf(NCONF_new(nullptr));
    // What stands before the first dot of a key only tells it from others.
    const std::string text =
        "[a]\nx.2.23.133.2.1=id:474F4F47\n[b]\nO=Maker\nCN=Maker EK\n[san]\nx.2.23.133.2.1=id:474F4F47\n"
        "x.2.23.133.2.2=xCG fTPM\nx.2.23.133.2.3=id:00010001\n";
    const BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
    long line = 0;
    NCONF_load_bio(conf.get(), bio.get(), &line);
    X509V3_set_nconf(&context, conf.get());
    const X509ExtensionPtr extension(X509V3_EXT_nconf(conf.get(), &context, name.c_str(), value.c_str()));
    SEALIFT_CHECK(extension != nullptr && X509_add_ext(x, extension.get(), -1) == 1);
  }
  SEALIFT_CHECK(X509_sign(x, issuer == nullptr ? made.key.get() : issuer->key.get(), spec.hash) > 0);
  return made;
}

}  // namespace sealift::test
