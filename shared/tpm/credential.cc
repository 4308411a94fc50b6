#include "shared/tpm/credential.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/hmac.h>
#include <openssl/rsa.h>

#include <array>

#include "shared/crypto/hash.h"
#include "shared/tpm/key_policy.h"

namespace sealift::tpm {
namespace {

using CipherCtxPtr = CPtr<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free>;

constexpr std::size_t kSeedBytes = 32;
constexpr std::size_t kSymmetricKeyBytes = 16;
constexpr std::size_t kP256Bytes = 32;

// The seed that both sides derive their keys from, and its protected form.
struct Seed {
  SecretBytes value;
  Bytes encrypted;
};

Status Failed(std::string_view call) {
  return OpenSslError(Reason::kCryptoFailed, "make TPM credential", call);
}

Sha256Digest HmacSha256(ByteView key, ByteView message) {
  Sha256Digest mac;
  SEALIFT_CHECK(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), message.data(), message.size(),
                     mac.bytes.data(), nullptr) != nullptr);
  return mac;
}

void AppendU32(Bytes& to, std::uint32_t value) {
  for (const int shift : {24, 16, 8, 0}) to.push_back(static_cast<std::uint8_t>(value >> shift));
}

// Calls `block(counter)` until `bytes` bytes are there.
template <typename Block>
SecretBytes Derive(std::size_t bytes, Block block) {
  Bytes out;
  out.reserve(bytes + kSeedBytes);
  for (std::uint32_t counter = 1; out.size() < bytes; ++counter) {
    Sha256Digest digest = block(counter);
    Append(out, digest.view());
    WipeMemory(digest.bytes.data(), digest.bytes.size());
  }
  WipeMemory(out.data() + bytes, out.size() - bytes);
  out.resize(bytes);
  return SecretBytes(std::move(out));
}

// Part 1, B.10.4: OAEP with the name algorithm and the label "IDENTITY", its NUL included.
Result<Seed> SeedForRsa(const PublicKey& key) {
  Seed seed{.value = SecretBytes(RandomBytes(kSeedBytes)), .encrypted = {}};
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(key.evp(), nullptr));
  constexpr std::string_view kLabel("IDENTITY\0", 9);
  void* label = OPENSSL_memdup(kLabel.data(), kLabel.size());
  if (context == nullptr || label == nullptr || EVP_PKEY_encrypt_init(context.get()) != 1 ||
      EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) != 1 ||
      EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), EVP_sha256()) != 1 ||
      EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), EVP_sha256()) != 1 ||
      EVP_PKEY_CTX_set0_rsa_oaep_label(context.get(), label, static_cast<int>(kLabel.size())) != 1) {
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
Result<Seed> SeedForEcc(const PublicKey& key) {
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
  return Seed{.value = KdfE(shared.ExposeSecret(), "IDENTITY", ours.x, theirs.x, kSeedBytes),
              .encrypted = std::move(point).Finish()};
}

// AES-128-CFB with a zero IV: the key is used once.
Result<Bytes> EncryptIdentity(const SecretBytes& key, const SecretBytes& secret) {
  Bytes plain{static_cast<std::uint8_t>(secret.size() >> 8), static_cast<std::uint8_t>(secret.size())};
  Append(plain, secret.ExposeSecret());
  const SecretBytes identity(std::move(plain));
  const std::array<unsigned char, 16> iv{};
  const CipherCtxPtr context(EVP_CIPHER_CTX_new());
  Bytes encrypted(identity.size());
  int size = 0;
  if (context == nullptr ||
      EVP_EncryptInit_ex2(context.get(), EVP_aes_128_cfb128(), key.ExposeSecret().data(), iv.data(),
                          nullptr) != 1 ||
      EVP_EncryptUpdate(context.get(), encrypted.data(), &size, identity.ExposeSecret().data(),
                        static_cast<int>(identity.size())) != 1 ||
      static_cast<std::size_t>(size) != encrypted.size()) {
    return Failed("EVP_EncryptUpdate");
  }
  return encrypted;
}

Bytes Sized(ByteView bytes) {
  ByteWriter writer(ByteWriter::Endian::kBig);
  writer.U16(static_cast<std::uint16_t>(bytes.size()));
  writer.Raw(bytes);
  return std::move(writer).Finish();
}

}  // namespace

SecretBytes KdfA(ByteView key, std::string_view label, ByteView context_u, ByteView context_v,
                 std::size_t bytes) {
  return Derive(bytes, [&](std::uint32_t counter) {
    Bytes message;
    AppendU32(message, counter);
    Append(message, AsBytes(label));
    message.push_back(0);
    Append(message, context_u);
    Append(message, context_v);
    AppendU32(message, static_cast<std::uint32_t>(bytes * 8));
    return HmacSha256(key, message);
  });
}

SecretBytes KdfE(ByteView z, std::string_view label, ByteView party_u, ByteView party_v, std::size_t bytes) {
  return Derive(bytes, [&](std::uint32_t counter) {
    Bytes message;
    message.reserve(4 + z.size() + label.size() + 1 + party_u.size() + party_v.size());
    AppendU32(message, counter);
    Append(message, z);
    Append(message, AsBytes(label));
    message.push_back(0);
    Append(message, party_u);
    Append(message, party_v);
    const Sha256Digest digest = Sha256(message);
    WipeMemory(message.data(), message.size());
    return digest;
  });
}

Result<Credential> MakeCredential(const PublicArea& endorsement_key, ByteView name,
                                  const SecretBytes& secret) {
  SEALIFT_RETURN_IF_ERROR(CheckEndorsementKey(endorsement_key));
  if (secret.empty() || secret.size() > kSeedBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "make TPM credential: the secret is not 1 to 32 bytes long");
  }
  SEALIFT_ASSIGN_OR_RETURN(const Seed seed, endorsement_key.type == kAlgRsa
                                                ? SeedForRsa(endorsement_key.key)
                                                : SeedForEcc(endorsement_key.key));
  const ByteView seed_value = seed.value.ExposeSecret();
  const SecretBytes symmetric = KdfA(seed_value, "STORAGE", name, {}, kSymmetricKeyBytes);
  const SecretBytes integrity = KdfA(seed_value, "INTEGRITY", {}, {}, kSeedBytes);
  SEALIFT_ASSIGN_OR_RETURN(const Bytes identity, EncryptIdentity(symmetric, secret));
  Bytes protected_bytes = identity;
  Append(protected_bytes, name);
  Bytes blob = Sized(HmacSha256(integrity.ExposeSecret(), protected_bytes).view());
  Append(blob, identity);
  return Credential{.blob = Sized(blob), .encrypted_secret = Sized(seed.encrypted)};
}

}  // namespace sealift::tpm
