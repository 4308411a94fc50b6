#include "shared/tuf/cycle.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::tuf {
namespace {

constexpr char kTimestampFile[] = "timestamp.json";
constexpr char kSnapshotFile[] = "snapshot.json";
constexpr char kTargetsFile[] = "targets.json";
// There while a change of timestamp or snapshot keys was stored but its consequence (5.3.11) was not drawn
// yet, so that a power cut between the two loses nothing.
constexpr char kRotatedFile[] = "rotated.json";

Status Rollback(std::string_view message) {
  return MakeError(Code::kFailedPrecondition, Reason::kTufRollback, message);
}

Status MixAndMatch(std::string_view message) {
  return MakeError(Code::kFailedPrecondition, Reason::kTufMixAndMatch, message);
}

// A key was taken away. One more key, or another threshold, takes nothing from whoever has the present ones.
bool KeysRotated(const RoleKeys& before, const RoleKeys& after) {
  return std::any_of(before.key_ids.begin(), before.key_ids.end(), [&](const std::string& id) {
    return std::find(after.key_ids.begin(), after.key_ids.end(), id) == after.key_ids.end();
  });
}

// Length and digest as the listing file has them, where it has them (5.5.2, 5.6.2).
Status CheckListed(std::string_view what, std::string_view text, const MetaFile& listed) {
  const bool length_fits = !listed.length.has_value() || *listed.length == text.size();
  const bool digest_fits =
      !listed.foreign_digests && (!listed.sha256.has_value() || *listed.sha256 == Sha256(AsBytes(text)));
  if (length_fits && digest_fits) return OkStatus();
  return MixAndMatch(
      fmt::format("verify {}: its {} is not the one listed", what, length_fits ? "digest" : "length"));
}

Status CheckListedVersion(std::string_view what, std::uint32_t version, const MetaFile& listed) {
  if (version == listed.version) return OkStatus();
  return MixAndMatch(
      fmt::format("verify {}: version {} is not the listed {}", what, version, listed.version));
}

std::string What(Role role) { return fmt::format("tuf {}", RoleName(role)); }

}  // namespace

Result<std::string> Cycle::Download(const std::string& name, std::size_t max_bytes) {
  Result<std::string> text = source_.Fetch(name, max_bytes);
  if (!text.ok()) return Annotate(text.status(), fmt::format("fetch '{}'", name));
  if (text->size() <= max_bytes) return text;
  return MakeError(Code::kInvalidArgument, Reason::kTufTooLarge,
                   fmt::format("fetch '{}': {} bytes are more than {}", name, text->size(), max_bytes));
}

Authority Cycle::TopLevel(Role role) const {
  return {.keys = root.keys, .allowed = root.roles.at(role), .what = What(role)};
}

Result<std::string> Cycle::DownloadListed(std::string_view name, const MetaFile& listed,
                                          std::size_t max_bytes) {
  const std::string file = root.consistent_snapshot ? fmt::format("{}.{}.json", listed.version, name)
                                                    : fmt::format("{}.json", name);
  if (listed.length.has_value() && *listed.length < max_bytes) {
    max_bytes = static_cast<std::size_t>(*listed.length);
  }
  return Download(file, max_bytes);
}

Status Cycle::CheckExpiry(std::string_view what, std::uint32_t version, UnixMillis expires) const {
  if (expires > start_) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kTufExpired,
                   fmt::format("verify {}: version {} expired at {}, it is {}", what, version,
                               FormatRfc3339(expires), FormatRfc3339(start_)));
}

// 5.3.4 and 5.3.5 for a candidate that follows `root`.
Result<Root> Cycle::VerifyNextRoot(std::string_view text, std::size_t max_bytes) const {
  SEALIFT_ASSIGN_OR_RETURN(const Envelope envelope, ParseEnvelope(text, max_bytes));
  SEALIFT_RETURN_IF_ERROR(VerifyThreshold(envelope, root, Role::kRoot));
  SEALIFT_ASSIGN_OR_RETURN(Root next, ParseRoot(envelope));
  SEALIFT_RETURN_IF_ERROR(VerifyThreshold(envelope, next, Role::kRoot));
  if (next.version != root.version + 1) {
    return Rollback(
        fmt::format("verify tuf root: version {} does not follow {}", next.version, root.version));
  }
  return next;
}

// 5.2, and the roots that earlier cycles stored, each proven by the one before.
Status Cycle::LoadRoot(std::string_view trusted_root) {
  SEALIFT_ASSIGN_OR_RETURN(const Envelope envelope, ParseEnvelope(trusted_root, kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(root, ParseRoot(envelope));
  SEALIFT_RETURN_IF_ERROR(VerifyThreshold(envelope, root, Role::kRoot));
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<std::string> rotated, store_.Load(kRotatedFile));
  keys_rotated_ = rotated.has_value();
  while (root.version < kMaxVersion) {
    const std::string name = fmt::format("{}.root.json", root.version + 1);
    SEALIFT_ASSIGN_OR_RETURN(const std::optional<std::string> stored, store_.Load(name));
    if (!stored.has_value()) break;
    Result<Root> next = VerifyNextRoot(*stored, kMaxRootBytes);
    if (!next.ok()) {
      log::Warning("stored root is not usable, fetching it again",
                   {{"reason", std::string(ReasonId(Reason::kTufStateDamaged))},
                    {"path", name},
                    {"error", Describe(next.status())}});
      break;
    }
    root = *std::move(next);
  }
  return OkStatus();
}

// 5.3.7
Status Cycle::AcceptRoot(Root next) {
  const bool rotated = KeysRotated(root.roles.at(Role::kTimestamp), next.roles.at(Role::kTimestamp)) ||
                       KeysRotated(root.roles.at(Role::kSnapshot), next.roles.at(Role::kSnapshot));
  if (rotated && !keys_rotated_) {
    SEALIFT_RETURN_IF_ERROR(store_.Store(kRotatedFile, "{}"));
    keys_rotated_ = true;
  }
  root = std::move(next);
  return OkStatus();
}

// 5.3
Status Cycle::UpdateRoot() {
  for (std::uint32_t taken = 0; taken < options_.max_root_rotations && root.version < kMaxVersion; ++taken) {
    const std::string name = fmt::format("{}.root.json", root.version + 1);
    const Result<std::string> text = Download(name, kMaxRootBytes);
    if (text.status().code() == Code::kNotFound) break;
    SEALIFT_RETURN_IF_ERROR(text.status());
    Result<Root> next = VerifyNextRoot(*text, kMaxRootBytes);
    if (!next.ok()) return Annotate(next.status(), fmt::format("take '{}'", name));
    SEALIFT_RETURN_IF_ERROR(AcceptRoot(*std::move(next)));
    SEALIFT_RETURN_IF_ERROR(store_.Store(name, *text));  // 5.3.8
  }
  SEALIFT_RETURN_IF_ERROR(CheckExpiry(What(Role::kRoot), root.version, root.expires));  // 5.3.10
  if (keys_rotated_) {                                                                  // 5.3.11
    SEALIFT_RETURN_IF_ERROR(store_.Remove(kTimestampFile));
    SEALIFT_RETURN_IF_ERROR(store_.Remove(kSnapshotFile));
    SEALIFT_RETURN_IF_ERROR(store_.Remove(kRotatedFile));
    keys_rotated_ = false;
  }
  return OkStatus();
}

template <typename T>
Result<std::optional<T>> Cycle::LoadStored(const std::string& name, const Authority& authority,
                                           Result<T> (*parse)(const Envelope&), const MetaFile* listed) {
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<std::string> text, store_.Load(name));
  if (!text.has_value()) return std::optional<T>();
  const auto prove = [&]() -> Result<T> {
    if (listed != nullptr) SEALIFT_RETURN_IF_ERROR(CheckListed(authority.what, *text, *listed));
    SEALIFT_ASSIGN_OR_RETURN(const Envelope envelope, ParseEnvelope(*text, kMaxTargetsBytes));
    SEALIFT_RETURN_IF_ERROR(VerifyThreshold(envelope, authority.keys, authority.allowed, authority.what));
    SEALIFT_ASSIGN_OR_RETURN(T value, parse(envelope));
    if (listed != nullptr) {
      SEALIFT_RETURN_IF_ERROR(CheckListedVersion(authority.what, value.version, *listed));
    }
    return value;
  };
  Result<T> value = prove();
  if (value.ok()) return std::optional<T>(*std::move(value));
  // Usual after a change of keys or a new publication, so no warning.
  log::Debug("stored metadata is not used", {{"path", name}, {"error", Describe(value.status())}});
  return std::optional<T>();
}

// 5.4.3
Status Cycle::CheckTimestampRollback(const Timestamp& candidate) const {
  if (!timestamp.has_value()) return OkStatus();
  if (candidate.version < timestamp->version) {
    return Rollback(fmt::format("verify tuf timestamp: version {} is below {} seen before", candidate.version,
                                timestamp->version));
  }
  if (candidate.snapshot.version < timestamp->snapshot.version) {
    return Rollback(fmt::format("verify tuf timestamp: its snapshot version {} is below {} seen before",
                                candidate.snapshot.version, timestamp->snapshot.version));
  }
  return OkStatus();
}

// 5.4
Status Cycle::UpdateTimestamp() {
  SEALIFT_ASSIGN_OR_RETURN(
      timestamp, LoadStored<Timestamp>(kTimestampFile, TopLevel(Role::kTimestamp), ParseTimestamp, nullptr));
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, Download(kTimestampFile, kMaxTimestampBytes));
  SEALIFT_ASSIGN_OR_RETURN(const Envelope envelope, ParseEnvelope(text, kMaxTimestampBytes));
  SEALIFT_RETURN_IF_ERROR(VerifyThreshold(envelope, root, Role::kTimestamp));  // 5.4.2
  SEALIFT_ASSIGN_OR_RETURN(Timestamp fresh, ParseTimestamp(envelope));
  SEALIFT_RETURN_IF_ERROR(CheckTimestampRollback(fresh));
  if (timestamp.has_value() && fresh.version == timestamp->version) {
    // Nothing new: the fetched file is dropped, the trusted one serves on, if it has not expired. The cycle
    // goes on, because an earlier one may have been cut short behind this step.
    return CheckExpiry(What(Role::kTimestamp), timestamp->version, timestamp->expires);
  }
  SEALIFT_RETURN_IF_ERROR(CheckExpiry(What(Role::kTimestamp), fresh.version, fresh.expires));  // 5.4.4
  SEALIFT_RETURN_IF_ERROR(store_.Store(kTimestampFile, text));                                 // 5.4.5
  timestamp = std::move(fresh);
  return OkStatus();
}

// 5.5.5
Status Cycle::CheckSnapshotRollback(const Snapshot& candidate) const {
  if (!snapshot.has_value()) return OkStatus();
  for (const auto& [name, trusted] : snapshot->meta) {
    const auto found = candidate.meta.find(name);
    if (found == candidate.meta.end()) {
      return Rollback(fmt::format("verify tuf snapshot: '{}' is no longer listed", name));
    }
    if (found->second.version < trusted.version) {
      return Rollback(fmt::format("verify tuf snapshot: '{}' version {} is below {} seen before", name,
                                  found->second.version, trusted.version));
    }
  }
  return OkStatus();
}

// 5.5
Status Cycle::UpdateSnapshot() {
  const MetaFile& listed = timestamp->snapshot;
  SEALIFT_ASSIGN_OR_RETURN(
      std::optional<Snapshot> current,
      LoadStored<Snapshot>(kSnapshotFile, TopLevel(Role::kSnapshot), ParseSnapshot, &listed));
  if (current.has_value()) {
    snapshot = std::move(current);
    return CheckExpiry(What(Role::kSnapshot), snapshot->version, snapshot->expires);
  }
  // An older one still says which versions were seen.
  SEALIFT_ASSIGN_OR_RETURN(
      snapshot, LoadStored<Snapshot>(kSnapshotFile, TopLevel(Role::kSnapshot), ParseSnapshot, nullptr));
  SEALIFT_ASSIGN_OR_RETURN(const std::string text,
                           DownloadListed(RoleName(Role::kSnapshot), listed, kMaxSnapshotBytes));  // 5.5.1
  SEALIFT_RETURN_IF_ERROR(CheckListed(What(Role::kSnapshot), text, listed));                       // 5.5.2
  SEALIFT_ASSIGN_OR_RETURN(const Envelope envelope, ParseEnvelope(text, kMaxSnapshotBytes));
  SEALIFT_RETURN_IF_ERROR(VerifyThreshold(envelope, root, Role::kSnapshot));  // 5.5.3
  SEALIFT_ASSIGN_OR_RETURN(Snapshot fresh, ParseSnapshot(envelope));
  SEALIFT_RETURN_IF_ERROR(CheckListedVersion(What(Role::kSnapshot), fresh.version, listed));  // 5.5.4
  SEALIFT_RETURN_IF_ERROR(CheckSnapshotRollback(fresh));
  SEALIFT_RETURN_IF_ERROR(CheckExpiry(What(Role::kSnapshot), fresh.version, fresh.expires));  // 5.5.6
  SEALIFT_RETURN_IF_ERROR(store_.Store(kSnapshotFile, text));                                 // 5.5.7
  snapshot = std::move(fresh);
  return OkStatus();
}

// 5.6
Result<Targets> Cycle::LoadTargets(const std::string& file, std::string_view name, const Authority& authority,
                                   const MetaFile& listed) {
  SEALIFT_ASSIGN_OR_RETURN(std::optional<Targets> stored,
                           LoadStored<Targets>(file, authority, ParseTargets, &listed));
  if (stored.has_value()) {
    SEALIFT_RETURN_IF_ERROR(CheckExpiry(authority.what, stored->version, stored->expires));
    return *std::move(stored);
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, DownloadListed(name, listed, kMaxTargetsBytes));  // 5.6.1
  SEALIFT_RETURN_IF_ERROR(CheckListed(authority.what, text, listed));                                // 5.6.2
  SEALIFT_ASSIGN_OR_RETURN(const Envelope envelope, ParseEnvelope(text, kMaxTargetsBytes));
  SEALIFT_RETURN_IF_ERROR(
      VerifyThreshold(envelope, authority.keys, authority.allowed, authority.what));  // 5.6.3
  SEALIFT_ASSIGN_OR_RETURN(Targets fresh, ParseTargets(envelope));
  SEALIFT_RETURN_IF_ERROR(CheckListedVersion(authority.what, fresh.version, listed));  // 5.6.4
  SEALIFT_RETURN_IF_ERROR(CheckExpiry(authority.what, fresh.version, fresh.expires));  // 5.6.5
  SEALIFT_RETURN_IF_ERROR(store_.Store(file, text));                                   // 5.6.6
  return fresh;
}

Status Cycle::UpdateTargets() {
  SEALIFT_ASSIGN_OR_RETURN(targets, LoadTargets(kTargetsFile, RoleName(Role::kTargets),
                                                TopLevel(Role::kTargets), snapshot->meta.at(kTargetsFile)));
  return OkStatus();
}

Result<UnixMillis> Cycle::StoredTime() {
  SEALIFT_ASSIGN_OR_RETURN(
      timestamp, LoadStored<Timestamp>(kTimestampFile, TopLevel(Role::kTimestamp), ParseTimestamp, nullptr));
  SEALIFT_ASSIGN_OR_RETURN(
      targets, LoadStored<Targets>(kTargetsFile, TopLevel(Role::kTargets), ParseTargets, nullptr));
  if (!timestamp.has_value() || !targets.has_value()) return UnixMillis{};
  return std::min(timestamp->signed_at.value_or(UnixMillis{}), targets->expires);
}

}  // namespace sealift::tuf
