#include "shared/escrow/escrow.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "shared/base/json_member.h"
#include "shared/crypto/aead.h"
#include "shared/crypto/hash.h"
#include "shared/escrow/oaep.h"

namespace sealift::escrow {
namespace {

using nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr std::size_t kMaxSecretBytes = 1024;
constexpr std::size_t kMaxEncryptedKeyBytes = 1024;
constexpr std::size_t kMaxTextBytes = 16u << 10;
constexpr std::size_t kMaxVolumeName = 36;
constexpr std::size_t kUuidLength = 36;
constexpr std::uint32_t kMaxSlot = 31;

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kEscrowMalformed,
                   fmt::format("read escrowed key: {}", what));
}

// What is authenticated beside the secret: everything that says what it is for.
Bytes Associated(const EscrowedKey& escrowed) {
  const Subject& subject = escrowed.subject;
  return ToBytes(fmt::format("sealift escrow {}\n{}\n{}\n{}\n{}\n{}\n{}\n", kFormat,
                             escrowed.escrow_key_id.hex(), OaepHashName(escrowed.oaep),
                             subject.ek_digest.hex(), subject.volume, subject.luks_uuid, subject.slot));
}

bool IsVolumeName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxVolumeName &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") ==
             std::string_view::npos;
}

bool IsUuid(std::string_view text) {
  if (text.size() != kUuidLength) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const char c = text[i];
    if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

std::uint64_t Number(const ordered_json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : UINT64_MAX;
}

}  // namespace

std::string_view OaepHashName(OaepHash hash) { return hash == OaepHash::kSha1 ? "sha1" : "sha256"; }

Result<OaepHash> ParseOaepHash(std::string_view name) {
  if (name == "sha1") return OaepHash::kSha1;
  if (name == "sha256") return OaepHash::kSha256;
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("use OAEP hash '{}': it is sha1 or sha256", name));
}

Result<EscrowedKey> Escrow(const SecretBytes& secret, const Subject& subject, const PublicKey& escrow_key,
                           OaepHash oaep) {
  if (escrow_key.type() != KeyType::kRsa) {
    return MakeError(Code::kFailedPrecondition, Reason::kKeyMismatch, "encrypt to escrow key: it is not RSA");
  }
  if (secret.empty() || secret.size() > kMaxSecretBytes || !IsVolumeName(subject.volume) ||
      !IsUuid(subject.luks_uuid) || subject.slot > kMaxSlot) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("escrow key of volume '{}': it has no such subject", subject.volume));
  }
  EscrowedKey escrowed{.subject = subject,
                       .escrow_key_id = escrow_key.key_id(),
                       .oaep = oaep,
                       .encrypted_key = {},
                       .nonce = RandomBytes(kAeadNonceBytes),
                       .ciphertext = {}};
  const SecretBytes key(RandomBytes(kAeadKeyBytes));
  SEALIFT_ASSIGN_OR_RETURN(escrowed.encrypted_key, OaepEncrypt(escrow_key, oaep, key));
  SEALIFT_ASSIGN_OR_RETURN(escrowed.ciphertext, AeadSeal(key, escrowed.nonce, Associated(escrowed), secret));
  return escrowed;
}

Result<SecretBytes> Open(const EscrowedKey& escrowed, OaepDecrypter& key) {
  if (escrowed.nonce.size() != kAeadNonceBytes || escrowed.ciphertext.size() <= kAeadTagBytes ||
      escrowed.ciphertext.size() > kMaxSecretBytes + kAeadTagBytes)
    return Malformed("its parts have wrong sizes");
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes content_key, key.Decrypt(escrowed.encrypted_key, escrowed.oaep));
  if (content_key.size() != kAeadKeyBytes) return Malformed("it holds no AES-256 key");
  Result<SecretBytes> secret =
      AeadOpen(content_key, escrowed.nonce, Associated(escrowed), escrowed.ciphertext);
  if (!secret.ok()) return Malformed("it was changed, or is for another machine or volume than it says");
  return secret;
}

std::string Format(const EscrowedKey& escrowed) {
  ordered_json object;
  object["format"] = kFormat;
  object["ek_digest"] = escrowed.subject.ek_digest.hex();
  object["volume"] = escrowed.subject.volume;
  object["luks_uuid"] = escrowed.subject.luks_uuid;
  object["slot"] = escrowed.subject.slot;
  object["escrow_key"] = escrowed.escrow_key_id.hex();
  object["oaep"] = OaepHashName(escrowed.oaep);
  object["encrypted_key"] = Base64Encode(escrowed.encrypted_key);
  object["nonce"] = Base64Encode(escrowed.nonce);
  object["ciphertext"] = Base64Encode(escrowed.ciphertext);
  return object.dump();
}

Result<EscrowedKey> Parse(std::string_view json) {
  if (json.size() > kMaxTextBytes) return Malformed(fmt::format("{} bytes", json.size()));
  const ordered_json object = ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return Malformed("it is no JSON object");
  if (Number(object, "format") != kFormat) return Malformed("another format");
  EscrowedKey escrowed;
  const auto ek = Sha256Digest::FromHex(TextMember(object, "ek_digest"));
  const auto key_id = Sha256Digest::FromHex(TextMember(object, "escrow_key"));
  const auto oaep = ParseOaepHash(TextMember(object, "oaep"));
  const std::uint64_t slot = Number(object, "slot");
  escrowed.subject.volume = TextMember(object, "volume");
  escrowed.subject.luks_uuid = TextMember(object, "luks_uuid");
  escrowed.encrypted_key = Base64Member(object, "encrypted_key");
  escrowed.nonce = Base64Member(object, "nonce");
  escrowed.ciphertext = Base64Member(object, "ciphertext");
  if (!ek.ok() || !key_id.ok() || !oaep.ok() || slot > kMaxSlot || !IsVolumeName(escrowed.subject.volume) ||
      !IsUuid(escrowed.subject.luks_uuid))
    return Malformed("it does not say what it is for");
  if (escrowed.encrypted_key.empty() || escrowed.encrypted_key.size() > kMaxEncryptedKeyBytes ||
      escrowed.nonce.size() != kAeadNonceBytes || escrowed.ciphertext.size() <= kAeadTagBytes ||
      escrowed.ciphertext.size() > kMaxSecretBytes + kAeadTagBytes)
    return Malformed("its parts have wrong sizes");
  escrowed.subject.ek_digest = *ek;
  escrowed.subject.slot = static_cast<std::uint32_t>(slot);
  escrowed.escrow_key_id = *key_id;
  escrowed.oaep = *oaep;
  return escrowed;
}

}  // namespace sealift::escrow
