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
constexpr std::size_t kMaxMetaFiles = 16384;
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

bool IsHexId(const std::string& id) {
  return id.size() == 64 && id.find_first_not_of("0123456789abcdef") == std::string::npos;
}

Result<Key> ReadKey(const std::string& id, const json& value) {
  ObjectReader reader(value, "tuf key " + id);
  const std::string key_type = reader.String("keytype", 64);
  const std::string scheme = reader.String("scheme", 64);
  ObjectReader key_value(reader.Object("keyval", 16), "tuf keyval " + id);
  SEALIFT_RETURN_IF_ERROR(reader.status());
  Key key;
  key.key_json = CompactJson(value);
  SEALIFT_ASSIGN_OR_RETURN(const std::string canonical, CanonicalJson(value));
  key.id = Sha256(AsBytes(canonical)).hex();
  if (key.id != id) {
    return Malformed(fmt::format("read tuf root: key id {} is not the digest of its key ({})", id, key.id));
  }
  // Securesystemslib writes the scheme's name as key type in metadata of its older versions.
  const bool p256 = scheme == "ecdsa-sha2-nistp256" && (key_type == "ecdsa" || key_type == scheme);
  const bool p384 = scheme == "ecdsa-sha2-nistp384" && (key_type == "ecdsa" || key_type == scheme);
  const bool rsa = scheme == "rsa-pkcs1v15-sha256" && key_type == "rsa";
  if (!p256 && !p384 && !rsa) return key;
  const std::string pem = key_value.String("public", kMaxKeyBytes);
  SEALIFT_RETURN_IF_ERROR(key_value.status());
  const Result<PublicKey> public_key = PublicKey::FromPem(pem);
  const KeyType wanted = p256 ? KeyType::kEcP256 : p384 ? KeyType::kEcP384 : KeyType::kRsa;
  if (!public_key.ok() || public_key->type() != wanted) {
    return Malformed(fmt::format("read tuf key {}: its PEM is not a {} key", id, scheme));
  }
  key.public_key = *public_key;
  key.scheme = public_key->default_scheme();
  return key;
}

Result<RoleKeys> ReadRoleKeys(Role role, const json& roles, const std::map<std::string, Key>& keys) {
  const std::string what = fmt::format("tuf root, role {}", RoleName(role));
  ObjectReader all(roles, "tuf root, roles");
  ObjectReader reader(all.Object(RoleName(role), 64), what);
  SEALIFT_RETURN_IF_ERROR(all.status());
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
  if (result.key_ids.size() < result.threshold) {
    return Malformed(fmt::format("read {}: fewer keys than its threshold", what));
  }
  return result;
}

Result<MetaFile> ReadMetaFile(const std::string& name, const json& value) {
  ObjectReader reader(value, "tuf meta '" + name + "'");
  MetaFile file;
  file.version = static_cast<std::uint32_t>(reader.Unsigned("version", 1, kMaxVersion));
  if (reader.Has("length")) file.length = reader.Unsigned("length", 1, kMaxLength);
  if (reader.Has("hashes")) {
    ObjectReader hashes(reader.Object("hashes", 16), "tuf meta '" + name + "', hashes");
    file.sha256 = hashes.Digest("sha256");
    SEALIFT_RETURN_IF_ERROR(hashes.status());
  }
  SEALIFT_RETURN_IF_ERROR(reader.status());
  return file;
}

Result<Target> ReadTarget(const std::string& name, const json& value) {
  ObjectReader reader(value, "tuf target '" + name + "'");
  Target target;
  target.length = reader.Unsigned("length", 0, kMaxLength);
  ObjectReader hashes(reader.Object("hashes", 16), "tuf target '" + name + "', hashes");
  target.sha256 = hashes.Digest("sha256");
  if (reader.Has("custom")) {
    target.custom = CompactJson(reader.Object("custom", 256));
  }
  SEALIFT_RETURN_IF_ERROR(reader.status());
  SEALIFT_RETURN_IF_ERROR(hashes.status());
  return target;
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
    Result<Bytes> bytes = HexDecode(hex);
    if (!bytes.ok()) return Malformed("read tuf signature: 'sig' is not hex");
    envelope.signatures.push_back({.key_id = key_id, .signature = *std::move(bytes)});
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
  for (const auto& [id, value] : keys.items()) {
    if (!IsHexId(id)) return Malformed("read tuf root: a key id is not a SHA-256 in hex");
    SEALIFT_ASSIGN_OR_RETURN(Key key, ReadKey(id, value));
    root.keys.emplace(id, std::move(key));
  }
  for (const Role role : {Role::kRoot, Role::kTargets, Role::kSnapshot, Role::kTimestamp}) {
    SEALIFT_ASSIGN_OR_RETURN(root.roles[role], ReadRoleKeys(role, roles, root.keys));
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
