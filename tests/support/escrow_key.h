// An escrow key in memory, in the place of the custodians' token.
#pragma once

#include <openssl/rsa.h>

#include <memory>

#include "shared/crypto/signer.h"
#include "shared/escrow/escrow.h"

namespace sealift::test {

class SoftwareEscrowKey final : public escrow::OaepDecrypter {
 public:
  SoftwareEscrowKey() : key_(EVP_RSA_gen(3072)), public_key_(PublicKey::FromEvp(key_.get()).value()) {}
  const PublicKey& public_key() const { return public_key_; }
  EVP_PKEY* evp() const { return key_.get(); }

  Result<SecretBytes> Decrypt(ByteView ciphertext, escrow::OaepHash oaep) override {
    const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(key_.get(), nullptr));
    const EVP_MD* hash = oaep == escrow::OaepHash::kSha1 ? EVP_sha1() : EVP_sha256();
    Bytes out(512);
    std::size_t size = out.size();
    const bool fits =
        EVP_PKEY_decrypt_init(context.get()) == 1 &&
        EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) == 1 &&
        EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), hash) == 1 &&
        EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), hash) == 1 &&
        EVP_PKEY_decrypt(context.get(), out.data(), &size, ciphertext.data(), ciphertext.size()) == 1;
    if (!fits) return OpenSslError(Reason::kEscrowMalformed, "decrypt escrowed key", "EVP_PKEY_decrypt");
    out.resize(size);
    return SecretBytes(std::move(out));
  }

 private:
  const EvpPkeyPtr key_;
  const PublicKey public_key_;
};

}  // namespace sealift::test
