#include "node-agent/volume/key_derivation.h"

#include <openssl/core_names.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>

#include <span>

#include "shared/base/status.h"
#include "shared/crypto/openssl.h"

namespace sealift::agent {
namespace {

using KdfPtr = CPtr<EVP_KDF, EVP_KDF_free>;
using KdfCtxPtr = CPtr<EVP_KDF_CTX, EVP_KDF_CTX_free>;

constexpr std::size_t kDerivedBytes = 32;

// HMAC-SHA256 over the parts, each with its length before it.
Sha256Digest TagOf(const SecretBytes& key, std::span<const ByteView> parts) {
  std::size_t size_of_all = 0;
  for (const ByteView part : parts) size_of_all += sizeof(std::uint32_t) + part.size();
  Bytes bytes;
  // In one piece from the start, so that no outgrown copy of a key is left behind.
  bytes.reserve(size_of_all);
  for (const ByteView part : parts) {
    ByteWriter length(ByteWriter::Endian::kBig);
    length.U32(static_cast<std::uint32_t>(part.size()));
    Append(bytes, length.bytes());
    Append(bytes, part);
  }
  const SecretBytes message(std::move(bytes));
  Sha256Digest tag;
  unsigned size = 0;
  SEALIFT_CHECK(HMAC(EVP_sha256(), key.ExposeSecret().data(), static_cast<int>(key.size()),
                     message.ExposeSecret().data(), message.size(), tag.bytes.data(), &size) != nullptr);
  return tag;
}

}  // namespace

SecretBytes DeriveKey(ByteView secret, std::string_view purpose) {
  const KdfPtr kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  const KdfCtxPtr context(EVP_KDF_CTX_new(kdf.get()));
  std::string hash = "SHA256";
  std::string info(purpose);
  Bytes key = ToBytes(secret);
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, hash.data(), hash.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key.data(), key.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
      OSSL_PARAM_construct_end()};
  Bytes out(kDerivedBytes);
  // No input makes it fail; running on with zeros would.
  SEALIFT_CHECK(EVP_KDF_derive(context.get(), out.data(), out.size(), parameters) == 1);
  WipeMemory(key.data(), key.size());
  return SecretBytes(std::move(out));
}

Sha256Digest VolumeTag(ByteView secret, std::string_view name, std::string_view luks_uuid,
                       std::string_view cipher, const SecretBytes& volume_key) {
  const ByteView parts[] = {AsBytes(name), AsBytes(luks_uuid), AsBytes(cipher), volume_key.ExposeSecret()};
  return TagOf(DeriveKey(secret, "proof"), parts);
}

Sha256Digest RecoveryTag(ByteView secret, std::string_view escrowed, std::string_view order,
                         std::string_view slot_salt) {
  const ByteView parts[] = {AsBytes(escrowed), AsBytes(order), AsBytes(slot_salt)};
  return TagOf(DeriveKey(secret, "recovery token"), parts);
}

}  // namespace sealift::agent
