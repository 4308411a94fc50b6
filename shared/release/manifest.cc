#include "shared/release/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "shared/crypto/hash.h"
#include "shared/release/measurements_json.h"
#include "shared/tuf/json.h"
#include "shared/uki/sections.h"

namespace sealift {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxManifestBytes = 1u << 20;
constexpr std::size_t kMaxFiles = 4096;
constexpr std::size_t kMaxPathBytes = 255;
constexpr std::size_t kMaxListed = 64;
constexpr std::uint64_t kMaxFileSize = 1ull << 40;
// 9999-12-31, the last year that RFC 3339 can write.
constexpr std::uint64_t kMaxUnixMs = 253402300799999;

struct RoleRow {
  FileRole role;
  std::string_view name;
};
constexpr RoleRow kRoles[] = {{FileRole::kBootLoader, "boot-loader"},
                              {FileRole::kUki, "uki"},
                              {FileRole::kLoaderConf, "loader-conf"},
                              {FileRole::kEntry, "entry"},
                              {FileRole::kEnrolmentKey, "enrolment-key"},
                              {FileRole::kFrameIndex, "frame-index"},
                              {FileRole::kSbom, "sbom"},
                              {FileRole::kExtension, "extension"}};

bool OnlyOf(std::string_view text, std::string_view extra) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           extra.find(c) != std::string_view::npos;
  });
}

// Empty components cover absolute paths, doubled and trailing slashes.
bool IsSafePath(std::string_view path) {
  if (path.empty() || path.size() > kMaxPathBytes || !OnlyOf(path, "._+~/-")) return false;
  while (true) {
    const std::size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

// FAT folds case: two paths that differ only in it are one file.
std::string FoldCase(std::string_view path) {
  std::string folded(path);
  std::transform(folded.begin(), folded.end(), folded.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return folded;
}

bool IsChannel(std::string_view channel) {
  return channel.size() <= 32 && (channel.empty() || channel.front() != '.') && OnlyOf(channel, "._-");
}

std::optional<FileRole> RoleFromName(std::string_view name) {
  for (const RoleRow& row : kRoles) {
    if (row.name == name) return row.role;
  }
  return std::nullopt;
}

json DigestList(const std::vector<Sha256Digest>& digests) {
  json list = json::array();
  for (const Sha256Digest& digest : digests) list.push_back(digest.hex());
  return list;
}

Result<std::vector<Sha256Digest>> ReadDigestList(tuf::ObjectReader& reader, std::string_view key) {
  std::vector<Sha256Digest> digests;
  for (const json& item : reader.Array(key, kMaxListed)) {
    const Result<Sha256Digest> digest =
        item.is_string() ? Sha256Digest::FromHex(item.get_ref<const std::string&>())
                         : MakeError(Code::kInvalidArgument, Reason::kMalformed, "read digest");
    if (!digest.ok()) return InvalidManifest(fmt::format("'{}' holds something other than digests", key));
    digests.push_back(*digest);
  }
  return digests;
}

Result<ReleaseFile> ReadFileEntry(const json& value) {
  tuf::ObjectReader reader(value, "file of release manifest");
  ReleaseFile file;
  file.path = reader.String("path", kMaxPathBytes);
  const std::string role_name = reader.String("role", 32);
  file.digest = reader.Digest("sha256");
  file.size = reader.Unsigned("size", 0, kMaxFileSize);
  if (reader.Has("authenticode_sha256")) file.authenticode = reader.Digest("authenticode_sha256");
  if (!reader.ok()) return InvalidManifest(MessageOf(reader.status()));
  if (!IsSafePath(file.path)) return InvalidManifest("a file's path is not safe");
  const std::optional<FileRole> role = RoleFromName(role_name);
  if (!role.has_value()) return InvalidManifest(fmt::format("file '{}' has an unknown role", file.path));
  file.role = *role;
  return file;
}

Status ReadFiles(tuf::ObjectReader& reader, Manifest& manifest) {
  std::set<std::string> seen{"manifest.json"};  // The manifest's own place among the targets.
  for (const json& value : reader.Array("files", kMaxFiles)) {
    SEALIFT_ASSIGN_OR_RETURN(ReleaseFile file, ReadFileEntry(value));
    if (!seen.insert(FoldCase(file.path)).second) {
      return InvalidManifest(fmt::format("file '{}' is listed twice", file.path));
    }
    manifest.files.push_back(std::move(file));
  }
  return OkStatus();
}

bool SamePhases(const std::vector<PhasePrediction>& a, const std::vector<PhasePrediction>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& left, const auto& right) {
    return left.phase == right.phase && left.pcr11 == right.pcr11;
  });
}

Status ReadImages(tuf::ObjectReader& reader, Manifest& manifest) {
  std::set<std::tuple<std::string, std::uint32_t, Sha256Digest>> seen;
  for (const json& value : reader.Array("images", kMaxListed)) {
    SEALIFT_ASSIGN_OR_RETURN(ImageMeasurements image, ReadImage(value));
    const bool listed = std::any_of(manifest.files.begin(), manifest.files.end(), [&](const auto& file) {
      return file.role == FileRole::kUki && file.path == image.path;
    });
    if (!listed) return InvalidManifest("an image is no UKI among the files");
    // All zeros where the stub takes no tree.
    const auto tree = image.sections.find(std::string(uki::kDeviceTreeAuto));
    const Sha256Digest tree_digest = tree == image.sections.end() ? Sha256Digest() : tree->second;
    if (!seen.insert({image.path, image.profile, tree_digest}).second)
      return InvalidManifest("an image is listed twice");
    manifest.images.push_back(std::move(image));
  }
  if (manifest.images.empty()) return OkStatus();
  const ImageMeasurements& main = manifest.images.front();
  if (main.profile == 0 && main.sections == manifest.sections && SamePhases(main.pcr11, manifest.pcr11))
    return OkStatus();
  return InvalidManifest("the first image is measured otherwise than the release says");
}

Status CheckTexts(const Manifest& manifest) {
  if (!IsChannel(manifest.channel)) return InvalidManifest("'channel' is not one");
  if (!IsValidVersion(manifest.version)) return InvalidManifest("'version' is not one");
  if (!manifest.minimum_agent_version.empty() && !IsValidVersion(manifest.minimum_agent_version)) {
    return InvalidManifest("'minimum_agent_version' is not a version");
  }
  if (manifest.hardware_class.empty() || !OnlyOf(manifest.hardware_class, "._-")) {
    return InvalidManifest("'hardware_class' is not a name");
  }
  if (!OnlyOf(manifest.stub_version, ".~^+:_-")) return InvalidManifest("'stub_version' is not a version");
  return OkStatus();
}

json FileJson(const ReleaseFile& file) {
  json value = {{"path", file.path},
                {"role", std::string(FileRoleName(file.role))},
                {"sha256", file.digest.hex()},
                {"size", file.size}};
  if (file.authenticode.has_value()) value["authenticode_sha256"] = file.authenticode->hex();
  return value;
}

}  // namespace

Result<ReleaseFile> Manifest::OnlyFile(FileRole role) const {
  const ReleaseFile* found = nullptr;
  for (const ReleaseFile& file : files) {
    if (file.role != role) continue;
    if (role == FileRole::kUki && !images.empty() && file.path != images.front().path) continue;
    if (found != nullptr) {
      return MakeError(
          Code::kNotFound, Reason::kReleaseFileMissing,
          fmt::format("find the {} of release {}: there are several", FileRoleName(role), version));
    }
    found = &file;
  }
  if (found != nullptr) return *found;
  return MakeError(Code::kNotFound, Reason::kReleaseFileMissing,
                   fmt::format("find the {} of release {}: there is none", FileRoleName(role), version));
}

Result<Sha256Digest> Manifest::FinalPcr11() const {
  if (!pcr11.empty()) return pcr11.back().pcr11;
  return MakeError(Code::kNotFound, Reason::kReleaseFileMissing,
                   fmt::format("find PCR 11 of release {}: it predicts no phase", version));
}

std::string_view FileRoleName(FileRole role) {
  for (const RoleRow& row : kRoles) {
    if (row.role == role) return row.name;
  }
  return "unknown";
}

std::string SerializeManifest(const Manifest& manifest) {
  json value = {{"schema_version", manifest.schema_version},
                {"channel", manifest.channel},
                {"version", manifest.version},
                {"minimum_agent_version", manifest.minimum_agent_version},
                {"hardware_class", manifest.hardware_class},
                {"security_epoch", manifest.security_epoch},
                {"built_unix_ms", ToUnixMs(manifest.built)},
                {"files", json::array()},
                {"pcr11", Pcr11Json(manifest.pcr11)},
                {"sections", SectionsJson(manifest.sections)},
                {"stub_version", manifest.stub_version},
                {"secure_boot_certificates", DigestList(manifest.secure_boot_certificates)},
                {"pcr_keys", DigestList(manifest.pcr_keys)}};
  for (const ReleaseFile& file : manifest.files) value["files"].push_back(FileJson(file));
  for (const ImageMeasurements& image : manifest.images) value["images"].push_back(ImageJson(image));
  return tuf::CompactJson(value);
}

Result<Manifest> ParseManifest(std::string_view text) {
  const Result<json> value = tuf::ParseJson(text, {.max_bytes = kMaxManifestBytes, .max_depth = 8});
  if (!value.ok()) return InvalidManifest(MessageOf(value.status()));
  tuf::ObjectReader reader(*value, "release manifest");
  Manifest manifest;
  manifest.schema_version = static_cast<std::uint32_t>(reader.Unsigned("schema_version", 1, 1));
  manifest.channel = reader.String("channel", 32);
  manifest.version = reader.String("version", 64);
  manifest.minimum_agent_version = reader.String("minimum_agent_version", 64);
  manifest.hardware_class = reader.String("hardware_class", 64);
  manifest.security_epoch = reader.Unsigned("security_epoch", 0, 0xffffffff);
  manifest.built = FromUnixMs(static_cast<std::int64_t>(reader.Unsigned("built_unix_ms", 0, kMaxUnixMs)));
  manifest.stub_version = reader.String("stub_version", 128);
  SEALIFT_RETURN_IF_ERROR(ReadFiles(reader, manifest));
  SEALIFT_ASSIGN_OR_RETURN(manifest.pcr11, ReadPcr11(reader));
  SEALIFT_ASSIGN_OR_RETURN(manifest.sections, ReadSections(reader));
  if (reader.Has("images")) SEALIFT_RETURN_IF_ERROR(ReadImages(reader, manifest));
  SEALIFT_ASSIGN_OR_RETURN(manifest.secure_boot_certificates,
                           ReadDigestList(reader, "secure_boot_certificates"));
  SEALIFT_ASSIGN_OR_RETURN(manifest.pcr_keys, ReadDigestList(reader, "pcr_keys"));
  if (!reader.ok()) return InvalidManifest(MessageOf(reader.status()));
  SEALIFT_RETURN_IF_ERROR(CheckTexts(manifest));
  return manifest;
}

ReleaseId ReleaseIdOf(std::string_view manifest_json) {
  return ReleaseId{.digest = Sha256(AsBytes(manifest_json))};
}

std::string ManifestTargetName(std::string_view channel, std::string_view version) {
  return fmt::format("{}/{}/manifest.json", channel, version);
}

std::string FileTargetName(std::string_view channel, std::string_view version, std::string_view path) {
  return fmt::format("{}/{}/{}", channel, version, path);
}

}  // namespace sealift
