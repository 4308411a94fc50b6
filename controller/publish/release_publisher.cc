#include "controller/publish/release_publisher.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "controller/publish/release_content.h"
#include "shared/base/files.h"
#include "shared/content/download.h"
#include "shared/crypto/hash.h"
#include "shared/tuf/journal_watch.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;
using tuf::Role;

constexpr std::size_t kMaxManifestBytes = 1u << 20;
constexpr std::size_t kUploadBlock = 256u << 10;

struct BuiltRelease {
  Manifest manifest;
  std::string manifest_json;
  std::vector<UploadObject> objects;
};

Status CheckFile(const fs::path& path, const ReleaseFile& file) {
  const Result<Sha256Digest> digest = content::HashFile(path, file.size);
  if (digest.status().code() == Code::kNotFound) {
    return MakeError(Code::kNotFound, Reason::kReleaseFileMissing,
                     fmt::format("read release: '{}' is missing", path.string()));
  }
  if (digest.ok() && *digest == file.digest) return OkStatus();
  if (!digest.ok() && ReasonOf(digest.status()) != Reason::kFileTooLarge) return digest.status();
  return MakeError(
      Code::kFailedPrecondition, Reason::kReleaseChanged,
      fmt::format("read release: '{}' is not the file that release.json describes", path.string()));
}

Result<BuiltRelease> ReadBuild(const PublishRequest& request) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text,
                           ReadTextFile(request.build_directory / "release.json", kMaxManifestBytes));
  BuiltRelease release;
  SEALIFT_ASSIGN_OR_RETURN(release.manifest, ParseManifest(text));
  if (!release.manifest.channel.empty() && release.manifest.channel != request.channel) {
    return MakeError(Code::kFailedPrecondition, Reason::kReleaseManifestInvalid,
                     fmt::format("publish release {}: it was built for channel {}, not {}",
                                 release.manifest.version, release.manifest.channel, request.channel));
  }
  if (request.channel.empty()) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "publish release: no channel is named");
  }
  release.manifest.channel = request.channel;
  release.manifest_json = SerializeManifest(release.manifest);
  // Also refuses a channel that is none.
  SEALIFT_RETURN_IF_ERROR(ParseManifest(release.manifest_json).status());
  for (const ReleaseFile& file : release.manifest.files) {
    const fs::path path = request.build_directory / file.path;
    SEALIFT_RETURN_IF_ERROR(CheckFile(path, file));
    release.objects.push_back({.digest = file.digest, .size = file.size, .file = path, .bytes = {}});
  }
  release.objects.push_back({.digest = ReleaseIdOf(release.manifest_json).digest,
                             .size = release.manifest_json.size(),
                             .file = {},
                             .bytes = release.manifest_json});
  return release;
}

// Keeps nothing: what a restored controller says is proven from the root on, beside our memory.
class NoMemory final : public tuf::TrustedMetadataStore {
 public:
  Result<std::optional<std::string>> Load(std::string_view) override { return std::optional<std::string>(); }
  Status Store(std::string_view, std::string_view) override { return OkStatus(); }
  Status Remove(std::string_view) override { return OkStatus(); }
};

// The newest targets that were proven here. Empty when there are none.
Result<std::optional<tuf::Targets>> SeenTargets(tuf::TrustedMetadataStore& state) {
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<std::string> text, state.Load("targets.json"));
  if (!text.has_value()) return std::optional<tuf::Targets>();
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope, tuf::ParseEnvelope(*text, tuf::kMaxTargetsBytes));
  SEALIFT_ASSIGN_OR_RETURN(tuf::Targets targets, tuf::ParseTargets(envelope));
  return std::optional<tuf::Targets>(std::move(targets));
}

// What a restored controller lists, carried beyond everything seen here.
Result<tuf::Targets> RestoredTargets(std::string_view trusted_root, tuf::TrustedMetadataStore& state,
                                     Uploader& uploader, const Clock& clock) {
  NoMemory none;
  tuf::Targets present{.version = 0, .expires = {}, .targets = {}};
  const Result<tuf::VerifiedTargets> verified =
      tuf::TufClient(std::string(trusted_root), uploader.metadata(), none, clock).Refresh();
  if (verified.ok()) {
    present = verified->targets();
  } else if (verified.status().code() != Code::kNotFound) {
    return verified.status();
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<tuf::Targets> seen, SeenTargets(state));
  if (!seen.has_value()) return present;
  present.version = std::max(present.version, seen->version);
  for (const ListedRelease& release : ListReleases(*seen)) {
    if (!release.withdrawn.has_value()) continue;
    const std::string name = ManifestTargetName(release.channel, release.version);
    const auto listed = present.targets.find(name);
    if (listed == present.targets.end() || WithdrawalOf(listed->second).has_value()) continue;
    SEALIFT_RETURN_IF_ERROR(WithdrawRelease(present, release.channel, release.version, *release.withdrawn));
  }
  return present;
}

// The targets to extend: empty, version 0, only where neither the controller nor our own memory has any.
Result<tuf::Targets> PresentTargets(std::string_view trusted_root, tuf::TrustedMetadataStore& state,
                                    Uploader& uploader, const Clock& clock, bool after_restore) {
  tuf::TufClient client(std::string(trusted_root), uploader.metadata(), state, clock);
  const Result<tuf::VerifiedTargets> verified = client.Refresh();
  if (verified.ok()) return verified->targets();
  const bool went_back = ReasonOf(verified.status()) == Reason::kTufRollback;
  if (after_restore && (went_back || verified.status().code() == Code::kNotFound)) {
    return RestoredTargets(trusted_root, state, uploader, clock);
  }
  if (verified.status().code() != Code::kNotFound) return verified.status();
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<std::string> seen, state.Load("timestamp.json"));
  if (!seen.has_value()) return tuf::Targets{.version = 0, .expires = {}, .targets = {}};
  return MakeError(Code::kFailedPrecondition, Reason::kTufRollback,
                   fmt::format("read published targets: the controller lost what was published before ({})",
                               Describe(verified.status())));
}

// A key that the newest root does not name would sign targets that nobody takes.
Status CheckTargetsKey(const Signer& signer, const tuf::Envelope& signed_targets,
                       std::string_view trusted_root, tuf::TrustedMetadataStore& state) {
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope first, tuf::ParseEnvelope(trusted_root, tuf::kMaxRootBytes));
  SEALIFT_ASSIGN_OR_RETURN(tuf::Root root, tuf::ParseRoot(first));
  // The refresh before proved the roots that follow.
  while (root.version < tuf::kMaxVersion) {
    SEALIFT_ASSIGN_OR_RETURN(const std::optional<std::string> next,
                             state.Load(fmt::format("{}.root.json", root.version + 1)));
    if (!next.has_value()) break;
    SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope envelope, tuf::ParseEnvelope(*next, tuf::kMaxRootBytes));
    SEALIFT_RETURN_IF_ERROR(tuf::VerifyThreshold(envelope, root, Role::kRoot));
    SEALIFT_ASSIGN_OR_RETURN(root, tuf::ParseRoot(envelope));
  }
  if (tuf::VerifyThreshold(signed_targets, root, Role::kTargets).ok()) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kRepositoryKeyUnknown,
                   fmt::format("sign targets: root version {} does not let key {} alone sign targets",
                               root.version, signer.public_key().key_id().hex().substr(0, 12)));
}

// The content list of a release that nothing is known to start from would name the whole image in parts.
Result<ReleaseContent> MakeContent(const PublishRequest& request, const Manifest& manifest,
                                   const tuf::Targets& targets, content::ContentSource& source,
                                   const fs::path& work_folder) {
  std::vector<EarlierBuild> builds;
  std::set<Sha256Digest> at_hand;
  for (const fs::path& folder : request.earlier_builds) {
    SEALIFT_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(folder / "release.json", kMaxManifestBytes));
    SEALIFT_ASSIGN_OR_RETURN(const Manifest before, ParseManifest(text));
    SEALIFT_ASSIGN_OR_RETURN(const ReleaseFile image, before.OnlyFile(FileRole::kUki));
    at_hand.insert(image.digest);
    builds.push_back({.folder = folder});
  }
  EarlierReleases fetched =
      FetchEarlierReleases(targets, manifest.channel, request.delta_against, at_hand, source, work_folder);
  for (std::size_t i = 0; i < fetched.folders.size(); ++i)
    builds.push_back({.folder = fetched.folders[i], .optional = true, .version = fetched.versions[i]});
  ReleaseContent content;
  if (!builds.empty()) {
    Result<ReleaseContent> made = MakeReleaseContent(manifest, request.build_directory, builds, work_folder);
    if (made.ok()) {
      content = *std::move(made);
    } else if (!request.earlier_builds.empty()) {
      return made.status();
    } else {
      fetched.left_out.push_back({fetched.versions.front(), made.status()});
    }
  }
  content.left_out.insert(content.left_out.begin(), fetched.left_out.begin(), fetched.left_out.end());
  return content;
}

}  // namespace

Status ReadObject(const UploadObject& object, std::size_t block,
                  const std::function<Status(ByteView)>& sink) {
  if (object.file.empty()) {
    for (ByteView rest = AsBytes(object.bytes); !rest.empty();) {
      const std::size_t size = std::min(block, rest.size());
      SEALIFT_RETURN_IF_ERROR(sink(rest.first(size)));
      rest = rest.subspan(size);
    }
    return OkStatus();
  }
  std::ifstream in(object.file, std::ios::binary);
  Bytes buffer(block);
  std::uint64_t total = 0;
  while (in) {
    in.read(reinterpret_cast<char*>(buffer.data()), static_cast<std::streamsize>(buffer.size()));
    const auto got = static_cast<std::size_t>(in.gcount());
    if (got == 0) break;
    total += got;
    if (total > object.size) break;
    SEALIFT_RETURN_IF_ERROR(sink(ByteView(buffer.data(), got)));
  }
  if (total == object.size && in.eof()) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kReleaseChanged,
                   fmt::format("read '{}': it no longer has {} bytes", object.file.string(), object.size));
}

Status LocalUploader::Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) {
  SEALIFT_ASSIGN_OR_RETURN(const ContentStore::Reader reader, content_.Read(digest));
  while (offset < reader.size()) {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes piece, reader.ReadAt(offset, kUploadBlock));
    SEALIFT_RETURN_IF_ERROR(sink(piece));
    offset += piece.size();
  }
  return OkStatus();
}

Result<UploadResult> LocalUploader::Upload(const std::vector<UploadObject>& objects,
                                           const std::function<void(std::uint64_t)>& progress) {
  UploadResult result;
  std::uint64_t done = 0;
  for (const UploadObject& object : objects) {
    if (content_.Has(object.digest)) {
      ++result.known;
    } else {
      SEALIFT_ASSIGN_OR_RETURN(ContentStore::Writer writer, content_.Begin(object.digest, object.size));
      SEALIFT_RETURN_IF_ERROR(
          ReadObject(object, kUploadBlock, [&](ByteView piece) { return writer.Write(piece); }));
      SEALIFT_RETURN_IF_ERROR(writer.Commit());
      ++result.stored;
    }
    done += object.size;
    if (progress) progress(done);
  }
  return result;
}

Result<PublishOutcome> PublishRelease(const PublishRequest& request, std::string_view trusted_root,
                                      tuf::TrustedMetadataStore& state, Signer& targets_signer,
                                      Uploader& uploader, const Clock& clock) {
  SEALIFT_ASSIGN_OR_RETURN(BuiltRelease release, ReadBuild(request));
  SEALIFT_ASSIGN_OR_RETURN(tuf::Targets targets,
                           PresentTargets(trusted_root, state, uploader, clock, request.after_restore));
  SEALIFT_RETURN_IF_ERROR(CheckNewVersion(targets, release.manifest.channel, release.manifest.version));
  // Holds what is made here until it is uploaded.
  SEALIFT_ASSIGN_OR_RETURN(const TempDir work, TempDir::Create("sealift-publish"));
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseContent content,
                           MakeContent(request, release.manifest, targets, uploader.content(), work.path()));
  if (!content.list_json.empty()) {
    for (const ReleaseContent::Object& object : content.objects) {
      release.objects.push_back(
          {.digest = object.name.digest, .size = object.name.size, .file = object.file, .bytes = {}});
    }
    tuf::Target list{.length = content.list.size, .sha256 = content.list.digest, .custom = {}};
    targets.targets.insert_or_assign(
        FileTargetName(release.manifest.channel, release.manifest.version, delta::kContentListName), list);
  }

  ++targets.version;
  targets.expires = clock.Now() + request.targets_lifetime;
  for (auto& [name, target] :
       TargetsOfRelease(release.manifest, release.manifest_json, clock.Now(), request.journal_checkpoint)) {
    targets.targets.insert_or_assign(name, std::move(target));
  }
  PublishOutcome outcome{.channel = release.manifest.channel,
                         .version = release.manifest.version,
                         .id = ReleaseIdOf(release.manifest_json),
                         .versions = {},
                         .upload = {},
                         .total_bytes = 0,
                         .delta_bytes = content.delta_bytes,
                         .left_out = content.left_out,
                         .journal = {}};
  for (const UploadObject& object : release.objects) outcome.total_bytes += object.size;

  // Signed first: a wrong key or token is found before anything is uploaded.
  tuf::Envelope envelope = tuf::MakeEnvelope(targets);
  SEALIFT_RETURN_IF_ERROR(tuf::SignMetadata(
      Role::kTargets, envelope, targets_signer,
      fmt::format("version {} adding {} {}", targets.version, outcome.channel, outcome.version)));
  SEALIFT_RETURN_IF_ERROR(CheckTargetsKey(targets_signer, envelope, trusted_root, state));
  SEALIFT_ASSIGN_OR_RETURN(outcome.upload, uploader.Upload(release.objects, [&](std::uint64_t done) {
    if (request.progress) request.progress(done, outcome.total_bytes);
  }));
  SEALIFT_ASSIGN_OR_RETURN(outcome.versions, uploader.PublishTargets(envelope.Serialize()));
  // Seen as a node would see it, and remembered, so that it cannot be taken back unnoticed.
  tuf::TufClient client(std::string(trusted_root), uploader.metadata(), state, clock);
  const Result<tuf::VerifiedTargets> seen = client.Refresh();
  if (!seen.ok()) return Annotate(seen.status(), "look at what was published");
  outcome.journal = tuf::JournalWatch(state).See(seen->timestamp().journal_checkpoint);
  SEALIFT_ASSIGN_OR_RETURN(const ListedRelease listed,
                           FindRelease(seen->targets(), outcome.channel, outcome.version));
  if (listed.id == outcome.id) return outcome;
  return MakeError(Code::kDataLoss, Reason::kReleaseChanged,
                   fmt::format("look at what was published: release {} {} has another manifest",
                               outcome.channel, outcome.version));
}

Result<PublishedVersions> PublishWithdrawal(const WithdrawRequest& request, std::string_view trusted_root,
                                            tuf::TrustedMetadataStore& state, Signer& targets_signer,
                                            Uploader& uploader, const Clock& clock) {
  SEALIFT_ASSIGN_OR_RETURN(tuf::Targets targets,
                           PresentTargets(trusted_root, state, uploader, clock, request.after_restore));
  SEALIFT_RETURN_IF_ERROR(WithdrawRelease(targets, request.channel, request.version,
                                          {.at = clock.Now(), .because = request.because}));
  ++targets.version;
  targets.expires = clock.Now() + request.targets_lifetime;
  tuf::Envelope envelope = tuf::MakeEnvelope(targets);
  SEALIFT_RETURN_IF_ERROR(tuf::SignMetadata(
      Role::kTargets, envelope, targets_signer,
      fmt::format("version {} withdrawing {} {}", targets.version, request.channel, request.version)));
  SEALIFT_RETURN_IF_ERROR(CheckTargetsKey(targets_signer, envelope, trusted_root, state));
  SEALIFT_ASSIGN_OR_RETURN(const PublishedVersions versions, uploader.PublishTargets(envelope.Serialize()));
  const Result<tuf::VerifiedTargets> seen =
      tuf::TufClient(std::string(trusted_root), uploader.metadata(), state, clock).Refresh();
  if (!seen.ok()) return Annotate(seen.status(), "look at what was published");
  SEALIFT_ASSIGN_OR_RETURN(const ListedRelease listed,
                           FindRelease(seen->targets(), request.channel, request.version));
  if (listed.withdrawn.has_value()) return versions;
  return MakeError(Code::kDataLoss, Reason::kReleaseChanged,
                   fmt::format("look at what was published: release {} {} is still offered", request.channel,
                               request.version));
}

Result<tuf::Targets> ListedTargets(Uploader& uploader) {
  const auto fetch = [&](const std::string& name, std::size_t max_bytes) -> Result<tuf::Envelope> {
    SEALIFT_ASSIGN_OR_RETURN(const std::string text, uploader.metadata().Fetch(name, max_bytes));
    return tuf::ParseEnvelope(text, max_bytes);
  };
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Envelope timestamp_file,
                           fetch("timestamp.json", tuf::kMaxTimestampBytes));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Timestamp timestamp, tuf::ParseTimestamp(timestamp_file));
  SEALIFT_ASSIGN_OR_RETURN(
      const tuf::Envelope snapshot_file,
      fetch(fmt::format("{}.snapshot.json", timestamp.snapshot.version), tuf::kMaxSnapshotBytes));
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Snapshot snapshot, tuf::ParseSnapshot(snapshot_file));
  SEALIFT_ASSIGN_OR_RETURN(
      const tuf::Envelope targets_file,
      fetch(fmt::format("{}.targets.json", snapshot.meta.at("targets.json").version), tuf::kMaxTargetsBytes));
  return tuf::ParseTargets(targets_file);
}

}  // namespace sealift::controller
