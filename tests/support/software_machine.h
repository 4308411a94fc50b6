// A machine whose TPM is a program: an endorsement key with its maker's certificate, an attestation key and a
// TLS key, and what a TPM does with them at enrolment and attestation. Structures and signatures are real, so
// a verifier cannot tell it from a TPM; a machine can be made to lie in any one place.
//
// The real TPM is swtpm, in the integration tests; this is for thousands of machines at once.
#pragma once

#include <openssl/conf.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/openssl.h"
#include "shared/crypto/signer.h"
#include "shared/tpm/credential.h"
#include "tests/support/software_tpm.h"

namespace sealift::test {

// The maker of TPMs: a root, and an issuing CA whose certificate lies in each TPM beside the EK's.
class TpmMaker {
 public:
  explicit TpmMaker(const std::string& name)
      : root_key_(SoftwareSigner::Generate(KeyType::kEcP256).value()),
        issuing_key_(SoftwareSigner::Generate(KeyType::kEcP256).value()),
        root_(Make("/CN=" + name + " root", root_key_->evp(), nullptr, *root_key_, kCa)),
        issuing_(Make("/CN=" + name + " issuing CA", issuing_key_->evp(), root_.get(), *root_key_, kCa)) {}

  // As the TCG's profile for EK certificates wants it: empty subject, the TPM in a critical alternative name.
  Bytes CertifyEk(const PublicKey& ek) const {
    return Der(
        *Make("", ek.evp(), issuing_.get(), *issuing_key_, ek.type() == KeyType::kRsa ? kRsaEk : kEcEk));
  }
  Bytes issuing_der() const { return Der(*issuing_); }
  Bytes root_der() const { return Der(*root_); }

 private:
  static constexpr const char* kCa =
      "[ext]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
      "subjectKeyIdentifier=hash\n";
#define SEALIFT_TEST_EK_EXTENSIONS                                              \
  "extendedKeyUsage=2.23.133.8.1\nsubjectAltName=critical,dirName:tpm\n[tpm]\n" \
  "1.2.23.133.2.1=id:534D4C54\n2.2.23.133.2.2=simulated\n3.2.23.133.2.3=id:00010001\n"
  static constexpr const char* kEcEk =
      "[ext]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,"
      "keyAgreement\n" SEALIFT_TEST_EK_EXTENSIONS;
  static constexpr const char* kRsaEk =
      "[ext]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,"
      "keyEncipherment\n" SEALIFT_TEST_EK_EXTENSIONS;
#undef SEALIFT_TEST_EK_EXTENSIONS

  static Bytes Der(X509& certificate) {
    unsigned char* data = nullptr;
    const int size = i2d_X509(&certificate, &data);
    SEALIFT_CHECK(size > 0);
    Bytes der(data, data + size);
    OPENSSL_free(data);
    return der;
  }

  static X509Ptr Make(const std::string& subject, EVP_PKEY* key, X509* issuer, const SoftwareSigner& signer,
                      const char* extensions) {
    static std::atomic<long> serial = 1;
    X509Ptr made(X509_new());
    X509* x = made.get();
    X509_set_version(x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(x), -365L * 24 * 3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 3650L * 24 * 3600);
    if (subject.starts_with("/CN=")) {
      X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                                 reinterpret_cast<const unsigned char*>(subject.c_str() + 4), -1, -1, 0);
    }
    X509* parent = issuer == nullptr ? x : issuer;
    X509_set_issuer_name(x, X509_get_subject_name(parent));
    SEALIFT_CHECK(X509_set_pubkey(x, key) == 1);
    const CPtr<CONF, NCONF_free> conf(NCONF_new(nullptr));
    const BioPtr text(BIO_new_mem_buf(extensions, -1));
    long line = 0;
    SEALIFT_CHECK(NCONF_load_bio(conf.get(), text.get(), &line) == 1);
    X509V3_CTX context;
    X509V3_set_ctx(&context, parent, x, nullptr, nullptr, 0);
    X509V3_set_nconf(&context, conf.get());
    SEALIFT_CHECK(X509V3_EXT_add_nconf(conf.get(), &context, "ext", x) == 1);
    SEALIFT_CHECK(X509_sign(x, signer.evp(), EVP_sha256()) > 0);
    return made;
  }

  std::shared_ptr<SoftwareSigner> root_key_, issuing_key_;
  X509Ptr root_, issuing_;
};

// TPM2_ActivateCredential of a TPM that holds `ek` and, loaded, the key `name`. Nothing where either is
// wrong, as a TPM answers with an error. Part 1, 24.
class CredentialOpener {
 public:
  static std::optional<Bytes> Open(const SoftwareSigner& ek, ByteView name, ByteView blob,
                                   ByteView encrypted_secret) {
    ByteReader outer(blob, ByteReader::Endian::kBig);
    ByteReader object(outer.Take(outer.U16()), ByteReader::Endian::kBig);
    const ByteView mac = object.Take(object.U16());
    const ByteView identity = object.Take(object.remaining());
    ByteReader secret(encrypted_secret, ByteReader::Endian::kBig);
    const ByteView protected_seed = secret.Take(secret.U16());
    const std::optional<Bytes> seed =
        ek.public_key().type() == KeyType::kRsa ? RsaSeed(ek, protected_seed) : EccSeed(ek, protected_seed);
    if (!seed) return std::nullopt;
    const SecretBytes integrity = tpm::KdfA(*seed, "INTEGRITY", {}, {}, 32);
    Bytes message = ToBytes(identity);
    Append(message, name);
    if (ToBytes(mac) != Hmac(integrity.ExposeSecret(), message)) return std::nullopt;
    const Bytes plain = Decrypt(tpm::KdfA(*seed, "STORAGE", name, {}, 16), identity);
    ByteReader inner(plain, ByteReader::Endian::kBig);
    return ToBytes(inner.Take(inner.U16()));
  }

 private:
  static Bytes Hmac(ByteView key, ByteView message) {
    Bytes mac(32);
    HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), message.data(), message.size(), mac.data(),
         nullptr);
    return mac;
  }
  static Bytes Decrypt(const SecretBytes& key, ByteView bytes) {
    const std::array<unsigned char, 16> iv{};
    const CPtr<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free> context(EVP_CIPHER_CTX_new());
    Bytes plain(bytes.size());
    int size = 0;
    SEALIFT_CHECK(EVP_DecryptInit_ex2(context.get(), EVP_aes_128_cfb128(), key.ExposeSecret().data(),
                                      iv.data(), nullptr) == 1 &&
                  EVP_DecryptUpdate(context.get(), plain.data(), &size, bytes.data(),
                                    static_cast<int>(bytes.size())) == 1);
    return plain;
  }
  static std::optional<Bytes> RsaSeed(const SoftwareSigner& ek, ByteView protected_seed) {
    const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(ek.evp(), nullptr));
    constexpr std::string_view kLabel("IDENTITY\0", 9);
    Bytes seed(512);
    std::size_t size = seed.size();
    if (EVP_PKEY_decrypt_init(context.get()) != 1 ||
        EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) != 1 ||
        EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), EVP_sha256()) != 1 ||
        EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), EVP_sha256()) != 1 ||
        EVP_PKEY_CTX_set0_rsa_oaep_label(context.get(), OPENSSL_memdup(kLabel.data(), kLabel.size()),
                                         static_cast<int>(kLabel.size())) != 1 ||
        EVP_PKEY_decrypt(context.get(), seed.data(), &size, protected_seed.data(), protected_seed.size()) !=
            1) {
      ERR_clear_error();
      return std::nullopt;
    }
    seed.resize(size);
    return seed;
  }
  static std::optional<Bytes> EccSeed(const SoftwareSigner& ek, ByteView protected_seed) {
    ByteReader point(protected_seed, ByteReader::Endian::kBig);
    const ByteView x = point.Take(point.U16());
    const ByteView y = point.Take(point.U16());
    if (x.size() != 32 || y.size() != 32) return std::nullopt;
    Bytes encoded{4};
    Append(encoded, x);
    Append(encoded, y);
    const EvpPkeyPtr peer(EVP_PKEY_new());
    Bytes z(32);
    std::size_t size = z.size();
    if (EVP_PKEY_copy_parameters(peer.get(), ek.evp()) != 1 ||
        EVP_PKEY_set1_encoded_public_key(peer.get(), encoded.data(), encoded.size()) != 1) {
      return std::nullopt;
    }
    const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(ek.evp(), nullptr));
    if (EVP_PKEY_derive_init(context.get()) != 1 ||
        EVP_PKEY_derive_set_peer(context.get(), peer.get()) != 1 ||
        EVP_PKEY_derive(context.get(), z.data(), &size) != 1) {
      return std::nullopt;
    }
    const Bytes ours = Padded(NumberOf(ek.public_key(), OSSL_PKEY_PARAM_EC_PUB_X));
    return ToBytes(tpm::KdfE(z, "IDENTITY", x, ours, 32).ExposeSecret());
  }
  static Bytes Padded(const Bytes& number) {
    Bytes out(32 - number.size(), 0);
    Append(out, number);
    return out;
  }
};

class SoftwareMachine {
 public:
  SoftwareMachine(const TpmMaker& maker, KeyType ek_type)
      : ek_(SoftwareSigner::Generate(ek_type).value()),
        certificates_{maker.CertifyEk(ek_->public_key()), maker.issuing_der()} {}

  // TPM2B_PUBLIC each.
  Bytes EkPublic() const { return Sized(PublicAreaOf(ek_->public_key(), kEkAttributes)); }
  Bytes AkPublic() const { return ak_.Public(); }
  Bytes TlsPublic() const { return Sized(PublicAreaOf(tls_->public_key(), kTlsAttributes)); }
  const std::vector<Bytes>& certificates() const { return certificates_; }
  Sha256Digest EkDigest() const { return ek_->public_key().key_id(); }
  const std::shared_ptr<SoftwareSigner>& tls_key() const { return tls_; }
  SoftwareAk& ak() { return ak_; }

  // A TPM that somebody copied: the same endorsement key, other keys.
  SoftwareMachine Copy() const { return {ek_, certificates_}; }

  // Nothing when the TPM refuses.
  std::optional<Bytes> Activate(ByteView blob, ByteView encrypted_secret) const {
    return CredentialOpener::Open(*ek_, ak_.area().name, blob, encrypted_secret);
  }
  struct Signed {
    Bytes attest;
    Bytes signature;
  };
  // `subject`: TPM2B_PUBLIC. A TPM certifies what lies in it; a program whatever it is asked to.
  Signed Certify(ByteView subject, ByteView nonce) {
    AttestFields fields;
    fields.type = tpm::kStAttestCertify;
    fields.extra_data = ToBytes(nonce);
    fields.name = tpm::ParsePublic(subject).value().name;
    Stamp(fields);
    const Bytes attest = fields.Encode();
    return {attest, TpmSign(ak_.key(), attest)};
  }
  tpm::QuoteEvidence Quote(const tpm::PcrValues& values, ByteView nonce) {
    AttestFields fields = SoftwareAk::FieldsFor(values, nonce);
    Stamp(fields);
    return ak_.Quote(values, fields);
  }
  // TPMS_CLOCK_INFO of what follows. Time passes with each structure.
  std::uint64_t clock_ms = 100'000;
  std::uint32_t reset_count = 7;

 private:
  void Stamp(AttestFields& fields) {
    fields.clock = clock_ms += 10;
    fields.reset_count = reset_count;
  }

  SoftwareMachine(std::shared_ptr<SoftwareSigner> ek, std::vector<Bytes> certificates)
      : ek_(std::move(ek)), certificates_(std::move(certificates)) {}

  std::shared_ptr<SoftwareSigner> ek_;
  SoftwareAk ak_;
  std::shared_ptr<SoftwareSigner> tls_ = SoftwareSigner::Generate(KeyType::kEcP256).value();
  std::vector<Bytes> certificates_;
};

}  // namespace sealift::test
