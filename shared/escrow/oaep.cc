#include "shared/escrow/oaep.h"

#include <openssl/rsa.h>

namespace sealift::escrow {

Result<Bytes> OaepEncrypt(const PublicKey& key, OaepHash oaep, const SecretBytes& secret) {
  if (key.type() != KeyType::kRsa) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch,
                     "encrypt to a key that decrypts: it is not RSA");
  }
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(key.evp(), nullptr));
  const EVP_MD* hash = oaep == OaepHash::kSha1 ? EVP_sha1() : EVP_sha256();
  const ByteView plain = secret.ExposeSecret();
  std::size_t size = 0;
  bool done = context != nullptr && EVP_PKEY_encrypt_init(context.get()) == 1 &&
              EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) == 1 &&
              EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), hash) == 1 &&
              EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), hash) == 1 &&
              EVP_PKEY_encrypt(context.get(), nullptr, &size, plain.data(), plain.size()) == 1;
  Bytes out(done ? size : 0);
  done = done && EVP_PKEY_encrypt(context.get(), out.data(), &size, plain.data(), plain.size()) == 1;
  if (!done) return OpenSslError(Reason::kInternal, "encrypt to a key that decrypts", "EVP_PKEY_encrypt");
  out.resize(size);
  return out;
}

}  // namespace sealift::escrow
