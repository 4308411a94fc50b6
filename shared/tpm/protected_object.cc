#include "shared/tpm/protected_object.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/rsa.h>

#include <array>

#include "shared/crypto/hash.h"
#include "shared/crypto/hmac.h"
#include "shared/tpm/credential.h"
#include "shared/tpm/key_policy.h"

namespace sealift::tpm {
namespace {

using CipherCtxPtr = CPtr<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free>;

constexpr std::size_t kSeedBytes = 32;
constexpr std::size_t kSymmetricKeyBytes = 16;
constexpr std::size_t kP256Bytes = 32;
constexpr std::size_t kRsaBytes = 256;
constexpr std::size_t kHmacBytes = 32;

// The seed that both sides derive their keys from, and its protected form.
struct Seed {
  SecretBytes value;
  Bytes encrypted;
};

Status Failed(std::string_view call) {
  return OpenSslError(Reason::kCryptoFailed, "protect for a TPM", call);
}

// Part 1, B.10.4: OAEP with the name algorithm and the purpose as label, a NUL behind it.
Result<Seed> SeedForRsa(const PublicKey& key, std::string_view purpose) {
  Seed seed{.value = SecretBytes(RandomBytes(kSeedBytes)), .encrypted = {}};
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(key.evp(), nullptr));
  const std::string text(purpose);
  const std::size_t label_size = text.size() + 1;
  void* label = OPENSSL_memdup(text.c_str(), label_size);
  if (context == nullptr || label == nullptr || EVP_PKEY_encrypt_init(context.get()) != 1 ||
      EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) != 1 ||
      EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), EVP_sha256()) != 1 ||
      EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), EVP_sha256()) != 1 ||
      EVP_PKEY_CTX_set0_rsa_oaep_label(context.get(), label, static_cast<int>(label_size)) != 1) {
    OPENSSL_free(label);
    return Failed("EVP_PKEY_encrypt_init");
  }
  Bytes encrypted(static_cast<std::size_t>(EVP_PKEY_get_size(key.evp())));
  std::size_t size = encrypted.size();
  const ByteView value = seed.value.ExposeSecret();
  if (EVP_PKEY_encrypt(context.get(), encrypted.data(), &size, value.data(), value.size()) != 1) {
    return Failed("EVP_PKEY_encrypt");
  }
  encrypted.resize(size);
  seed.encrypted = std::move(encrypted);
  return seed;
}

struct Point {
  Bytes x;
  Bytes y;
};

Result<Point> PointOf(const EVP_PKEY* key) {
  std::array<unsigned char, 1 + 2 * kP256Bytes> encoded{};
  std::size_t size = 0;
  if (EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, encoded.data(), encoded.size(), &size) !=
          1 ||
      size != encoded.size()) {
    return Failed("EVP_PKEY_get_octet_string_param");
  }
  const ByteView bytes(encoded);
  return Point{.x = ToBytes(bytes.subspan(1, kP256Bytes)),
               .y = ToBytes(bytes.subspan(1 + kP256Bytes, kP256Bytes))};
}

// Part 1, C.6.4: one-pass Diffie-Hellman with a key of the moment.
Result<Seed> SeedForEcc(const PublicKey& key, std::string_view purpose) {
  const EvpPkeyPtr ephemeral(EVP_EC_gen("P-256"));
  if (ephemeral == nullptr) return Failed("EVP_EC_gen");
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(ephemeral.get(), nullptr));
  Bytes z(kP256Bytes);
  std::size_t size = z.size();
  if (context == nullptr || EVP_PKEY_derive_init(context.get()) != 1 ||
      EVP_PKEY_derive_set_peer(context.get(), key.evp()) != 1 ||
      EVP_PKEY_derive(context.get(), z.data(), &size) != 1 || size != kP256Bytes) {
    return Failed("EVP_PKEY_derive");
  }
  const SecretBytes shared(std::move(z));
  SEALIFT_ASSIGN_OR_RETURN(const Point ours, PointOf(ephemeral.get()));
  SEALIFT_ASSIGN_OR_RETURN(const Point theirs, PointOf(key.evp()));
  ByteWriter point(ByteWriter::Endian::kBig);
  for (const Bytes* coordinate : {&ours.x, &ours.y}) {
    point.U16(static_cast<std::uint16_t>(coordinate->size()));
    point.Raw(*coordinate);
  }
  return Seed{.value = KdfE(shared.ExposeSecret(), purpose, ours.x, theirs.x, kSeedBytes),
              .encrypted = std::move(point).Finish()};
}

// AES-128-CFB with a zero IV: the key is used once.
Result<Bytes> EncryptOnce(const SecretBytes& key, const SecretBytes& plain) {
  const std::array<unsigned char, 16> iv{};
  const CipherCtxPtr context(EVP_CIPHER_CTX_new());
  Bytes encrypted(plain.size());
  int size = 0;
  if (context == nullptr ||
      EVP_EncryptInit_ex2(context.get(), EVP_aes_128_cfb128(), key.ExposeSecret().data(), iv.data(),
                          nullptr) != 1 ||
      EVP_EncryptUpdate(context.get(), encrypted.data(), &size, plain.ExposeSecret().data(),
                        static_cast<int>(plain.size())) != 1 ||
      static_cast<std::size_t>(size) != encrypted.size()) {
    return Failed("EVP_EncryptUpdate");
  }
  return encrypted;
}

Status Malformed(std::string_view what, std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("read {}: {}", what, cause));
}

}  // namespace

Result<ProtectedObject> ProtectFor(const PublicArea& storage_key, std::string_view label, ByteView name,
                                   const SecretBytes& plain) {
  SEALIFT_RETURN_IF_ERROR(CheckEndorsementKey(storage_key));
  SEALIFT_ASSIGN_OR_RETURN(const Seed seed, storage_key.type == kAlgRsa ? SeedForRsa(storage_key.key, label)
                                                                        : SeedForEcc(storage_key.key, label));
  const ByteView seed_value = seed.value.ExposeSecret();
  const SecretBytes symmetric = KdfA(seed_value, "STORAGE", name, {}, kSymmetricKeyBytes);
  const SecretBytes integrity = KdfA(seed_value, "INTEGRITY", {}, {}, kHmacBytes);
  SEALIFT_ASSIGN_OR_RETURN(const Bytes encrypted, EncryptOnce(symmetric, plain));
  Bytes protected_bytes = encrypted;
  Append(protected_bytes, name);
  Bytes blob = SizedBytes(HmacSha256(integrity.ExposeSecret(), protected_bytes).view());
  Append(blob, encrypted);
  return ProtectedObject{.blob = SizedBytes(blob), .encrypted_seed = SizedBytes(seed.encrypted)};
}

Result<OuterWrapper> ParseOuterWrapper(ByteView blob) {
  constexpr std::string_view kWhat = "protected TPM object";
  if (blob.size() > kMaxProtectedBytes) return Malformed(kWhat, fmt::format("{} bytes", blob.size()));
  ByteReader outer(blob, ByteReader::Endian::kBig);
  ByteReader inner(outer.Take(outer.U16()), ByteReader::Endian::kBig);
  OuterWrapper wrapper;
  wrapper.hmac = inner.Take(inner.U16());
  wrapper.ciphertext = inner.Take(inner.remaining());
  if (!outer.AtEnd() || !inner.AtEnd()) return Malformed(kWhat, "its lengths do not add up");
  if (wrapper.hmac.size() != kHmacBytes) return Malformed(kWhat, "its HMAC is not one by SHA-256");
  if (wrapper.ciphertext.size() <= sizeof(std::uint16_t)) return Malformed(kWhat, "it is empty");
  return wrapper;
}

Result<EncryptedSeed> ParseEncryptedSeed(ByteView encrypted_seed) {
  constexpr std::string_view kWhat = "seed of a protected TPM object";
  ByteReader outer(encrypted_seed, ByteReader::Endian::kBig);
  const ByteView body = outer.Take(outer.U16());
  if (!outer.AtEnd()) return Malformed(kWhat, "its lengths do not add up");
  if (body.size() == kRsaBytes) return EncryptedSeed{.rsa = body, .x = {}, .y = {}};
  EncryptedSeed seed;
  ByteReader point(body, ByteReader::Endian::kBig);
  seed.x = point.Take(point.U16());
  seed.y = point.Take(point.U16());
  if (!point.AtEnd() || seed.x.empty() || seed.y.empty() || seed.x.size() > kP256Bytes ||
      seed.y.size() > kP256Bytes) {
    return Malformed(kWhat, "it is for neither an RSA-2048 nor a P-256 key");
  }
  return seed;
}

Bytes SizedBytes(ByteView bytes) {
  ByteWriter writer(ByteWriter::Endian::kBig);
  writer.U16(static_cast<std::uint16_t>(bytes.size()));
  writer.Raw(bytes);
  return std::move(writer).Finish();
}

}  // namespace sealift::tpm
