#include "node-agent/update/tuf_release_catalog.h"

#include <fmt/format.h>

#include <algorithm>

#include "node-agent/esp/esp_stager.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"
#include "shared/release/release_targets.h"

namespace sealift::agent {
namespace {

constexpr std::uint64_t kMaxManifestBytes = 1u << 20;
constexpr int kMaxManifestRounds = 16;

Status Mixed(const DesiredRelease& desired, std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kReleaseMixed,
                   fmt::format("use release {} of channel {}: {}", desired.version, desired.channel, what));
}

Status CheckListed(const DesiredRelease& desired, const tuf::VerifiedTargets& targets,
                   const std::string& path, const Sha256Digest& digest, std::uint64_t size) {
  const auto listed = targets.Find(FileTargetName(desired.channel, desired.version, path));
  if (!listed.ok()) return Mixed(desired, fmt::format("the signed metadata does not list '{}'", path));
  if (listed->sha256 == digest && listed->length == size) return OkStatus();
  return Mixed(desired, fmt::format("manifest and signed metadata name different files '{}'", path));
}

// The online keys alone must not be able to push a node's time beyond what the offline ones vouch for.
UnixMillis TimeProvenBy(const tuf::VerifiedTargets& targets) {
  return std::min(targets.timestamp().signed_at.value_or(UnixMillis{}), targets.targets().expires);
}

}  // namespace

Result<ReleaseVerdict> TufReleaseCatalog::Resolve(const DesiredRelease& desired) {
  SEALIFT_ASSIGN_OR_RETURN(const tuf::VerifiedTargets targets, client_.Refresh());
  SEALIFT_ASSIGN_OR_RETURN(const tuf::Target target,
                           targets.Find(ManifestTargetName(desired.channel, desired.version)));
  ReleaseVerdict verdict;
  verdict.journal = journals_.See(targets.timestamp().journal_checkpoint);
  // Whatever the controller wants: the targets key has the last word.
  if (const auto withdrawn = WithdrawalOf(target); withdrawn.has_value()) {
    verdict.unusable = MakeError(Code::kFailedPrecondition, Reason::kReleaseWithdrawn,
                                 fmt::format("use release {} of channel {}: it was withdrawn: {}",
                                             desired.version, desired.channel, withdrawn->because));
    return verdict;
  }
  if (target.length > kMaxManifestBytes) {
    verdict.unusable = Mixed(desired, "the manifest is too large");
    return verdict;
  }
  const Sha256Digest none;
  if (desired.release_id != none && desired.release_id != target.sha256) {
    return Mixed(desired, "the controller names another release id than the signed metadata");
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, FetchManifest(target));
  Result<TrustedRelease> release = Judge(desired, targets, text);
  verdict.unusable = release.status();
  if (!release.ok()) return verdict;
  const auto list = targets.Find(FileTargetName(desired.channel, desired.version, delta::kContentListName));
  content_list_.reset();
  if (list.ok()) content_list_ = {.digest = list->sha256, .size = list->length};
  listed_image_ = release->image().digest;
  verdict.release = *std::move(release);
  return verdict;
}

std::optional<delta::ContentName> TufReleaseCatalog::ContentListOf(const Sha256Digest& image) const {
  return image == listed_image_ ? content_list_ : std::nullopt;
}

Result<TrustedRelease> TufReleaseCatalog::Judge(const DesiredRelease& desired,
                                                const tuf::VerifiedTargets& targets, std::string_view text) {
  SEALIFT_ASSIGN_OR_RETURN(Manifest manifest, ParseManifest(text));
  if (manifest.channel != desired.channel || manifest.version != desired.version) {
    return Mixed(desired, fmt::format("the manifest is of release {} of channel {}", manifest.version,
                                      manifest.channel));
  }
  auto image = manifest.OnlyFile(FileRole::kUki);
  if (!image.ok()) {
    return MakeError(Code::kInvalidArgument, Reason::kReleaseFileMissing, MessageOf(image.status()));
  }
  SEALIFT_ASSIGN_OR_RETURN(std::vector<Companion> companions, CompanionsOf(manifest, *image));
  SEALIFT_RETURN_IF_ERROR(CheckListed(desired, targets, image->path, image->digest, image->size));
  if (const auto loader = manifest.OnlyFile(FileRole::kBootLoader); loader.ok()) {
    SEALIFT_RETURN_IF_ERROR(CheckListed(desired, targets, loader->path, loader->digest, loader->size));
  }
  for (const Companion& one : companions) {
    const std::string path = fmt::format("{}{}/{}", image->path, kCompanionSuffix, one.name);
    SEALIFT_RETURN_IF_ERROR(CheckListed(desired, targets, path, one.digest, one.size));
  }
  return Vouch(ReleaseIdOf(text), std::move(manifest), *image, std::move(companions), TimeProvenBy(targets),
               targets.expires());
}

Result<std::string> TufReleaseCatalog::FetchManifest(const tuf::Target& target) {
  SEALIFT_RETURN_IF_ERROR(manifests_.Discard(&target.sha256));
  // A manifest is small: a source that sends it in ever smaller bits is up to something.
  for (int round = 0; round < kMaxManifestRounds; ++round) {
    SEALIFT_ASSIGN_OR_RETURN(const FetchProgress progress,
                             manifests_.FetchSome(target.sha256, target.length));
    SEALIFT_RETURN_IF_ERROR(progress.source);
    if (!progress.complete) continue;
    SEALIFT_ASSIGN_OR_RETURN(std::string text, ReadRegularTextFile(progress.file, kMaxManifestBytes));
    // What was hashed and what is parsed are two reads of a partition that is not trusted.
    if (Sha256(AsBytes(text)) != target.sha256) {
      return MakeError(Code::kUnavailable, Reason::kContentDigestMismatch,
                       fmt::format("read '{}': it changed after it was verified", progress.file.string()));
    }
    return text;
  }
  return MakeError(Code::kUnavailable, Reason::kContentIncomplete,
                   fmt::format("fetch manifest {}: not complete after {} rounds", target.sha256.hex(),
                               kMaxManifestRounds));
}

}  // namespace sealift::agent
