#include "shared/crypto/aead.h"

#include <openssl/err.h>

#include "shared/crypto/openssl.h"

namespace sealift {
namespace {

using CipherCtxPtr = CPtr<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free>;

int SizeOf(ByteView bytes) { return static_cast<int>(bytes.size()); }

}  // namespace

Result<Bytes> AeadSeal(const SecretBytes& key, ByteView nonce, ByteView associated,
                       const SecretBytes& plain) {
  const CipherCtxPtr context(EVP_CIPHER_CTX_new());
  const ByteView text = plain.ExposeSecret();
  Bytes out(text.size() + kAeadTagBytes);
  int size = 0;
  int rest = 0;
  const bool done =
      context != nullptr && nonce.size() == kAeadNonceBytes && key.size() == kAeadKeyBytes &&
      EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, key.ExposeSecret().data(),
                         nonce.data()) == 1 &&
      EVP_EncryptUpdate(context.get(), nullptr, &size, associated.data(), SizeOf(associated)) == 1 &&
      EVP_EncryptUpdate(context.get(), out.data(), &size, text.data(), SizeOf(text)) == 1 &&
      EVP_EncryptFinal_ex(context.get(), out.data() + size, &rest) == 1 &&
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, kAeadTagBytes, out.data() + text.size()) == 1;
  if (!done) return OpenSslError(Reason::kCryptoFailed, "encrypt secret", "EVP_EncryptInit_ex");
  return out;
}

Result<SecretBytes> AeadOpen(const SecretBytes& key, ByteView nonce, ByteView associated, ByteView sealed) {
  const auto refuse = [] {
    ERR_clear_error();
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     "decrypt secret: it was changed, or is encrypted by another key");
  };
  if (key.size() != kAeadKeyBytes || nonce.size() != kAeadNonceBytes || sealed.size() < kAeadTagBytes)
    return refuse();
  const ByteView text = sealed.first(sealed.size() - kAeadTagBytes);
  Bytes tag = ToBytes(sealed.subspan(text.size()));
  const CipherCtxPtr context(EVP_CIPHER_CTX_new());
  Bytes out(text.size());
  int size = 0;
  int rest = 0;
  const bool fits =
      context != nullptr &&
      EVP_DecryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, key.ExposeSecret().data(),
                         nonce.data()) == 1 &&
      EVP_DecryptUpdate(context.get(), nullptr, &size, associated.data(), SizeOf(associated)) == 1 &&
      EVP_DecryptUpdate(context.get(), out.data(), &size, text.data(), SizeOf(text)) == 1 &&
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, kAeadTagBytes, tag.data()) == 1 &&
      EVP_DecryptFinal_ex(context.get(), out.data() + size, &rest) == 1;
  SecretBytes plain(std::move(out));
  if (!fits) return refuse();
  return plain;
}

}  // namespace sealift
