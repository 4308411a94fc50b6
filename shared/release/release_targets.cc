#include "shared/release/release_targets.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/crypto/hash.h"
#include "shared/tuf/json.h"

namespace sealift {
namespace {

using nlohmann::json;

constexpr std::string_view kManifestName = "manifest.json";

struct NameParts {
  std::string_view channel;
  std::string_view version;
  std::string_view path;
};

// "<channel>/<version>/<path>".
std::optional<NameParts> Split(std::string_view name) {
  const std::size_t first = name.find('/');
  if (first == std::string_view::npos || first == 0) return std::nullopt;
  const std::size_t second = name.find('/', first + 1);
  if (second == std::string_view::npos) return std::nullopt;
  const NameParts parts{.channel = name.substr(0, first),
                        .version = name.substr(first + 1, second - first - 1),
                        .path = name.substr(second + 1)};
  if (!IsValidVersion(parts.version) || parts.path.empty()) return std::nullopt;
  return parts;
}

json DigestList(const std::vector<Sha256Digest>& digests) {
  json list = json::array();
  for (const Sha256Digest& digest : digests) list.push_back(digest.hex());
  return list;
}

json CommonCustom(const Manifest& manifest, UnixMillis published) {
  json custom = {{"channel", manifest.channel},
                 {"version", manifest.version},
                 {"published_unix_ms", ToUnixMs(published)},
                 {"schema_version", manifest.schema_version},
                 {"minimum_agent_version", manifest.minimum_agent_version},
                 {"hardware_class", manifest.hardware_class},
                 {"security_epoch", manifest.security_epoch},
                 {"secure_boot_certificates", DigestList(manifest.secure_boot_certificates)},
                 {"pcr_keys", DigestList(manifest.pcr_keys)},
                 {"pcr11", json::array()}};
  for (const PhasePrediction& prediction : manifest.pcr11) {
    custom["pcr11"].push_back({{"phase", prediction.phase}, {"pcr11", prediction.pcr11.hex()}});
  }
  return custom;
}

std::optional<UnixMillis> PublishedAt(const tuf::Target& manifest) {
  if (manifest.custom.empty()) return std::nullopt;
  const Result<json> custom = tuf::ParseJson(manifest.custom, {.max_bytes = 1u << 16, .max_depth = 8});
  if (!custom.ok()) return std::nullopt;
  tuf::ObjectReader reader(*custom, "custom");
  const std::uint64_t ms = reader.Unsigned("published_unix_ms", 0, 253402300799999);
  if (!reader.ok()) return std::nullopt;
  return FromUnixMs(static_cast<std::int64_t>(ms));
}

constexpr std::size_t kMaxBecause = 200;

Status Mixed(const Manifest& manifest, std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kReleaseMixed,
                   fmt::format("check release {} {}: {}", manifest.channel, manifest.version, what));
}

}  // namespace

std::map<std::string, tuf::Target> TargetsOfRelease(const Manifest& manifest, std::string_view manifest_json,
                                                    UnixMillis published,
                                                    std::string_view journal_checkpoint) {
  const json common = CommonCustom(manifest, published);
  std::map<std::string, tuf::Target> targets;
  json custom = common;
  custom["role"] = "manifest";
  if (!journal_checkpoint.empty()) custom["x-sealift-journal"] = json::parse(journal_checkpoint);
  targets[ManifestTargetName(manifest.channel, manifest.version)] = {
      .length = manifest_json.size(),
      .sha256 = ReleaseIdOf(manifest_json).digest,
      .custom = tuf::CompactJson(custom)};
  for (const ReleaseFile& file : manifest.files) {
    custom = common;
    custom["role"] = std::string(FileRoleName(file.role));
    if (file.authenticode.has_value()) custom["authenticode_sha256"] = file.authenticode->hex();
    targets[FileTargetName(manifest.channel, manifest.version, file.path)] = {
        .length = file.size, .sha256 = file.digest, .custom = tuf::CompactJson(custom)};
  }
  return targets;
}

std::vector<ListedRelease> ListReleases(const tuf::Targets& targets) {
  std::map<std::pair<std::string_view, std::string_view>, ListedRelease> found;
  for (const auto& [name, target] : targets.targets) {
    const std::optional<NameParts> parts = Split(name);
    if (!parts.has_value()) continue;
    ListedRelease& release = found[{parts->channel, parts->version}];
    release.total_bytes += target.length;
    if (parts->path != kManifestName) continue;
    release.channel = parts->channel;
    release.version = parts->version;
    release.id = ReleaseId{.digest = target.sha256};
    release.manifest_size = target.length;
    release.published = PublishedAt(target);
    release.withdrawn = WithdrawalOf(target);
  }
  std::vector<ListedRelease> releases;
  for (auto& [key, release] : found) {
    if (!release.version.empty()) releases.push_back(std::move(release));
  }
  std::stable_sort(releases.begin(), releases.end(), [](const ListedRelease& a, const ListedRelease& b) {
    if (a.channel != b.channel) return a.channel < b.channel;
    return CompareVersions(a.version, b.version) < 0;
  });
  return releases;
}

std::optional<Withdrawal> WithdrawalOf(const tuf::Target& manifest) {
  if (manifest.custom.empty()) return std::nullopt;
  const Withdrawal unreadable{.at = {}, .because = ""};
  const Result<json> custom = tuf::ParseJson(manifest.custom, {.max_bytes = 1u << 16, .max_depth = 8});
  if (!custom.ok() || !custom->is_object()) return unreadable;
  tuf::ObjectReader reader(*custom, "custom");
  if (!reader.Has("withdrawn")) return std::nullopt;
  tuf::ObjectReader mark(reader.Object("withdrawn", 16), "withdrawn");
  const std::uint64_t ms = mark.Unsigned("unix_ms", 0, 253402300799999);
  const std::string because = mark.String("because", kMaxBecause);
  if (!reader.ok() || !mark.ok()) return unreadable;
  return Withdrawal{.at = FromUnixMs(static_cast<std::int64_t>(ms)), .because = because};
}

Status WithdrawRelease(tuf::Targets& targets, std::string_view channel, std::string_view version,
                       const Withdrawal& withdrawal) {
  const std::string what = fmt::format("withdraw release {} {}", channel, version);
  const auto found = targets.targets.find(ManifestTargetName(channel, version));
  if (found == targets.targets.end()) {
    return MakeError(Code::kNotFound, Reason::kTufTargetUnknown,
                     fmt::format("{}: targets version {} do not list it", what, targets.version));
  }
  if (WithdrawalOf(found->second).has_value()) {
    return MakeError(Code::kFailedPrecondition, Reason::kReleaseWithdrawn,
                     fmt::format("{}: it is withdrawn already", what));
  }
  const bool printable = std::all_of(withdrawal.because.begin(), withdrawal.because.end(),
                                     [](char c) { return c >= ' ' && c <= '~'; });
  if (withdrawal.because.empty() || withdrawal.because.size() > kMaxBecause || !printable) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("{}: say why in 1 to {} printable characters", what, kMaxBecause));
  }
  json custom = json::object();
  if (!found->second.custom.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(custom,
                             tuf::ParseJson(found->second.custom, {.max_bytes = 1u << 16, .max_depth = 8}));
  }
  custom["withdrawn"] = {{"unix_ms", ToUnixMs(withdrawal.at)}, {"because", withdrawal.because}};
  tuf::Target manifest = found->second;
  manifest.custom = tuf::CompactJson(custom);
  const std::string prefix = FileTargetName(channel, version, "");
  std::erase_if(targets.targets, [&](const auto& entry) { return entry.first.starts_with(prefix); });
  targets.targets[ManifestTargetName(channel, version)] = std::move(manifest);
  return OkStatus();
}

Result<ListedRelease> FindRelease(const tuf::Targets& targets, std::string_view channel,
                                  std::string_view version) {
  for (ListedRelease& release : ListReleases(targets)) {
    if (release.channel == channel && release.version == version) return std::move(release);
  }
  return MakeError(Code::kNotFound, Reason::kTufTargetUnknown,
                   fmt::format("find release {} {}: targets version {} do not list it", channel, version,
                               targets.version));
}

Status CheckManifestListed(const Manifest& manifest, const ListedRelease& release,
                           const tuf::Targets& targets) {
  if (manifest.channel != release.channel || manifest.version != release.version) {
    return Mixed(manifest, fmt::format("it is listed as {} {}", release.channel, release.version));
  }
  for (const ReleaseFile& file : manifest.files) {
    const auto found = targets.targets.find(FileTargetName(manifest.channel, manifest.version, file.path));
    if (found == targets.targets.end()) return Mixed(manifest, fmt::format("'{}' is not listed", file.path));
    if (found->second.length != file.size || found->second.sha256 != file.digest) {
      return Mixed(manifest, fmt::format("'{}' is listed with another size or digest", file.path));
    }
  }
  return OkStatus();
}

Status CheckNewVersion(const tuf::Targets& targets, std::string_view channel, std::string_view version) {
  for (const ListedRelease& release : ListReleases(targets)) {
    if (release.channel != channel) continue;
    const int order = CompareVersions(version, release.version);
    if (order > 0) continue;
    // Versions that compare equal would be one to every node, however they are written.
    const bool exists = order == 0;
    return MakeError(exists ? Code::kAlreadyExists : Code::kFailedPrecondition,
                     exists ? Reason::kReleaseExists : Reason::kReleaseVersionLower,
                     fmt::format("publish release {} {}: version {} is published already", channel, version,
                                 release.version));
  }
  return OkStatus();
}

Status CheckSuccessor(const tuf::Targets& current, const tuf::Targets& next) {
  if (next.version <= current.version) {
    return MakeError(Code::kFailedPrecondition, Reason::kTufRollback,
                     fmt::format("publish targets version {}: version {} is published already", next.version,
                                 current.version));
  }
  for (const auto& [name, target] : next.targets) {
    const auto before = current.targets.find(name);
    if (before == current.targets.end()) continue;
    if (before->second.length != target.length || before->second.sha256 != target.sha256) {
      return MakeError(Code::kFailedPrecondition, Reason::kReleaseChanged,
                       fmt::format("publish targets version {}: '{}' would change", next.version, name));
    }
  }
  for (const ListedRelease& release : ListReleases(current)) {
    if (!release.withdrawn.has_value()) continue;
    const auto after = next.targets.find(ManifestTargetName(release.channel, release.version));
    if (after != next.targets.end() && WithdrawalOf(after->second).has_value()) continue;
    return MakeError(
        Code::kFailedPrecondition, Reason::kReleaseWithdrawn,
        fmt::format("publish targets version {}: release {} {} was withdrawn and would come back",
                    next.version, release.channel, release.version));
  }
  for (const ListedRelease& release : ListReleases(next)) {
    if (current.targets.contains(ManifestTargetName(release.channel, release.version))) continue;
    SEALIFT_RETURN_IF_ERROR(CheckNewVersion(current, release.channel, release.version));
  }
  return OkStatus();
}

}  // namespace sealift
