#include "shared/tuf/metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "shared/crypto/hash.h"
#include "shared/tuf/json.h"

namespace sealift::tuf {
namespace {

using nlohmann::json;

constexpr char kSpecVersion[] = "1.0.31";

struct SchemeRow {
  SignatureScheme scheme;
  const char* key_type;
  const char* name;
};
constexpr SchemeRow kSchemes[] = {
    {SignatureScheme::kEcdsaSha256, "ecdsa", "ecdsa-sha2-nistp256"},
    {SignatureScheme::kEcdsaSha384, "ecdsa", "ecdsa-sha2-nistp384"},
    {SignatureScheme::kRsaPkcs1Sha256, "rsa", "rsa-pkcs1v15-sha256"},
};

// For values of our own making, which hold no floating-point numbers.
std::string MustBeCanonical(const json& value) {
  Result<std::string> text = CanonicalJson(value);
  SEALIFT_CHECK(text.ok());
  return *std::move(text);
}

json Parsed(const std::string& own_json) {
  json value = json::parse(own_json, nullptr, /*allow_exceptions=*/false);
  SEALIFT_CHECK(!value.is_discarded());
  return value;
}

json Common(Role role, std::uint32_t version, UnixMillis expires) {
  return {{"_type", std::string(RoleName(role))},
          {"spec_version", kSpecVersion},
          {"version", version},
          {"expires", FormatRfc3339(expires)}};
}

// Digests of other kinds are not kept; what stands for them is as little known.
json HashesJson(const Sha256Digest& sha256, bool foreign) {
  if (foreign) return {{"unknown", ""}};
  return {{"sha256", sha256.hex()}};
}

json MetaFileJson(const MetaFile& file) {
  json value = {{"version", file.version}};
  if (file.length.has_value()) value["length"] = *file.length;
  if (file.sha256.has_value() || file.foreign_digests) {
    value["hashes"] = HashesJson(file.sha256.value_or(Sha256Digest{}), file.foreign_digests);
  }
  return value;
}

json RoleKeysJson(const RoleKeys& keys) { return {{"keyids", keys.key_ids}, {"threshold", keys.threshold}}; }

json DelegationsJson(const Delegations& delegations) {
  json value = {{"keys", json::object()}};
  for (const auto& [id, key] : delegations.keys) value["keys"][id] = Parsed(key.key_json);
  if (delegations.succinct.has_value()) {
    json succinct = RoleKeysJson(delegations.succinct->keys);
    succinct["bit_length"] = delegations.succinct->bit_length;
    succinct["name_prefix"] = delegations.succinct->name_prefix;
    value["succinct_roles"] = succinct;
    return value;
  }
  value["roles"] = json::array();
  for (const DelegatedRole& role : delegations.roles) {
    json entry = RoleKeysJson(role.keys);
    entry["name"] = role.name;
    entry["terminating"] = role.terminating;
    if (role.paths.has_value()) entry["paths"] = *role.paths;
    if (role.path_hash_prefixes.has_value()) entry["path_hash_prefixes"] = *role.path_hash_prefixes;
    value["roles"].push_back(entry);
  }
  return value;
}

Envelope Unsigned(const json& signed_part) {
  return Envelope{.signed_json = CompactJson(signed_part),
                  .signed_bytes = MustBeCanonical(signed_part),
                  .signatures = {}};
}

}  // namespace

std::string_view RoleName(Role role) {
  switch (role) {
    case Role::kRoot:
      return "root";
    case Role::kTargets:
      return "targets";
    case Role::kSnapshot:
      return "snapshot";
    case Role::kTimestamp:
      return "timestamp";
  }
  return "unknown";
}

Key Key::FromPublicKey(const PublicKey& public_key) {
  const SignatureScheme scheme = public_key.default_scheme();
  const auto* row = std::find_if(std::begin(kSchemes), std::end(kSchemes),
                                 [&](const SchemeRow& candidate) { return candidate.scheme == scheme; });
  SEALIFT_CHECK(row != std::end(kSchemes));
  const json value = {
      {"keytype", row->key_type}, {"scheme", row->name}, {"keyval", {{"public", public_key.Pem()}}}};
  Key key;
  key.key_json = CompactJson(value);
  key.id = Sha256(AsBytes(MustBeCanonical(value))).hex();
  key.verifier = VerificationKey::Of(public_key);
  return key;
}

std::string Envelope::Serialize() const {
  json list = json::array();
  for (const MetadataSignature& signature : signatures) {
    list.push_back({{"keyid", signature.key_id}, {"sig", HexEncode(signature.signature)}});
  }
  return fmt::format(R"({{"signatures":{},"signed":{}}})", CompactJson(list), signed_json);
}

Envelope MakeEnvelope(const Root& root) {
  json value = Common(Role::kRoot, root.version, root.expires);
  value["consistent_snapshot"] = root.consistent_snapshot;
  value["keys"] = json::object();
  for (const auto& [id, key] : root.keys) value["keys"][id] = Parsed(key.key_json);
  for (const auto& [role, keys] : root.roles) {
    value["roles"][std::string(RoleName(role))] = RoleKeysJson(keys);
  }
  return Unsigned(value);
}

Envelope MakeEnvelope(const Targets& targets) {
  json value = Common(Role::kTargets, targets.version, targets.expires);
  value["targets"] = json::object();
  for (const auto& [name, target] : targets.targets) {
    json& entry = value["targets"][name];
    entry = {{"length", target.length}, {"hashes", HashesJson(target.sha256, target.foreign_digests)}};
    if (!target.custom.empty()) entry["custom"] = Parsed(target.custom);
  }
  if (targets.delegations.has_value()) value["delegations"] = DelegationsJson(*targets.delegations);
  return Unsigned(value);
}

Envelope MakeEnvelope(const Snapshot& snapshot) {
  json value = Common(Role::kSnapshot, snapshot.version, snapshot.expires);
  value["meta"] = json::object();
  for (const auto& [name, file] : snapshot.meta) value["meta"][name] = MetaFileJson(file);
  return Unsigned(value);
}

Envelope MakeEnvelope(const Timestamp& timestamp) {
  json value = Common(Role::kTimestamp, timestamp.version, timestamp.expires);
  value["meta"] = {{"snapshot.json", MetaFileJson(timestamp.snapshot)}};
  if (timestamp.signed_at.has_value()) value["x-sealift-signed-at"] = FormatRfc3339(*timestamp.signed_at);
  if (!timestamp.journal_checkpoint.empty()) {
    value["x-sealift-journal"] = Parsed(timestamp.journal_checkpoint);
  }
  return Unsigned(value);
}

Root MakeRoot(std::uint32_t version, UnixMillis expires, const std::map<Role, PublicKey>& keys) {
  Root root;
  root.version = version;
  root.expires = expires;
  for (const Role role : {Role::kRoot, Role::kTargets, Role::kSnapshot, Role::kTimestamp}) {
    const auto found = keys.find(role);
    SEALIFT_CHECK(found != keys.end());
    Key key = Key::FromPublicKey(found->second);
    root.roles[role] = RoleKeys{.key_ids = {key.id}, .threshold = 1};
    root.keys.insert_or_assign(key.id, std::move(key));
  }
  return root;
}

Status SignMetadata(Role role, Envelope& envelope, Signer& signer, std::string_view note) {
  const std::string key_id = Key::FromPublicKey(signer.public_key()).id;
  SEALIFT_ASSIGN_OR_RETURN(
      Bytes signature,
      signer.SignMessage(AsBytes(envelope.signed_bytes), fmt::format("tuf {} {}", RoleName(role), note)));
  for (MetadataSignature& existing : envelope.signatures) {
    if (existing.key_id == key_id) {
      existing.signature = std::move(signature);
      return OkStatus();
    }
  }
  envelope.signatures.push_back({.key_id = key_id, .signature = std::move(signature)});
  return OkStatus();
}

Status VerifyThreshold(const Envelope& envelope, const std::map<std::string, Key>& keys,
                       const RoleKeys& allowed, std::string_view what) {
  // Keys, not ids, are counted: one key written in two ways has two ids.
  std::set<Bytes> signed_by;
  for (const MetadataSignature& signature : envelope.signatures) {
    if (std::find(allowed.key_ids.begin(), allowed.key_ids.end(), signature.key_id) ==
        allowed.key_ids.end()) {
      continue;
    }
    const auto found = keys.find(signature.key_id);
    if (found == keys.end() || !found->second.verifier.has_value()) continue;
    const VerificationKey& key = *found->second.verifier;
    if (key.Verifies(AsBytes(envelope.signed_bytes), signature.signature)) signed_by.insert(key.spki_der());
  }
  if (signed_by.size() >= allowed.threshold) return OkStatus();
  return MakeError(Code::kUnauthenticated, Reason::kTufSignatureThreshold,
                   fmt::format("verify {}: {} of {} needed signatures are valid", what, signed_by.size(),
                               allowed.threshold));
}

Status VerifyThreshold(const Envelope& envelope, const Root& delegator, Role role) {
  const Status status = VerifyThreshold(envelope, delegator.keys, delegator.roles.at(role),
                                        fmt::format("tuf {}", RoleName(role)));
  if (status.ok()) return status;
  return Annotate(status, fmt::format("by keys of root version {}", delegator.version));
}

}  // namespace sealift::tuf
