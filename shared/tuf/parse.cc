// Bytes of foreign origin to the models of metadata.h.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "shared/crypto/hash.h"
#include "shared/tuf/json.h"
#include "shared/tuf/metadata.h"

namespace sealift::tuf {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 12;
constexpr std::size_t kMaxSignatures = 64;
constexpr std::size_t kMaxKeys = 256;
constexpr std::size_t kMaxKeyBytes = 8192;
constexpr std::size_t kMaxTargets = 65536;
constexpr std::size_t kMaxKeyIdBytes = 128;
constexpr std::size_t kMaxMetaFiles = 16384;
constexpr std::size_t kMaxDelegatedRoles = 8192;
constexpr std::size_t kMaxPatterns = 4096;
constexpr std::size_t kMaxNameBytes = 512;
constexpr std::uint64_t kMaxLength = 1ull << 50;

Status Malformed(std::string_view message) {
  return MakeError(Code::kInvalidArgument, Reason::kTufMalformed, message);
}

// "1.x" or "1.x.y"; another major version may mean anything (section 2.2 of the document's own rules).
Status CheckSpecVersion(const std::string& text, std::string_view what) {
  const bool digits = !text.empty() && text.find_first_not_of("0123456789.") == std::string::npos;
  if (!digits) return Malformed(fmt::format("read {}: 'spec_version' is not a version", what));
  if (text.starts_with("1.")) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kTufSpecUnsupported,
                   fmt::format("read {}: specification version {} is not 1.x", what, text));
}

struct Common {
  json value;
  std::string what;
  std::uint32_t version = 0;
  UnixMillis expires;
};

Result<Common> ReadCommon(const Envelope& envelope, Role role, std::size_t max_bytes) {
  Common common;
  common.what = fmt::format("tuf {}", RoleName(role));
  SEALIFT_ASSIGN_OR_RETURN(common.value,
                           ParseJson(envelope.signed_json, {.max_bytes = max_bytes, .max_depth = kMaxDepth}));
  ObjectReader reader(common.value, common.what);
  if (reader.String("_type", 32) != RoleName(role)) reader.Problem("_type", "names another role");
  const std::string spec_version = reader.String("spec_version", 32);
  common.version = static_cast<std::uint32_t>(reader.Unsigned("version", 1, kMaxVersion));
  const std::string expires = reader.String("expires", 32);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  SEALIFT_RETURN_IF_ERROR(CheckSpecVersion(spec_version, common.what));
  const Result<UnixMillis> time = ParseRfc3339(expires);
  if (!time.ok()) return Malformed(fmt::format("read {}: 'expires' is not a UTC time", common.what));
  common.expires = *time;
  return common;
}

Result<Key> ReadKey(const std::string& id, const json& value) {
  ObjectReader reader(value, "tuf key " + id.substr(0, 64));
  const std::string key_type = reader.String("keytype", 64);
  const std::string scheme = reader.String("scheme", 64);
  ObjectReader key_value(reader.Object("keyval", 16), "tuf keyval " + id.substr(0, 64));
  SEALIFT_RETURN_IF_ERROR(reader.status());
  Key key;
  key.id = id;
  key.key_json = CompactJson(value);
  const std::string text = key_value.String("public", kMaxKeyBytes);
  // The keyval of a type that is not known may look like anything.
  if (key_value.ok()) key.verifier = VerificationKey::Make(key_type, scheme, text);
  return key;
}

Result<std::map<std::string, Key>> ReadKeys(const json& value, std::string_view what) {
  std::map<std::string, Key> keys;
  for (const auto& [id, entry] : value.items()) {
    if (id.empty() || id.size() > kMaxKeyIdBytes) {
      return Malformed(fmt::format("read {}: a key id is empty or too long", what));
    }
    SEALIFT_ASSIGN_OR_RETURN(Key key, ReadKey(id, entry));
    keys.emplace(id, std::move(key));
  }
  return keys;
}

// `object` has "keyids" and "threshold". More may be asked for than there are keys: then nothing verifies.
Result<RoleKeys> ReadRoleKeys(const json& object, const std::map<std::string, Key>& keys,
                              const std::string& what) {
  ObjectReader reader(object, what);
  RoleKeys result;
  result.threshold = static_cast<std::uint32_t>(reader.Unsigned("threshold", 1, kMaxSignatures));
  for (const json& id : reader.Array("keyids", kMaxSignatures)) {
    if (!id.is_string() || !keys.contains(id.get_ref<const std::string&>())) {
      return Malformed(fmt::format("read {}: a key id is not among the keys", what));
    }
    result.key_ids.push_back(id.get<std::string>());
  }
  SEALIFT_RETURN_IF_ERROR(reader.status());
  const std::set<std::string> distinct(result.key_ids.begin(), result.key_ids.end());
  if (distinct.size() != result.key_ids.size()) {
    return Malformed(fmt::format("read {}: a key id is listed twice", what));
  }
  return result;
}

// Absent when there are digests, but no SHA-256.
Result<std::optional<Sha256Digest>> ReadHashes(const json& value, const std::string& what) {
  ObjectReader hashes(value, what + ", hashes");
  if (value.empty()) return Malformed(fmt::format("read {}: it has no digest", what));
  if (!hashes.Has("sha256")) return std::optional<Sha256Digest>();
  const Sha256Digest digest = hashes.Digest("sha256");
  SEALIFT_RETURN_IF_ERROR(hashes.status());
  return std::optional<Sha256Digest>(digest);
}

Result<MetaFile> ReadMetaFile(const std::string& name, const json& value) {
  ObjectReader reader(value, "tuf meta '" + name + "'");
  MetaFile file;
  file.version = static_cast<std::uint32_t>(reader.Unsigned("version", 1, kMaxVersion));
  if (reader.Has("length")) file.length = reader.Unsigned("length", 1, kMaxLength);
  if (reader.Has("hashes")) {
    const json& hashes = reader.Object("hashes", 16);
    SEALIFT_RETURN_IF_ERROR(reader.status());
    SEALIFT_ASSIGN_OR_RETURN(file.sha256, ReadHashes(hashes, "tuf meta '" + name + "'"));
    file.foreign_digests = !file.sha256.has_value();
  }
  SEALIFT_RETURN_IF_ERROR(reader.status());
  return file;
}

Result<Target> ReadTarget(const std::string& name, const json& value) {
  ObjectReader reader(value, "tuf target '" + name + "'");
  Target target;
  target.length = reader.Unsigned("length", 0, kMaxLength);
  const json& hashes = reader.Object("hashes", 16);
  if (reader.Has("custom")) {
    target.custom = CompactJson(reader.Object("custom", 256));
  }
  SEALIFT_RETURN_IF_ERROR(reader.status());
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<Sha256Digest> sha256,
                           ReadHashes(hashes, "tuf target '" + name + "'"));
  target.foreign_digests = !sha256.has_value();
  target.sha256 = sha256.value_or(Sha256Digest{});
  return target;
}

Status InvalidDelegation(std::string_view message) {
  return MakeError(Code::kInvalidArgument, Reason::kTufDelegationInvalid, message);
}

Result<RoleKeys> ReadDelegatedKeys(const json& object, const std::map<std::string, Key>& keys,
                                   const std::string& what) {
  Result<RoleKeys> read = ReadRoleKeys(object, keys, what);
  if (!read.ok()) return InvalidDelegation(MessageOf(read.status()));
  return read;
}

Result<std::vector<std::string>> ReadTexts(const json& list, const std::string& what) {
  std::vector<std::string> texts;
  for (const json& text : list) {
    if (!text.is_string() || text.get_ref<const std::string&>().size() > kMaxNameBytes) {
      return InvalidDelegation(fmt::format("read {}: a pattern is no text or too long", what));
    }
    texts.push_back(text.get<std::string>());
  }
  return texts;
}

bool IsTopLevelName(std::string_view name) {
  return name == "root" || name == "targets" || name == "snapshot" || name == "timestamp";
}

Result<DelegatedRole> ReadDelegatedRole(const json& object, const std::map<std::string, Key>& keys) {
  ObjectReader reader(object, "tuf delegation");
  DelegatedRole role;
  role.name = reader.String("name", kMaxNameBytes);
  // Left out in examples of the specification.
  role.terminating = reader.Has("terminating") && reader.Boolean("terminating");
  const bool by_path = reader.Has("paths");
  const bool by_hash = reader.Has("path_hash_prefixes");
  const json& list = reader.Array(by_path ? "paths" : "path_hash_prefixes", kMaxPatterns);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  const std::string what = fmt::format("tuf delegation to '{}'", role.name);
  if (role.name.empty() || IsTopLevelName(role.name)) {
    return InvalidDelegation(fmt::format("read {}: no delegated role has that name", what));
  }
  if (by_path == by_hash) {
    return InvalidDelegation(fmt::format("read {}: it needs either paths or hash prefixes", what));
  }
  SEALIFT_ASSIGN_OR_RETURN(role.keys, ReadDelegatedKeys(object, keys, what));
  SEALIFT_ASSIGN_OR_RETURN((by_path ? role.paths : role.path_hash_prefixes), ReadTexts(list, what));
  return role;
}

Result<SuccinctRoles> ReadSuccinct(const json& object, const std::map<std::string, Key>& keys) {
  ObjectReader reader(object, "tuf succinct roles");
  SuccinctRoles roles;
  roles.bit_length = static_cast<std::uint32_t>(reader.Unsigned("bit_length", 1, 32));
  roles.name_prefix = reader.String("name_prefix", kMaxNameBytes / 2);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  SEALIFT_ASSIGN_OR_RETURN(roles.keys, ReadDelegatedKeys(object, keys, "tuf succinct roles"));
  return roles;
}

Result<Delegations> ReadDelegations(const json& object) {
  ObjectReader reader(object, "tuf delegations");
  const json& keys = reader.Object("keys", kMaxKeys);
  Delegations delegations;
  SEALIFT_RETURN_IF_ERROR(reader.status());
  SEALIFT_ASSIGN_OR_RETURN(delegations.keys, ReadKeys(keys, "tuf delegations"));
  if (reader.Has("succinct_roles")) {
    const json& succinct = reader.Object("succinct_roles", 64);
    SEALIFT_RETURN_IF_ERROR(reader.status());
    if (reader.Has("roles")) {
      return InvalidDelegation("read tuf delegations: both 'roles' and 'succinct_roles' are there");
    }
    SEALIFT_ASSIGN_OR_RETURN(delegations.succinct, ReadSuccinct(succinct, delegations.keys));
    return delegations;
  }
  const json& roles = reader.Array("roles", kMaxDelegatedRoles);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  std::set<std::string> names;
  for (const json& entry : roles) {
    SEALIFT_ASSIGN_OR_RETURN(DelegatedRole role, ReadDelegatedRole(entry, delegations.keys));
    if (!names.insert(role.name).second) {
      return InvalidDelegation(fmt::format("read tuf delegations: role '{}' is listed twice", role.name));
    }
    delegations.roles.push_back(std::move(role));
  }
  return delegations;
}

}  // namespace

Result<Envelope> ParseEnvelope(std::string_view text, std::size_t max_bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const json value,
                           ParseJson(text, {.max_bytes = max_bytes, .max_depth = kMaxDepth}));
  ObjectReader reader(value, "tuf metadata");
  const json& signed_part = reader.Object("signed", 256);
  const json& signatures = reader.Array("signatures", kMaxSignatures);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  Envelope envelope;
  envelope.signed_json = CompactJson(signed_part);
  SEALIFT_ASSIGN_OR_RETURN(envelope.signed_bytes, CanonicalJson(signed_part));
  std::set<std::string> seen;
  for (const json& entry : signatures) {
    ObjectReader signature(entry, "tuf signature");
    const std::string key_id = signature.String("keyid", 128);
    const std::string hex = signature.String("sig", 4096);
    SEALIFT_RETURN_IF_ERROR(signature.status());
    if (!seen.insert(key_id).second) return Malformed("read tuf signature: a key id signs twice");
    envelope.signatures.push_back({.key_id = key_id, .signature = HexDecode(hex).value_or(Bytes{})});
  }
  return envelope;
}

Result<Root> ParseRoot(const Envelope& envelope) {
  SEALIFT_ASSIGN_OR_RETURN(const Common common, ReadCommon(envelope, Role::kRoot, kMaxRootBytes));
  ObjectReader reader(common.value, common.what);
  Root root;
  root.version = common.version;
  root.expires = common.expires;
  // Optional in the specification, false when absent.
  root.consistent_snapshot = reader.Has("consistent_snapshot") && reader.Boolean("consistent_snapshot");
  const json& keys = reader.Object("keys", kMaxKeys);
  const json& roles = reader.Object("roles", 64);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  SEALIFT_ASSIGN_OR_RETURN(root.keys, ReadKeys(keys, common.what));
  for (const Role role : {Role::kRoot, Role::kTargets, Role::kSnapshot, Role::kTimestamp}) {
    ObjectReader all(roles, "tuf root, roles");
    const json& object = all.Object(RoleName(role), 64);
    SEALIFT_RETURN_IF_ERROR(all.status());
    SEALIFT_ASSIGN_OR_RETURN(
        root.roles[role], ReadRoleKeys(object, root.keys, fmt::format("tuf root, role {}", RoleName(role))));
  }
  return root;
}

Result<Targets> ParseTargets(const Envelope& envelope) {
  SEALIFT_ASSIGN_OR_RETURN(const Common common, ReadCommon(envelope, Role::kTargets, kMaxTargetsBytes));
  ObjectReader reader(common.value, common.what);
  Targets targets;
  targets.version = common.version;
  targets.expires = common.expires;
  const json& list = reader.Object("targets", kMaxTargets);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  for (const auto& [name, value] : list.items()) {
    if (name.empty() || name.size() > kMaxNameBytes) {
      return Malformed("read tuf targets: a target's name is empty or too long");
    }
    SEALIFT_ASSIGN_OR_RETURN(Target target, ReadTarget(name, value));
    targets.targets.emplace(name, std::move(target));
  }
  if (reader.Has("delegations")) {
    const json& delegations = reader.Object("delegations", 64);
    SEALIFT_RETURN_IF_ERROR(reader.status());
    SEALIFT_ASSIGN_OR_RETURN(targets.delegations, ReadDelegations(delegations));
  }
  return targets;
}

Result<Snapshot> ParseSnapshot(const Envelope& envelope) {
  SEALIFT_ASSIGN_OR_RETURN(const Common common, ReadCommon(envelope, Role::kSnapshot, kMaxSnapshotBytes));
  ObjectReader reader(common.value, common.what);
  Snapshot snapshot;
  snapshot.version = common.version;
  snapshot.expires = common.expires;
  const json& meta = reader.Object("meta", kMaxMetaFiles);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  for (const auto& [name, value] : meta.items()) {
    SEALIFT_ASSIGN_OR_RETURN(MetaFile file, ReadMetaFile(name, value));
    snapshot.meta.emplace(name, file);
  }
  if (!snapshot.meta.contains("targets.json")) {
    return Malformed("read tuf snapshot: 'targets.json' is missing");
  }
  return snapshot;
}

Result<Timestamp> ParseTimestamp(const Envelope& envelope) {
  SEALIFT_ASSIGN_OR_RETURN(const Common common, ReadCommon(envelope, Role::kTimestamp, kMaxTimestampBytes));
  ObjectReader reader(common.value, common.what);
  Timestamp timestamp;
  timestamp.version = common.version;
  timestamp.expires = common.expires;
  const json& meta = reader.Object("meta", 1);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  const auto snapshot = meta.find("snapshot.json");
  if (snapshot == meta.end()) return Malformed("read tuf timestamp: 'snapshot.json' is missing");
  SEALIFT_ASSIGN_OR_RETURN(timestamp.snapshot, ReadMetaFile("snapshot.json", *snapshot));
  if (reader.Has("x-sealift-signed-at")) {
    const Result<UnixMillis> signed_at = ParseRfc3339(reader.String("x-sealift-signed-at", 32));
    if (!signed_at.ok()) return Malformed("read tuf timestamp: 'x-sealift-signed-at' is not a UTC time");
    timestamp.signed_at = *signed_at;
  }
  if (reader.Has("x-sealift-journal")) {
    timestamp.journal_checkpoint = CompactJson(reader.Object("x-sealift-journal", 32));
    SEALIFT_RETURN_IF_ERROR(reader.status());
  }
  return timestamp;
}

}  // namespace sealift::tuf
