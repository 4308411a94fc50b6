#include "shared/tpm/credential.h"

#include "shared/crypto/hash.h"
#include "shared/crypto/hmac.h"
#include "shared/tpm/protected_object.h"

namespace sealift::tpm {
namespace {

constexpr std::size_t kMaxSecretBytes = 32;

void AppendU32(Bytes& to, std::uint32_t value) {
  for (const int shift : {24, 16, 8, 0}) to.push_back(static_cast<std::uint8_t>(value >> shift));
}

// Calls `block(counter)` until `bytes` bytes are there.
template <typename Block>
SecretBytes Derive(std::size_t bytes, Block block) {
  Bytes out;
  out.reserve(bytes + sizeof(Sha256Digest::bytes));
  for (std::uint32_t counter = 1; out.size() < bytes; ++counter) {
    Sha256Digest digest = block(counter);
    Append(out, digest.view());
    WipeMemory(digest.bytes.data(), digest.bytes.size());
  }
  WipeMemory(out.data() + bytes, out.size() - bytes);
  out.resize(bytes);
  return SecretBytes(std::move(out));
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
  if (secret.empty() || secret.size() > kMaxSecretBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "make TPM credential: the secret is not 1 to 32 bytes long");
  }
  const SecretBytes identity(SizedBytes(secret.ExposeSecret()));
  SEALIFT_ASSIGN_OR_RETURN(ProtectedObject made, ProtectFor(endorsement_key, "IDENTITY", name, identity));
  return Credential{.blob = std::move(made.blob), .encrypted_secret = std::move(made.encrypted_seed)};
}

Status CheckCredential(ByteView blob, ByteView encrypted_secret) {
  SEALIFT_ASSIGN_OR_RETURN(const OuterWrapper wrapper, ParseOuterWrapper(blob));
  if (wrapper.ciphertext.size() > sizeof(std::uint16_t) + kMaxSecretBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     "read credential blob: it holds more than a secret");
  }
  return ParseEncryptedSeed(encrypted_secret).status();
}

}  // namespace sealift::tpm
