#include "shared/tuf/verification_key.h"

#include <openssl/err.h>
#include <openssl/rsa.h>

namespace sealift::tuf {
namespace {

constexpr std::size_t kEd25519Bytes = 32;

Bytes SpkiOf(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(key, &der);
  if (size <= 0) return {};
  Bytes bytes(der, der + size);
  OPENSSL_free(der);
  return bytes;
}

bool Verify(EVP_PKEY* key, const EVP_MD* hash, bool pss, ByteView message, ByteView signature) {
  const EvpMdCtxPtr context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* parameters = nullptr;
  bool ready =
      context != nullptr && EVP_DigestVerifyInit(context.get(), &parameters, hash, nullptr, key) == 1;
  if (ready && pss) {
    ready = EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING) == 1 &&
            EVP_PKEY_CTX_set_rsa_mgf1_md(parameters, EVP_sha256()) == 1 &&
            EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, RSA_PSS_SALTLEN_AUTO) == 1;
  }
  const bool valid = ready && EVP_DigestVerify(context.get(), signature.data(), signature.size(),
                                               message.data(), message.size()) == 1;
  // Only yes or no is asked for.
  ERR_clear_error();
  return valid;
}

}  // namespace

std::optional<VerificationKey> VerificationKey::MakeEd25519(std::string_view hex) {
  const Result<Bytes> raw = HexDecode(hex);
  if (!raw.ok() || raw->size() != kEd25519Bytes) return std::nullopt;
  const std::shared_ptr<EVP_PKEY> key(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, raw->data(), raw->size()), EVP_PKEY_free);
  if (key == nullptr) {
    ERR_clear_error();
    return std::nullopt;
  }
  return VerificationKey(Kind::kEd25519, key, std::nullopt, SpkiOf(key.get()));
}

std::optional<VerificationKey> VerificationKey::Make(std::string_view key_type, std::string_view scheme,
                                                     std::string_view public_text) {
  if (scheme == "ed25519" && key_type == "ed25519") return MakeEd25519(public_text);
  const bool ecdsa = key_type == "ecdsa" || key_type == scheme;
  std::optional<KeyType> wanted;
  if (scheme == "ecdsa-sha2-nistp256" && ecdsa) wanted = KeyType::kEcP256;
  if (scheme == "ecdsa-sha2-nistp384" && ecdsa) wanted = KeyType::kEcP384;
  const bool pss = scheme == "rsassa-pss-sha256";
  if ((pss || scheme == "rsa-pkcs1v15-sha256") && key_type == "rsa") wanted = KeyType::kRsa;
  if (!wanted.has_value()) return std::nullopt;
  const Result<PublicKey> key = PublicKey::FromPem(public_text);
  if (!key.ok() || key->type() != *wanted) return std::nullopt;
  return VerificationKey(pss ? Kind::kRsaPss : Kind::kPlain, nullptr, *key, key->spki_der());
}

VerificationKey VerificationKey::Of(const PublicKey& key) {
  return VerificationKey(Kind::kPlain, nullptr, key, key.spki_der());
}

bool VerificationKey::Verifies(ByteView message, ByteView signature) const {
  switch (kind_) {
    case Kind::kEd25519:
      return Verify(key_.get(), nullptr, false, message, signature);
    case Kind::kRsaPss:
      return Verify(plain_->evp(), EVP_sha256(), true, message, signature);
    case Kind::kPlain:
      return plain_->VerifyMessage(message, signature, plain_->default_scheme()).ok();
  }
  return false;
}

}  // namespace sealift::tuf
