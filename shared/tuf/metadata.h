// TUF metadata (The Update Framework specification 1.0, section 4): models, JSON forms, signatures.
//
// Plain values and pure functions: thread-safe, copies are independent. What is hashed and signed is always
// the canonical JSON of the "signed" member as it arrived, members unknown to this build included.
//
// Making one:   Envelope file = MakeEnvelope(root);
//               SignMetadata(Role::kRoot, file, signer);  WriteFileAtomically(path, file.Serialize());
// Reading one:  ParseEnvelope(bytes, kMaxRootBytes), ParseRoot(envelope), VerifyThreshold(envelope, root,
// role).
//
// Who may be asked for a target beyond the top-level targets role is in delegations.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"
#include "shared/crypto/public_key.h"
#include "shared/crypto/signer.h"
#include "shared/tuf/verification_key.h"

namespace sealift::tuf {

enum class Role { kRoot, kTargets, kSnapshot, kTimestamp };
// "root", "targets", "snapshot", "timestamp".
std::string_view RoleName(Role role);

// Largest files a client takes (section 5: "W", "X", "Y", "Z").
inline constexpr std::size_t kMaxRootBytes = 512u << 10;
inline constexpr std::size_t kMaxTimestampBytes = 16u << 10;
inline constexpr std::size_t kMaxSnapshotBytes = 2u << 20;
inline constexpr std::size_t kMaxTargetsBytes = 8u << 20;
// Versions are 1 to this. The room above it keeps "version + 1" free of overflow.
inline constexpr std::uint32_t kMaxVersion = 0x7fffffff;

// A public key as metadata lists it. `id` is the name by which the metadata calls it. Ours are the SHA-256 of
// the canonical form of `key_json` (section 4.2); others are taken as they come, since the file that lists
// the key is signed as a whole and keys are counted, not ids.
struct Key {
  std::string id;
  // The key object as it arrived, compact.
  std::string key_json;
  // Absent for a key this build cannot verify with: such a key is carried, never counted.
  std::optional<VerificationKey> verifier;

  // P-256: keytype "ecdsa", scheme "ecdsa-sha2-nistp256". RSA (tokens without P-256): "rsa",
  // "rsa-pkcs1v15-sha256". P-384: "ecdsa", "ecdsa-sha2-nistp384". The keyval is PEM.
  static Key FromPublicKey(const PublicKey& key);
};

struct RoleKeys {
  // Distinct.
  std::vector<std::string> key_ids;
  std::uint32_t threshold = 1;
};

struct Root {
  std::uint32_t version = 1;
  UnixMillis expires;
  bool consistent_snapshot = true;
  std::map<std::string, Key> keys;
  // All four, always.
  std::map<Role, RoleKeys> roles;
};

// What snapshot and timestamp say about another metadata file.
struct MetaFile {
  std::uint32_t version = 1;
  std::optional<std::uint64_t> length;
  std::optional<Sha256Digest> sha256;
  // Digests are listed, but none that this build knows: then no file is the one listed.
  bool foreign_digests = false;
};

struct Timestamp {
  std::uint32_t version = 1;
  UnixMillis expires;
  MetaFile snapshot;
  // When the repository signed it, under "x-sealift-signed-at": a node's time never runs before it.
  std::optional<UnixMillis> signed_at;
  // The newest checkpoint of the signing journal, compact JSON of an object; empty when there is none.
  // Carried under "x-sealift-journal", which other clients ignore.
  std::string journal_checkpoint;
};

struct Snapshot {
  std::uint32_t version = 1;
  UnixMillis expires;
  // By file name without version: "targets.json" is always there.
  std::map<std::string, MetaFile> meta;
};

struct Target {
  std::uint64_t length = 0;
  Sha256Digest sha256;
  // Only digests that this build does not know are listed: the target is there and nothing can be it.
  bool foreign_digests = false;
  // Compact JSON of the "custom" object; empty when there is none.
  std::string custom;
};

// A role that a targets role trusts with some of the targets (section 4.5).
struct DelegatedRole {
  // Any text but the names of the four roles. In file names and URLs it is percent-encoded.
  std::string name;
  RoleKeys keys;
  // When this role is asked and does not know the target, nobody after it is.
  bool terminating = false;
  // One of the two is there: patterns of target paths, or beginnings of the SHA-256 of target paths in hex.
  std::optional<std::vector<std::string>> paths;
  std::optional<std::vector<std::string>> path_hash_prefixes;
};

// 2^bit_length roles in one entry, each with the targets whose path's SHA-256 begins with its number (TAP
// 15).
struct SuccinctRoles {
  RoleKeys keys;
  // 1 to 32.
  std::uint32_t bit_length = 1;
  std::string name_prefix;
};

struct Delegations {
  std::map<std::string, Key> keys;
  // In order of preference. Not beside `succinct`.
  std::vector<DelegatedRole> roles;
  std::optional<SuccinctRoles> succinct;
};

struct Targets {
  std::uint32_t version = 1;
  UnixMillis expires;
  std::map<std::string, Target> targets;
  std::optional<Delegations> delegations;
};

struct MetadataSignature {
  std::string key_id;
  // DER for ECDSA; hex in JSON.
  Bytes signature;
};

// One metadata file: what is signed, and who signed.
struct Envelope {
  // "signed" as JSON, compact.
  std::string signed_json;
  // Its canonical form: what signatures are over.
  std::string signed_bytes;
  // At most one a key.
  std::vector<MetadataSignature> signatures;

  // The whole file, compact.
  std::string Serialize() const;
};

Envelope MakeEnvelope(const Root& root);
Envelope MakeEnvelope(const Targets& targets);
Envelope MakeEnvelope(const Snapshot& snapshot);
Envelope MakeEnvelope(const Timestamp& timestamp);

// Version 1 or a successor with one key and threshold 1 for each role. `keys` names all four roles; several
// may share a key.
Root MakeRoot(std::uint32_t version, UnixMillis expires, const std::map<Role, PublicKey>& keys);

// Adds the signature of `signer`, replacing an earlier one by the same key. One private-key operation, with
// intent "tuf <role> <note>"; `note` says which: "version 7".
Status SignMetadata(Role role, Envelope& envelope, Signer& signer, std::string_view note);

// Bounded in bytes, depth and number of signatures; strict about the shape of the file. A signature that is
// no hex is kept as an empty one, which no key verifies. Errors: INVALID_ARGUMENT/TUF_TOO_LARGE,
// INVALID_ARGUMENT/TUF_MALFORMED.
Result<Envelope> ParseEnvelope(std::string_view json, std::size_t max_bytes);

// Each checks "_type", spec_version 1.x, version, expires and every member it knows. They prove nothing about
// who signed. Errors: INVALID_ARGUMENT/TUF_MALFORMED, FAILED_PRECONDITION/TUF_SPEC_UNSUPPORTED.
Result<Root> ParseRoot(const Envelope& envelope);
Result<Targets> ParseTargets(const Envelope& envelope);
Result<Snapshot> ParseSnapshot(const Envelope& envelope);
Result<Timestamp> ParseTimestamp(const Envelope& envelope);

// At least `threshold` distinct keys that `delegator` lists for `role` signed. Signatures by other keys, and
// wrong ones, do not count and do no harm (section 5.3.4 and its likes).
// Errors: UNAUTHENTICATED/TUF_SIGNATURE_THRESHOLD.
Status VerifyThreshold(const Envelope& envelope, const Root& delegator, Role role);
// The same for a role that is delegated with these keys; `what` names it in messages: "tuf role 'site-a'".
Status VerifyThreshold(const Envelope& envelope, const std::map<std::string, Key>& keys,
                       const RoleKeys& allowed, std::string_view what);

}  // namespace sealift::tuf
