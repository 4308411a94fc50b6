#include "controller/secret/sealed_secret.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "shared/base/json_member.h"
#include "shared/crypto/aead.h"
#include "shared/crypto/hash.h"
#include "shared/escrow/oaep.h"

namespace sealift::controller {
namespace {

using nlohmann::ordered_json;

constexpr int kFormat = 1;
// What tokens have in common; OAEP does not need its hash to resist collisions (decision 0033).
constexpr escrow::OaepHash kOaep = escrow::OaepHash::kSha1;

struct Sealed {
  Sha256Digest key_id;
  escrow::OaepHash oaep = kOaep;
  Bytes encrypted_key;
  Bytes nonce;
  Bytes ciphertext;
};

// Everything that says who gets it. Names and rules hold no line feed.
Bytes Associated(const SecretRecord& record, const Sealed& sealed) {
  return ToBytes(fmt::format("sealift stored secret {}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}\n", kFormat,
                             sealed.key_id.hex(), escrow::OaepHashName(sealed.oaep), record.name, record.id,
                             record.selector, record.node ? record.node->text() : "", record.releases,
                             record.boot_only ? "boot" : "running"));
}

Status Damaged(const SecretRecord& record, std::string_view cause) {
  return MakeError(Code::kDataLoss, Reason::kStoreFailed,
                   fmt::format("decrypt secret '{}': {}", record.name, cause));
}

Result<Sealed> Parse(const SecretRecord& record) {
  const ordered_json object = ordered_json::parse(record.sealed, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object() || object.value("format", 0) != kFormat)
    return Damaged(record, "it is not what this build wrote");
  const auto key_id = Sha256Digest::FromHex(TextMember(object, "key"));
  const auto oaep = escrow::ParseOaepHash(TextMember(object, "oaep"));
  if (!key_id.ok() || !oaep.ok()) return Damaged(record, "it names no key");
  return Sealed{.key_id = *key_id,
                .oaep = *oaep,
                .encrypted_key = Base64Member(object, "encrypted_key"),
                .nonce = Base64Member(object, "nonce"),
                .ciphertext = Base64Member(object, "ciphertext")};
}

}  // namespace

Result<std::string> SealSecret(const SecretRecord& record, const SecretBytes& value, const PublicKey& key) {
  if (value.empty() || value.size() > kMaxSecretBytes) {
    return MakeError(
        Code::kInvalidArgument, Reason::kInvalidArgument,
        fmt::format("keep secret '{}': it is not 1 to {} bytes long", record.name, kMaxSecretBytes));
  }
  Sealed sealed{
      .key_id = key.key_id(), .encrypted_key = {}, .nonce = RandomBytes(kAeadNonceBytes), .ciphertext = {}};
  const SecretBytes content_key(RandomBytes(kAeadKeyBytes));
  SEALIFT_ASSIGN_OR_RETURN(sealed.encrypted_key, escrow::OaepEncrypt(key, sealed.oaep, content_key));
  SEALIFT_ASSIGN_OR_RETURN(sealed.ciphertext,
                           AeadSeal(content_key, sealed.nonce, Associated(record, sealed), value));
  ordered_json object;
  object["format"] = kFormat;
  object["key"] = sealed.key_id.hex();
  object["oaep"] = escrow::OaepHashName(sealed.oaep);
  object["encrypted_key"] = Base64Encode(sealed.encrypted_key);
  object["nonce"] = Base64Encode(sealed.nonce);
  object["ciphertext"] = Base64Encode(sealed.ciphertext);
  return object.dump();
}

Result<SecretBytes> UnsealSecret(const SecretRecord& record, SecretKeys& keys, const std::string& intent) {
  SEALIFT_ASSIGN_OR_RETURN(const Sealed sealed, Parse(record));
  SEALIFT_ASSIGN_OR_RETURN(const auto decrypter, keys.Open(sealed.key_id, intent));
  auto content_key = decrypter->Decrypt(sealed.encrypted_key, sealed.oaep);
  if (!content_key.ok() && ReasonOf(content_key.status()) == Reason::kEscrowMalformed)
    return Damaged(record, MessageOf(content_key.status()));
  if (!content_key.ok()) return content_key.status();
  Result<SecretBytes> value =
      AeadOpen(*content_key, sealed.nonce, Associated(record, sealed), sealed.ciphertext);
  if (!value.ok()) return Damaged(record, "its value, or who may have it, was changed in the database");
  return value;
}

}  // namespace sealift::controller
