#include "shared/crypto/signer.h"

#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <array>

namespace sealift {

Result<Bytes> Signer::SignMessage(ByteView message, std::string intent) {
  const SignatureScheme scheme = public_key().default_scheme();
  const EVP_MD* hash = scheme == SignatureScheme::kEcdsaSha384 ? EVP_sha384() : EVP_sha256();
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  SEALIFT_CHECK(EVP_Digest(message.data(), message.size(), digest.data(), &size, hash, nullptr) == 1);
  return Sign(
      SigningRequest{.scheme = scheme, .digest = ByteView(digest.data(), size), .intent = std::move(intent)});
}

std::vector<Result<Bytes>> Signer::SignAll(std::span<const SigningRequest> requests) {
  std::vector<Result<Bytes>> signatures;
  signatures.reserve(requests.size());
  for (const SigningRequest& request : requests) signatures.push_back(Sign(request));
  return signatures;
}

Result<std::unique_ptr<SoftwareSigner>> SoftwareSigner::Generate(KeyType type, int rsa_bits) {
  EvpPkeyPtr key;
  if (type == KeyType::kRsa) {
    key.reset(EVP_RSA_gen(static_cast<unsigned>(rsa_bits)));
  } else {
    key.reset(EVP_EC_gen(type == KeyType::kEcP256 ? "P-256" : "P-384"));
  }
  if (key == nullptr)
    return OpenSslError(Reason::kCryptoFailed, "generate key in memory", "EVP_PKEY_Q_keygen");
  SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, PublicKey::FromEvp(key.get()));
  return std::unique_ptr<SoftwareSigner>(new SoftwareSigner(std::move(key), std::move(public_key)));
}

Result<std::unique_ptr<SoftwareSigner>> SoftwareSigner::FromPem(std::string_view pem) {
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  EvpPkeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (key == nullptr)
    return OpenSslError(Reason::kMalformed, "read private key: not an unencrypted PEM",
                        "PEM_read_bio_PrivateKey");
  SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, PublicKey::FromEvp(key.get()));
  return std::unique_ptr<SoftwareSigner>(new SoftwareSigner(std::move(key), std::move(public_key)));
}

Result<Bytes> SoftwareSigner::Sign(const SigningRequest& request) {
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(key_.get(), nullptr));
  const EVP_MD* hash = request.scheme == SignatureScheme::kEcdsaSha384 ? EVP_sha384() : EVP_sha256();
  const bool rsa = request.scheme == SignatureScheme::kRsaPkcs1Sha256;
  if (rsa != (public_key_.type() == KeyType::kRsa)) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "sign " + request.intent + ": scheme does not fit the key");
  }
  std::size_t size = 0;
  const bool ready =
      context != nullptr && EVP_PKEY_sign_init(context.get()) == 1 &&
      (!rsa || EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PADDING) == 1) &&
      EVP_PKEY_CTX_set_signature_md(context.get(), hash) == 1 &&
      EVP_PKEY_sign(context.get(), nullptr, &size, request.digest.data(), request.digest.size()) == 1;
  if (!ready) return OpenSslError(Reason::kCryptoFailed, "sign " + request.intent, "EVP_PKEY_sign_init");
  Bytes signature(size);
  if (EVP_PKEY_sign(context.get(), signature.data(), &size, request.digest.data(), request.digest.size()) !=
      1) {
    return OpenSslError(Reason::kCryptoFailed, "sign " + request.intent, "EVP_PKEY_sign");
  }
  signature.resize(size);
  return signature;
}

std::string SoftwareSigner::PrivatePem() const {
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  SEALIFT_CHECK(PEM_write_bio_PKCS8PrivateKey(bio.get(), key_.get(), nullptr, nullptr, 0, nullptr, nullptr) ==
                1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

}  // namespace sealift
