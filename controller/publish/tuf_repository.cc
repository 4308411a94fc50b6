#include "controller/publish/tuf_repository.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "controller/publish/content_collector.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

using tuf::Role;

constexpr std::string_view kTimestampFile = "timestamp.json";
constexpr std::string_view kTargetsFile = "targets.json";
constexpr std::size_t kMaxManifestBytes = 1u << 20;

std::string FileName(std::uint32_t version, Role role) {
  return fmt::format("{}.{}.json", version, tuf::RoleName(role));
}

tuf::MetaFile Listed(std::uint32_t version, std::string_view text) {
  return {.version = version, .length = text.size(), .sha256 = Sha256(AsBytes(text))};
}

// "7.targets.json" and its likes, and "timestamp.json": nothing that could leave the folder.
bool IsMetadataName(std::string_view name) {
  if (name == kTimestampFile) return true;
  const std::size_t dot = name.find('.');
  if (dot == 0 || dot == std::string_view::npos || dot > 10 || name.front() == '0') return false;
  if (name.substr(0, dot).find_first_not_of("0123456789") != std::string_view::npos) return false;
  const std::string_view rest = name.substr(dot);
  return rest == ".root.json" || rest == ".targets.json" || rest == ".snapshot.json";
}

bool HalfPassed(UnixMillis expires, std::chrono::hours lifetime, UnixMillis now) {
  return now + lifetime / 2 >= expires;
}

Status Damaged(const Status& cause) {
  return MakeError(Code::kDataLoss, Reason::kRepositoryDamaged,
                   fmt::format("open TUF repository: {}", Describe(cause)));
}

Status CheckKey(const tuf::Root& root, Role role, const Signer& signer) {
  const std::string id = tuf::Key::FromPublicKey(signer.public_key()).id;
  const tuf::RoleKeys& keys = root.roles.at(role);
  const bool named = std::find(keys.key_ids.begin(), keys.key_ids.end(), id) != keys.key_ids.end();
  if (named && keys.threshold == 1) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kRepositoryKeyUnknown,
                   fmt::format("open TUF repository: root version {} does not let key {} alone sign {}",
                               root.version, id.substr(0, 12), tuf::RoleName(role)));
}

}  // namespace

Result<std::unique_ptr<TufRepository>> TufRepository::Open(TufRepositoryOptions options,
                                                           std::string_view trusted_root,
                                                           OnlineSigners signers, ContentStore& content,
                                                           const Clock& clock) {
  SEALIFT_CHECK(signers.snapshot != nullptr && signers.timestamp != nullptr);
  std::unique_ptr<TufRepository> repository(
      new TufRepository(std::move(options), std::move(signers), content, clock));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(repository->options_.directory));
  SEALIFT_RETURN_IF_ERROR(repository->LoadRoots(trusted_root));
  SEALIFT_RETURN_IF_ERROR(repository->CheckSigners());
  SEALIFT_RETURN_IF_ERROR(repository->LoadCurrent());
  SEALIFT_RETURN_IF_ERROR(repository->LiftVersions());
  return repository;
}

Status TufRepository::LoadRoots(std::string_view trusted_root) {
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope,
                           tuf::ParseEnvelope(trusted_root, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(root_, tuf::ParseRoot(envelope));
  SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, root_, Role::kRoot));
  // Nodes whose image carries an older root need this one too.
  SEALIFT_RETURN_IF_ERROR(Save(FileName(root_.version, Role::kRoot), trusted_root));
  while (root_.version < tuf::kMaxVersion) {
    const std::string name = FileName(root_.version + 1, Role::kRoot);
    const Result<std::string> next = FindRoot(root_.version + 1);
    if (next.status().code() == Code::kNotFound) return OkStatus();
    SEALIFT_RETURN_IF_ERROR(next.status());
    auto verified = VerifyNextRoot(*next);
    if (!verified.ok()) return Damaged(verified.status());
    // A new one is saved before it is used.
    if (!ReadMetadata(name).ok()) SEALIFT_RETURN_IF_ERROR(Save(name, *next));
    root_ = *std::move(verified);
  }
  return OkStatus();
}

Result<std::string> TufRepository::FindRoot(std::uint32_t version) const {
  const std::string name = FileName(version, Role::kRoot);
  Result<std::string> published = ReadMetadata(name);
  if (published.status().code() != Code::kNotFound || options_.newer_roots.empty()) return published;
  return ReadTextFile(options_.newer_roots / name, tuf::kMaxRootBytes);
}

Result<tuf::Root> TufRepository::VerifyNextRoot(std::string_view root_json) const {
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope, tuf::ParseEnvelope(root_json, tuf::kMaxRootBytes));
  SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, root_, Role::kRoot));
  SEALIFT_ASSIGN_OR_RETURN(tuf::Root next, tuf::ParseRoot(envelope));
  SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, next, Role::kRoot));
  if (next.version != root_.version + 1) {
    return MakeError(Code::kFailedPrecondition, Reason::kTufRollback,
                     fmt::format("add root: version {} does not follow {}", next.version, root_.version));
  }
  return next;
}

Status TufRepository::CheckSigners() const {
  SEALIFT_RETURN_IF_ERROR(CheckKey(root_, Role::kSnapshot, *signers_.snapshot));
  return CheckKey(root_, Role::kTimestamp, *signers_.timestamp);
}

// What this process or an earlier one published, each file proven as a client would. Signatures of snapshot
// and timestamp are not asked for: their keys may have been rotated, and both are signed anew then.
Status TufRepository::LoadCurrent() {
  const Result<std::string> timestamp_json = ReadMetadata(kTimestampFile);
  if (timestamp_json.status().code() == Code::kNotFound) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(timestamp_json.status());
  const auto load = [&]() -> Result<Current> {
    Current current;
    SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope timestamp,
                             tuf::ParseEnvelope(*timestamp_json, tuf::kMaxTimestampBytes));
    SEALIFT_ASSIGN_OR_RETURN(current.timestamp, tuf::ParseTimestamp(timestamp));
    SEALIFT_ASSIGN_OR_RETURN(current.snapshot_json,
                             ReadMetadata(FileName(current.timestamp.snapshot.version, Role::kSnapshot)));
    SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope snapshot,
                             tuf::ParseEnvelope(current.snapshot_json, tuf::kMaxSnapshotBytes));
    SEALIFT_ASSIGN_OR_RETURN(current.snapshot, tuf::ParseSnapshot(snapshot));
    const tuf::MetaFile& listed = current.snapshot.meta.at(std::string(kTargetsFile));
    SEALIFT_ASSIGN_OR_RETURN(current.targets_json, ReadMetadata(FileName(listed.version, Role::kTargets)));
    SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope targets,
                             tuf::ParseEnvelope(current.targets_json, tuf::kMaxTargetsBytes));
    SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(targets, root_, Role::kTargets));
    SEALIFT_ASSIGN_OR_RETURN(current.targets, tuf::ParseTargets(targets));
    if (current.targets.version != listed.version ||
        current.snapshot.version != current.timestamp.snapshot.version) {
      return MakeError(Code::kDataLoss, Reason::kTufMixAndMatch, "versions do not fit together");
    }
    return current;
  };
  Result<Current> current = load();
  if (!current.ok()) return Damaged(current.status());
  SetCurrent(*std::move(current));
  return OkStatus();
}

// Signed at once: nodes refuse everything below what they saw before the restore. Lifting twice, after a
// power cut, does no harm.
Status TufRepository::LiftVersions() {
  const std::lock_guard publishing(publishing_);
  const std::filesystem::path file = options_.directory / kLiftFile;
  const Result<std::string> text = ReadTextFile(file, 64);
  if (text.status().code() == Code::kNotFound) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(text.status());
  const std::shared_ptr<const Current> before = current();
  if (before == nullptr) return OkStatus();
  std::uint32_t above = 0;
  const auto parsed = std::from_chars(text->data(), text->data() + text->size(), above);
  if (parsed.ec != std::errc() || above > tuf::kMaxVersion / 2) {
    return MakeError(Code::kDataLoss, Reason::kRepositoryDamaged,
                     fmt::format("open TUF repository: '{}' is no version", file.string()));
  }
  Current next = *before;
  next.snapshot.version = std::max(next.snapshot.version, above);
  next.timestamp.version = std::max(next.timestamp.version, above);
  SEALIFT_RETURN_IF_ERROR(SignSnapshot(next));
  SEALIFT_RETURN_IF_ERROR(SignTimestamp(next));
  SetCurrent(std::move(next));
  std::error_code error;
  std::filesystem::remove(file, error);
  log::Info("metadata versions were lifted after a restore",
            {{"version", std::to_string(current()->timestamp.version)}});
  return SyncDirectory(options_.directory);
}

Status TufRepository::AddRoot(std::string_view root_json) {
  const std::lock_guard publishing(publishing_);
  return TakeRoot(root_json);
}

Status TufRepository::TakeRoot(std::string_view root_json) {
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope, tuf::ParseEnvelope(root_json, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Root candidate, tuf::ParseRoot(envelope));
  const std::string name = FileName(candidate.version, Role::kRoot);
  if (candidate.version <= root_.version) {
    const Result<std::string> present = ReadMetadata(name);
    if (present.ok() && *present == root_json) return OkStatus();
  }
  SEALIFT_RETURN_IF_ERROR(CheckKey(candidate, Role::kSnapshot, *signers_.snapshot));
  SEALIFT_RETURN_IF_ERROR(CheckKey(candidate, Role::kTimestamp, *signers_.timestamp));
  SEALIFT_ASSIGN_OR_RETURN(tuf::Root next, VerifyNextRoot(root_json));
  // Saved before it is used, so that what fails here can be tried again.
  SEALIFT_RETURN_IF_ERROR(Save(name, root_json));
  root_ = std::move(next);
  return OkStatus();
}

Result<tuf::Targets> TufRepository::CheckTargets(const tuf::Envelope& envelope, const Current* current,
                                                 const std::string* alone) const {
  SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, root_, Role::kTargets));
  SEALIFT_ASSIGN_OR_RETURN(tuf::Targets targets, tuf::ParseTargets(envelope));
  if (targets.expires <= clock_.Now()) {
    return MakeError(Code::kFailedPrecondition, Reason::kTufExpired,
                     fmt::format("publish targets version {}: they expired at {}", targets.version,
                                 FormatRfc3339(targets.expires)));
  }
  const tuf::Targets none{.version = 0, .expires = {}, .targets = {}};
  SEALIFT_RETURN_IF_ERROR(CheckSuccessor(current == nullptr ? none : current->targets, targets));
  SEALIFT_RETURN_IF_ERROR(CheckContent(targets, current, alone));
  return targets;
}

// New targets only: the others were checked when they came, and are verified at each read anyway. Each is
// asked for with Has, so that a collection beside this leaves it until the new metadata stands.
Status TufRepository::CheckContent(const tuf::Targets& targets, const Current* current,
                                   const std::string* alone) const {
  std::set<std::string> manifests;
  for (const ListedRelease& release : ListReleases(targets))
    manifests.insert(ManifestTargetName(release.channel, release.version));
  for (const auto& [name, target] : targets.targets) {
    const bool imported = alone != nullptr && name.starts_with(*alone);
    if (!imported && current != nullptr && current->targets.targets.contains(name)) continue;
    if (alone != nullptr && !imported && !manifests.contains(name)) continue;
    const Status here = CheckHere(name, target);
    if (!here.ok()) return Annotate(here, fmt::format("publish targets version {}", targets.version));
  }
  for (const ListedRelease& release : ListReleases(targets)) {
    const std::string name = ManifestTargetName(release.channel, release.version);
    // Of a release that was withdrawn the manifest alone is listed.
    if (release.withdrawn.has_value()) continue;
    if (current != nullptr && current->targets.targets.contains(name)) continue;
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, content_.ReadAll(release.id.digest, kMaxManifestBytes));
    SEALIFT_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(AsText(bytes)));
    SEALIFT_RETURN_IF_ERROR(CheckManifestListed(manifest, release, targets));
  }
  return OkStatus();
}

Status TufRepository::CheckHere(const std::string& name, const tuf::Target& target) const {
  const auto missing = [&](const Sha256Digest& digest) {
    return MakeError(Code::kFailedPrecondition, Reason::kContentUnknown,
                     fmt::format("look for the content of '{}': {} is not in the store", name, digest.hex()));
  };
  const bool here = content_.Has(target.sha256);
  const Result<std::uint64_t> size = content_.Size(target.sha256);
  if (!here || !size.ok() || *size != target.length) return missing(target.sha256);
  tuf::Targets alone{.version = 0, .expires = {}, .targets = {}};
  alone.targets.emplace(name, target);
  // Of a content list, what it names.
  SEALIFT_ASSIGN_OR_RETURN(const auto named, ReachableContent({std::move(alone)}, content_));
  for (const Sha256Digest& digest : named)
    if (!content_.Has(digest)) return missing(digest);
  return OkStatus();
}

Status TufRepository::CheckComplete(std::string_view channel, std::string_view version) const {
  const std::shared_ptr<const Current> present = current();
  if (present == nullptr) return OkStatus();
  const std::string release = FileTargetName(channel, version, "");
  for (const auto& [name, target] : present->targets.targets)
    if (name.starts_with(release)) SEALIFT_RETURN_IF_ERROR(CheckHere(name, target));
  return OkStatus();
}

Status TufRepository::SignSnapshot(Current& current) {
  ++current.snapshot.version;
  current.snapshot.expires = clock_.Now() + options_.snapshot_lifetime;
  current.snapshot.meta[std::string(kTargetsFile)] = Listed(current.targets.version, current.targets_json);
  tuf::Envelope envelope = tuf::MakeEnvelope(current.snapshot);
  SEALIFT_RETURN_IF_ERROR(tuf::SignMetadata(Role::kSnapshot, envelope, *signers_.snapshot,
                                            fmt::format("version {}", current.snapshot.version)));
  current.snapshot_json = envelope.Serialize();
  return Save(FileName(current.snapshot.version, Role::kSnapshot), current.snapshot_json);
}

// The last file to change: with it the publication stands.
Status TufRepository::SignTimestamp(Current& current) {
  ++current.timestamp.version;
  const UnixMillis now = clock_.Now();
  current.timestamp.expires = now + options_.timestamp_lifetime;
  current.timestamp.signed_at = now;
  current.timestamp.snapshot = Listed(current.snapshot.version, current.snapshot_json);
  if (options_.journal_checkpoint) current.timestamp.journal_checkpoint = options_.journal_checkpoint();
  tuf::Envelope envelope = tuf::MakeEnvelope(current.timestamp);
  SEALIFT_RETURN_IF_ERROR(tuf::SignMetadata(Role::kTimestamp, envelope, *signers_.timestamp,
                                            fmt::format("version {}", current.timestamp.version)));
  return Save(kTimestampFile, envelope.Serialize());
}

Result<PublishedVersions> TufRepository::PublishTargets(std::string_view targets_json) {
  const std::lock_guard publishing(publishing_);
  return Publish(targets_json, nullptr);
}

Result<PublishedVersions> TufRepository::ImportRelease(const ReleaseImport& release) {
  const std::lock_guard publishing(publishing_);
  for (const std::string& root_json : release.roots) {
    SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope, tuf::ParseEnvelope(root_json, tuf::kMaxRootBytes));
    SEALIFT_ASSIGN_OR_RETURN(const tuf::Root root, tuf::ParseRoot(envelope));
    if (root.version > root_.version) SEALIFT_RETURN_IF_ERROR(TakeRoot(root_json));
  }
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope,
                           tuf::ParseEnvelope(release.targets_json, tuf::kMaxTargetsBytes));
  SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, root_, Role::kTargets));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Targets targets, tuf::ParseTargets(envelope));
  SEALIFT_ASSIGN_OR_RETURN(const ListedRelease brought,
                           FindRelease(targets, release.channel, release.version));
  const std::shared_ptr<const Current> present = current();
  const bool newer = present == nullptr || targets.version > present->targets.version;
  ListedRelease listed = brought;
  if (!newer) {
    SEALIFT_ASSIGN_OR_RETURN(listed, FindRelease(present->targets, release.channel, release.version));
  }
  if (listed.withdrawn.has_value()) {
    return MakeError(Code::kFailedPrecondition, Reason::kReleaseWithdrawn,
                     fmt::format("import release {} {}: it was withdrawn: {}", release.channel,
                                 release.version, listed.withdrawn->because));
  }
  if (listed.id != brought.id) {
    return MakeError(Code::kFailedPrecondition, Reason::kReleaseChanged,
                     fmt::format("import release {} {}: another one of that version is published here",
                                 release.channel, release.version));
  }
  const std::string prefix = FileTargetName(release.channel, release.version, "");
  if (newer) return Publish(release.targets_json, &prefix);
  for (const auto& [name, target] : present->targets.targets)
    if (name.starts_with(prefix)) SEALIFT_RETURN_IF_ERROR(CheckHere(name, target));
  return PublishedVersions{.targets = present->targets.version,
                           .snapshot = present->snapshot.version,
                           .timestamp = present->timestamp.version};
}

Result<PublishedVersions> TufRepository::Publish(std::string_view targets_json, const std::string* alone) {
  const std::shared_ptr<const Current> before = current();
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope,
                           tuf::ParseEnvelope(targets_json, tuf::kMaxTargetsBytes));
  Current next;
  if (before != nullptr) {
    next = *before;
  } else {
    next.snapshot.version = 0;
    next.timestamp.version = 0;
  }
  SEALIFT_ASSIGN_OR_RETURN(next.targets, CheckTargets(envelope, before.get(), alone));
  next.targets_json = targets_json;
  SEALIFT_RETURN_IF_ERROR(Save(FileName(next.targets.version, Role::kTargets), targets_json));
  SEALIFT_RETURN_IF_ERROR(SignSnapshot(next));
  SEALIFT_RETURN_IF_ERROR(SignTimestamp(next));
  const PublishedVersions versions{.targets = next.targets.version,
                                   .snapshot = next.snapshot.version,
                                   .timestamp = next.timestamp.version};
  SetCurrent(std::move(next));
  log::Info("published targets", {{"version", std::to_string(versions.targets)}});
  return versions;
}

Result<bool> TufRepository::RefreshIfDue() {
  const std::lock_guard publishing(publishing_);
  const std::shared_ptr<const Current> before = current();
  if (before == nullptr) return false;
  const UnixMillis now = clock_.Now();
  SEALIFT_ASSIGN_OR_RETURN(const std::string timestamp_json, ReadMetadata(kTimestampFile));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope timestamp,
                           tuf::ParseEnvelope(timestamp_json, tuf::kMaxTimestampBytes));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope snapshot,
                           tuf::ParseEnvelope(before->snapshot_json, tuf::kMaxSnapshotBytes));
  const bool snapshot_due = HalfPassed(before->snapshot.expires, options_.snapshot_lifetime, now) ||
                            !tuf::VerifyThreshold(snapshot, root_, Role::kSnapshot).ok();
  const bool timestamp_due = snapshot_due ||
                             HalfPassed(before->timestamp.expires, options_.timestamp_lifetime, now) ||
                             !tuf::VerifyThreshold(timestamp, root_, Role::kTimestamp).ok();
  if (!timestamp_due) return false;
  Current next = *before;
  if (snapshot_due) SEALIFT_RETURN_IF_ERROR(SignSnapshot(next));
  SEALIFT_RETURN_IF_ERROR(SignTimestamp(next));
  SetCurrent(std::move(next));
  return true;
}

Result<std::string> TufRepository::ReadMetadata(std::string_view name) const {
  if (!IsMetadataName(name)) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "read metadata: no metadata file has that name");
  }
  Result<std::string> text = ReadTextFile(options_.directory / name, tuf::kMaxTargetsBytes);
  if (text.status().code() == Code::kNotFound) {
    return MakeError(Code::kNotFound, Reason::kRepositoryEmpty,
                     fmt::format("read metadata '{}': there is no such file", name));
  }
  return text;
}

std::vector<ListedRelease> TufRepository::Releases() const {
  const std::shared_ptr<const Current> present = current();
  return present == nullptr ? std::vector<ListedRelease>{} : ListReleases(present->targets);
}

Result<PublishedRelease> TufRepository::LoadRelease(std::string_view channel,
                                                    std::string_view version) const {
  const std::shared_ptr<const Current> present = current();
  const tuf::Targets none{.version = 0, .expires = {}, .targets = {}};
  SEALIFT_ASSIGN_OR_RETURN(ListedRelease listed,
                           FindRelease(present == nullptr ? none : present->targets, channel, version));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, content_.ReadAll(listed.id.digest, kMaxManifestBytes));
  SEALIFT_ASSIGN_OR_RETURN(Manifest manifest, ParseManifest(AsText(bytes)));
  return PublishedRelease(std::move(listed), std::move(manifest));
}

Status TufRepository::Save(std::string_view name, std::string_view text) const {
  return WriteFileAtomically(options_.directory / name, AsBytes(text));
}

std::shared_ptr<const TufRepository::Current> TufRepository::current() const {
  const std::lock_guard lock(mutex_);
  return current_;
}

void TufRepository::SetCurrent(Current current) {
  auto fresh = std::make_shared<const Current>(std::move(current));
  const std::lock_guard lock(mutex_);
  current_ = std::move(fresh);
}

}  // namespace sealift::controller
