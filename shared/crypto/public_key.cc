#include "shared/crypto/public_key.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/decoder.h>
#include <openssl/encoder.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <array>

#include "shared/crypto/hash.h"

namespace sealift {
namespace {

constexpr std::size_t kMaxKeyBytes = 8192;

const EVP_MD* HashOf(SignatureScheme scheme) {
  return scheme == SignatureScheme::kEcdsaSha384 ? EVP_sha384() : EVP_sha256();
}

bool Fits(KeyType type, SignatureScheme scheme) {
  return (type == KeyType::kRsa) == (scheme == SignatureScheme::kRsaPkcs1Sha256);
}

Result<KeyType> TypeOf(EVP_PKEY* key) {
  if (EVP_PKEY_is_a(key, "RSA") == 1) {
    const int bits = EVP_PKEY_get_bits(key);
    if (bits >= 2048 && bits <= 4096) return KeyType::kRsa;
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("read public key: RSA of {} bits is not between 2048 and 4096", bits));
  }
  if (EVP_PKEY_is_a(key, "EC") == 1) {
    std::array<char, 64> group{};
    std::size_t size = 0;
    if (EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group.data(), group.size(), &size) ==
        1) {
      const std::string_view name(group.data(), size);
      if (name == "prime256v1" || name == "P-256") return KeyType::kEcP256;
      if (name == "secp384r1" || name == "P-384") return KeyType::kEcP384;
    }
  }
  return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                   "read public key: neither RSA nor ECDSA on P-256 or P-384");
}

Result<Bytes> Encode(EVP_PKEY* key, const char* structure) {
  const CPtr<OSSL_ENCODER_CTX, OSSL_ENCODER_CTX_free> context(
      OSSL_ENCODER_CTX_new_for_pkey(key, EVP_PKEY_PUBLIC_KEY, "DER", structure, nullptr));
  unsigned char* data = nullptr;
  std::size_t size = 0;
  if (context == nullptr || OSSL_ENCODER_to_data(context.get(), &data, &size) != 1) {
    return OpenSslError(Reason::kCryptoFailed, fmt::format("encode public key as {}", structure),
                        "OSSL_ENCODER_to_data");
  }
  Bytes der(data, data + size);
  OPENSSL_free(data);
  return der;
}

// Made ready once for signatures of one key in a row, as a signer checks its own. The context holds the key,
// so that no other one can have its address meanwhile. Null where OpenSSL refuses.
EVP_PKEY_CTX* VerifyContext(EVP_PKEY* key, KeyType type, SignatureScheme scheme) {
  struct Ready {
    EVP_PKEY* key = nullptr;
    SignatureScheme scheme{};
    EvpPkeyCtxPtr context;
  };
  thread_local Ready ready;
  if (ready.context != nullptr && ready.key == key && ready.scheme == scheme) return ready.context.get();
  ready = {.key = key, .scheme = scheme, .context = EvpPkeyCtxPtr(EVP_PKEY_CTX_new(key, nullptr))};
  EVP_PKEY_CTX* const context = ready.context.get();
  if (context != nullptr && EVP_PKEY_verify_init(context) == 1 &&
      (type != KeyType::kRsa || EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) == 1) &&
      EVP_PKEY_CTX_set_signature_md(context, HashOf(scheme)) == 1)
    return context;
  ready = {};
  return nullptr;
}

}  // namespace

Result<PublicKey> PublicKey::FromEvp(EVP_PKEY* key) {
  SEALIFT_ASSIGN_OR_RETURN(const KeyType type, TypeOf(key));
  SEALIFT_ASSIGN_OR_RETURN(Bytes spki, Encode(key, "SubjectPublicKeyInfo"));
  EVP_PKEY_up_ref(key);
  return PublicKey(std::shared_ptr<EVP_PKEY>(key, EVP_PKEY_free), type, std::move(spki));
}

Result<PublicKey> PublicKey::FromDer(ByteView spki) {
  const unsigned char* at = spki.data();
  const EvpPkeyPtr key(spki.size() > kMaxKeyBytes ? nullptr
                                                  : d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())));
  if (key == nullptr || at != spki.data() + spki.size()) {
    return OpenSslError(Reason::kMalformed, "read public key: not a SubjectPublicKeyInfo", "d2i_PUBKEY");
  }
  return FromEvp(key.get());
}

Result<PublicKey> PublicKey::FromPem(std::string_view pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(std::min(pem.size(), kMaxKeyBytes))));
  const EvpPkeyPtr key(PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
  if (key == nullptr)
    return OpenSslError(Reason::kMalformed, "read public key: not a PEM PUBLIC KEY", "PEM_read_bio_PUBKEY");
  return FromEvp(key.get());
}

int PublicKey::bits() const { return EVP_PKEY_get_bits(key_.get()); }

SignatureScheme PublicKey::default_scheme() const {
  switch (type_) {
    case KeyType::kRsa:
      return SignatureScheme::kRsaPkcs1Sha256;
    case KeyType::kEcP256:
      return SignatureScheme::kEcdsaSha256;
    case KeyType::kEcP384:
      return SignatureScheme::kEcdsaSha384;
  }
  return SignatureScheme::kRsaPkcs1Sha256;
}

std::string PublicKey::Pem() const {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  SEALIFT_CHECK(PEM_write_bio_PUBKEY(bio.get(), key_.get()) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

Sha256Digest PublicKey::key_id() const { return Sha256(spki_); }

Result<Sha256Digest> PublicKey::Pkcs1Fingerprint() const {
  if (type_ != KeyType::kRsa) {
    return MakeError(Code::kFailedPrecondition, Reason::kInvalidArgument,
                     "fingerprint PCR key: not an RSA key");
  }
  SEALIFT_ASSIGN_OR_RETURN(const Bytes der, Encode(key_.get(), "type-specific"));
  return Sha256(der);
}

Status PublicKey::VerifyDigest(ByteView digest, ByteView signature, SignatureScheme scheme) const {
  if (!Fits(type_, scheme)) {
    return MakeError(Code::kUnauthenticated, Reason::kSignatureInvalid,
                     "verify signature: scheme does not fit the key");
  }
  EVP_PKEY_CTX* const context = VerifyContext(key_.get(), type_, scheme);
  if (context == nullptr)
    return OpenSslError(Reason::kCryptoFailed, "verify signature", "EVP_PKEY_verify_init");
  if (EVP_PKEY_verify(context, signature.data(), signature.size(), digest.data(), digest.size()) != 1) {
    const Status error = OpenSslError(Reason::kSignatureInvalid,
                                      "verify signature: it does not fit key and content", "EVP_PKEY_verify");
    return FromWire(Code::kUnauthenticated, ReasonId(Reason::kSignatureInvalid), MessageOf(error));
  }
  return OkStatus();
}

Status PublicKey::VerifyMessage(ByteView message, ByteView signature, SignatureScheme scheme) const {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  SEALIFT_CHECK(EVP_Digest(message.data(), message.size(), digest.data(), &size, HashOf(scheme), nullptr) ==
                1);
  return VerifyDigest(ByteView(digest.data(), size), signature, scheme);
}

}  // namespace sealift
