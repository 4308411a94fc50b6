// Public keys and signature verification.
//
// Only RSA (2048 to 4096 bits) and ECDSA P-256/P-384 exist here. Immutable after parsing, so thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/crypto/openssl.h"

namespace sealift {

enum class KeyType { kRsa, kEcP256, kEcP384 };

// How a digest becomes a signature. ECDSA signatures are DER (ECDSA-Sig-Value, RFC 3279), RSA ones as long as
// the modulus.
enum class SignatureScheme { kRsaPkcs1Sha256, kEcdsaSha256, kEcdsaSha384 };

class PublicKey {
 public:
  // SubjectPublicKeyInfo. Errors: INVALID_ARGUMENT/MALFORMED; also for other key types or RSA below 2048
  // bits.
  static Result<PublicKey> FromDer(ByteView spki);
  static Result<PublicKey> FromPem(std::string_view pem);
  // Shares `key`; only its public half is used.
  static Result<PublicKey> FromEvp(EVP_PKEY* key);

  KeyType type() const { return type_; }
  int bits() const;
  // The scheme this project signs with for this type.
  SignatureScheme default_scheme() const;
  const Bytes& spki_der() const { return spki_; }
  std::string Pem() const;
  // SHA-256 of the SubjectPublicKeyInfo: the CKA_ID of the key in its token.
  Sha256Digest key_id() const;
  // SHA-256 of the PKCS#1 RSAPublicKey: `pkfp` of systemd's .pcrsig. Errors: FAILED_PRECONDITION for EC keys.
  Result<Sha256Digest> Pkcs1Fingerprint() const;
  EVP_PKEY* evp() const { return key_.get(); }

  // Errors: UNAUTHENTICATED/SIGNATURE_INVALID.
  Status VerifyDigest(ByteView digest, ByteView signature, SignatureScheme scheme) const;
  // Hashes with the scheme's own hash first.
  Status VerifyMessage(ByteView message, ByteView signature, SignatureScheme scheme) const;

  bool operator==(const PublicKey& other) const { return spki_ == other.spki_; }

 private:
  PublicKey(std::shared_ptr<EVP_PKEY> key, KeyType type, Bytes spki)
      : key_(std::move(key)), type_(type), spki_(std::move(spki)) {}
  std::shared_ptr<EVP_PKEY> key_;
  KeyType type_;
  Bytes spki_;
};

}  // namespace sealift
