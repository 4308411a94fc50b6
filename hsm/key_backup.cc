#include "hsm/key_backup.h"

#include <fmt/format.h>

#include <algorithm>

#include "hsm/ceremony_files.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/tuf/json.h"

namespace sealift::hsm {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;
constexpr std::size_t kMaxEntries = 256;
constexpr std::string_view kPrefix = "sealift key backup 1\n";

Status Invalid(std::string_view what) {
  return MakeError(Code::kFailedPrecondition, Reason::kKeyBackupInvalid,
                   fmt::format("read key backup: {}", what));
}

json ToJson(const KeyBackup& backup) {
  json keys = json::array();
  for (const BackupEntry& entry : backup.entries) {
    keys.push_back({{"role", entry.role},
                    {"generation", entry.generation},
                    {"key_id", entry.key_id.hex()},
                    {"sha256", Sha256(entry.wrapped).hex()},
                    {"wrapped", Base64Encode(entry.wrapped)}});
  }
  return {{"format", kFormat},
          {"set", backup.set},
          {"made", FormatRfc3339(backup.made)},
          {"transport_key", backup.transport.hex()},
          {"wrapped_aes", Base64Encode(backup.wrapped_aes)},
          {"keys", std::move(keys)},
          {"signed_by", backup.signed_by.hex()}};
}

Result<BackupEntry> ReadEntry(const json& object) {
  tuf::ObjectReader reader(object, "key");
  BackupEntry entry;
  entry.role = reader.String("role", 64);
  entry.generation = static_cast<std::uint32_t>(reader.Unsigned("generation", 1, 1'000'000));
  entry.key_id = reader.Digest("key_id");
  const Sha256Digest digest = reader.Digest("sha256");
  const std::string wrapped = reader.String("wrapped", 16384);
  if (!reader.ok()) return Invalid(MessageOf(reader.status()));
  auto bytes = Base64Decode(wrapped);
  if (!bytes.ok() || Sha256(*bytes) != digest) {
    return Invalid(fmt::format("the wrapped bytes of '{}' are not those it was made with", entry.role));
  }
  entry.wrapped = *std::move(bytes);
  return entry;
}

const InventoryKey* FindKeyOf(const Inventory& inventory, const Sha256Digest& id) {
  const auto found = std::ranges::find(inventory.keys, id, &InventoryKey::key_id);
  return found == inventory.keys.end() ? nullptr : &*found;
}

// Before anything is placed: it is of this set, as its signer made it.
Status CheckBackup(const KeyRing& ring, const KeyBackup& backup) {
  const Inventory& inventory = ring.inventory();
  if (backup.set != inventory.set) {
    return Invalid(fmt::format("it is of key set '{}', not of '{}'", backup.set, inventory.set));
  }
  bool signer_inside = false;
  for (const BackupEntry& entry : backup.entries) {
    const InventoryKey* key = FindKeyOf(inventory, entry.key_id);
    if (key == nullptr || key->role != entry.role || key->generation != entry.generation || !key->wrappable) {
      return Invalid(fmt::format("this set has no such wrappable key as its '{}'", entry.role));
    }
    signer_inside = signer_inside || entry.key_id == backup.signed_by;
  }
  if (!signer_inside) return Invalid("it is not signed by a key that it holds");
  SEALIFT_ASSIGN_OR_RETURN(const PublicKey key, ring.PublicKeyFor(*FindKeyOf(inventory, backup.signed_by)));
  if (key.VerifyMessage(backup.SignedBytes(), backup.signature, key.default_scheme()).ok()) return OkStatus();
  return Invalid("its signature does not fit");
}

Status Record(KeyRing& ring, std::string_view event, const InventoryKey& key) {
  return ring.journal()->RecordKeyEvent({.event = std::string(event),
                                         .key_id = key.key_id,
                                         .key_name = KeyName(key.role, key.generation),
                                         .label = key.label});
}

}  // namespace

Bytes KeyBackup::SignedBytes() const {
  Bytes bytes = ToBytes(kPrefix);
  Append(bytes, AsBytes(tuf::CompactJson(ToJson(*this))));
  return bytes;
}

std::string KeyBackup::Json() const {
  json object = ToJson(*this);
  object["signature"] = Base64Encode(signature);
  return object.dump(2) + "\n";
}

Result<KeyBackup> KeyBackup::Parse(std::string_view text) {
  const auto parsed = tuf::ParseJson(text, {.max_bytes = kMaxBackupBytes, .max_depth = 4});
  if (!parsed.ok()) return Invalid(MessageOf(parsed.status()));
  tuf::ObjectReader reader(*parsed, "backup");
  reader.Unsigned("format", kFormat, kFormat);
  KeyBackup backup;
  backup.set = reader.String("set", 64);
  const std::string made = reader.String("made", 32);
  backup.transport = reader.Digest("transport_key");
  const std::string wrapped_aes = reader.String("wrapped_aes", 2048);
  const json& keys = reader.Array("keys", kMaxEntries);
  backup.signed_by = reader.Digest("signed_by");
  const std::string signature = reader.String("signature", 2048);
  if (!reader.ok()) return Invalid(MessageOf(reader.status()));
  const auto time = ParseRfc3339(made);
  auto aes = Base64Decode(wrapped_aes);
  auto signed_bytes = Base64Decode(signature);
  if (!time.ok() || !aes.ok() || !signed_bytes.ok() || keys.empty()) {
    return Invalid("time, wrapped key, keys or signature is malformed");
  }
  backup.made = *time;
  backup.wrapped_aes = *std::move(aes);
  backup.signature = *std::move(signed_bytes);
  for (const json& object : keys) {
    SEALIFT_ASSIGN_OR_RETURN(BackupEntry entry, ReadEntry(object));
    backup.entries.push_back(std::move(entry));
  }
  return backup;
}

Result<KeyBackup> BackUpKeys(KeyRing& ring, const std::vector<std::string>& roles, const PublicKey& transport,
                             UnixMillis now) {
  std::shared_ptr<Token> from;
  std::vector<const InventoryKey*> keys;
  for (const InventoryKey& key : ring.inventory().keys) {
    if (std::ranges::find(roles, key.role) == roles.end()) continue;
    const InventoryKey* chosen = ring.ChosenFor(key.role);
    if (chosen != nullptr && chosen != &key) continue;
    auto token = ring.TokenFor(key);
    if (!token.ok() && ReasonOf(token.status()) == Reason::kHsmKeyMissing && key.generation > 1) continue;
    if (!token.ok()) return token.status();
    if (!key.wrappable) {
      return MakeError(Code::kFailedPrecondition, Reason::kKeyNotWrappable,
                       fmt::format("back up key '{}' generation {}: it was made to stay in its token",
                                   key.role, key.generation));
    }
    if (from != nullptr && from != *token) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       "back up keys: those named are in several tokens; make a backup for each");
    }
    from = *std::move(token);
    keys.push_back(&key);
  }
  for (const std::string& role : roles) {
    if (std::ranges::find(keys, role, &InventoryKey::role) != keys.end()) continue;
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("back up keys: no token given holds a key of role '{}'", role));
  }
  const auto signing = std::ranges::find_if(
      keys, [](const InventoryKey* key) { return FindRole(key->role)->use == KeyUse::kSign; });
  if (signing == keys.end()) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "back up keys: none of those named can sign the backup; name another of the token too");
  }
  std::vector<Sha256Digest> ids;
  ids.reserve(keys.size());
  for (const InventoryKey* key : keys) ids.push_back(key->key_id);
  SEALIFT_ASSIGN_OR_RETURN(WrappedKeys wrapped, WrapKeys(*from, transport, ids));
  KeyBackup backup{.set = ring.inventory().set,
                   .made = std::chrono::floor<std::chrono::seconds>(now),
                   .transport = transport.key_id(),
                   .wrapped_aes = std::move(wrapped.wrapped_aes),
                   .entries = {},
                   .signed_by = (*signing)->key_id,
                   .signature = {}};
  for (std::size_t i = 0; i < keys.size(); ++i) {
    backup.entries.push_back({.role = keys[i]->role,
                              .generation = keys[i]->generation,
                              .key_id = keys[i]->key_id,
                              .wrapped = std::move(wrapped.wrapped_keys[i])});
    SEALIFT_RETURN_IF_ERROR(Record(ring, "backed-up", *keys[i]));
  }
  // Its outcome is on the disk before it leaves, and the records above lie before it in the same file.
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<Signer> signer, ring.SignerFor(**signing));
  SEALIFT_ASSIGN_OR_RETURN(
      backup.signature, signer->SignMessage(backup.SignedBytes(),
                                            fmt::format("backup of {} keys for transport key {}", keys.size(),
                                                        backup.transport.hex().substr(0, 16))));
  return backup;
}

Result<Inventory> RestoreKeys(KeyRing& ring, const std::shared_ptr<Token>& token, const KeyBackup& backup,
                              Leaving leaving) {
  SEALIFT_RETURN_IF_ERROR(CheckBackup(ring, backup));
  SEALIFT_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(ring.folder()));
  SEALIFT_ASSIGN_OR_RETURN(Inventory inventory, Inventory::Load(ring.folder()));
  for (const BackupEntry& entry : backup.entries) {
    const InventoryKey* key = FindKeyOf(inventory, entry.key_id);
    if (key == nullptr) return Invalid("the key set was changed meanwhile; try again");
    if (ring.Serves(key->group, token)) continue;
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("restore key '{}': token '{}' was not given for its group '{}'", key->role,
                                 token->label(), GroupName(key->group)));
  }
  const std::string uri = token->uri().TokenOnly().Text();
  for (const BackupEntry& entry : backup.entries) {
    const auto key = std::ranges::find(inventory.keys, entry.key_id, &InventoryKey::key_id);
    SEALIFT_ASSIGN_OR_RETURN(const PublicKey public_key, ring.PublicKeyFor(*key));
    SEALIFT_ASSIGN_OR_RETURN(const bool there, token->keys().HoldsPrivateKey(entry.key_id));
    const bool noted = uri == key->token_uri || std::ranges::find(key->copies, uri) != key->copies.end();
    // Before: a killed call may be told of in vain, never pass in silence.
    if (!there || !noted) SEALIFT_RETURN_IF_ERROR(Record(ring, "restored", *key));
    const Status placed =
        UnwrapKey(token, backup.transport, backup.wrapped_aes, entry.wrapped,
                  {.public_key = public_key, .use = FindRole(key->role)->use, .label = key->label}, leaving);
    if (!placed.ok()) {
      const auto stays = token->keys().HoldsPrivateKey(entry.key_id);
      if (stays.ok() && !*stays) SEALIFT_RETURN_IF_ERROR(Record(ring, "destroyed", *key));
      return placed;
    }
    if (uri != key->token_uri && std::ranges::find(key->copies, uri) == key->copies.end()) {
      key->copies.push_back(uri);
    }
    SEALIFT_RETURN_IF_ERROR(
        WriteFileAtomically(ring.folder() / kInventoryFile, AsBytes(inventory.Serialize())));
  }
  return inventory;
}

}  // namespace sealift::hsm
