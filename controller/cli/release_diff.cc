#include "controller/cli/release_diff.h"

#include <fmt/format.h>

#include <array>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "shared/base/files.h"
#include "shared/content/frame_index.h"
#include "shared/crypto/hash.h"
#include "shared/efi/pe_image.h"
#include "shared/release/manifest.h"
#include "shared/uki/uki_layout.h"

namespace sealift::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxManifestBytes = 1u << 20;
constexpr std::uint64_t kMaxIndexBytes = 256ull << 20;
// The small sections of an image lie before the large ones.
constexpr std::size_t kHeadBytes = 4u << 20;
constexpr std::array kTextSections = {".cmdline", ".uname", ".osrel"};

using Facts = std::map<std::string, std::string>;

struct Side {
  Manifest manifest;
  Facts settings;
  Facts packages;
  Facts files;
  Facts system_files;
  Facts sections;
  Facts measurements;
};

std::string Short(const Sha256Digest& digest) { return digest.hex().substr(0, 12); }

std::string ShortList(const std::vector<Sha256Digest>& digests) {
  std::string list;
  for (const Sha256Digest& digest : digests) list += (list.empty() ? "" : " ") + Short(digest);
  return list;
}

// A file that describes the image, with the digest that the manifest gives. Empty where there is none.
Result<std::string> ReadDescribing(const fs::path& folder, const Manifest& manifest, FileRole role) {
  const auto file = manifest.OnlyFile(role);
  if (!file.ok()) return std::string();
  SEALIFT_ASSIGN_OR_RETURN(std::string text, ReadTextFile(folder / file->path, kMaxIndexBytes));
  if (Sha256(AsBytes(text)) == file->digest) return text;
  return MakeError(Code::kFailedPrecondition, Reason::kReleaseChanged,
                   fmt::format("read '{}': it is not the file that release.json describes",
                               (folder / file->path).string()));
}

Status AddPackages(const std::string& sbom, Side& side) {
  if (sbom.empty()) return OkStatus();
  const nlohmann::json document = nlohmann::json::parse(sbom, nullptr, /*allow_exceptions=*/false);
  const auto packages = document.find("packages");
  if (document.is_discarded() || !document.is_object() || packages == document.end() ||
      !packages->is_array()) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed, "read sbom: it lists no packages");
  }
  for (const nlohmann::json& package : *packages) {
    if (!package.is_object() || package.value("primaryPackagePurpose", "") == "OPERATING-SYSTEM") continue;
    // Of several versions beside each other all are told.
    std::string& versions = side.packages[package.value("name", "")];
    versions += (versions.empty() ? "" : ", ") + package.value("versionInfo", "");
  }
  return OkStatus();
}

// Texts where they can be read, digests everywhere else.
void AddSections(const fs::path& folder, Side& side) {
  for (const auto& [name, digest] : side.manifest.sections) side.sections[name] = Short(digest);
  const auto image = side.manifest.OnlyFile(FileRole::kUki);
  if (!image.ok()) return;
  std::ifstream in(folder / image->path, std::ios::binary);
  Bytes head(std::min<std::uint64_t>(kHeadBytes, image->size));
  in.read(reinterpret_cast<char*>(head.data()), static_cast<std::streamsize>(head.size()));
  if (static_cast<std::size_t>(in.gcount()) != head.size()) return;
  const auto parsed = efi::PeImage::ParseHead(head, image->size);
  if (!parsed.ok()) return;
  for (const char* name : kTextSections) {
    const auto contents = uki::UkiSectionContents(*parsed, name);
    const auto listed = side.manifest.sections.find(name);
    if (!contents.ok() || listed == side.manifest.sections.end()) continue;
    if (Sha256(*contents) != listed->second) continue;
    std::string text(AsText(*contents));
    while (!text.empty() && (text.back() == '\0' || text.back() == '\n')) text.pop_back();
    side.sections[name] = text;
  }
}

Result<Side> ReadSide(const fs::path& folder) {
  Side side;
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(folder / "release.json", kMaxManifestBytes));
  SEALIFT_ASSIGN_OR_RETURN(side.manifest, ParseManifest(text));
  const Manifest& manifest = side.manifest;
  side.settings = {{"hardware_class", manifest.hardware_class},
                   {"minimum_agent_version", manifest.minimum_agent_version},
                   {"pcr_keys", ShortList(manifest.pcr_keys)},
                   {"secure_boot_certificates", ShortList(manifest.secure_boot_certificates)},
                   {"security_epoch", std::to_string(manifest.security_epoch)},
                   {"stub_version", manifest.stub_version},
                   {"version", manifest.version}};
  for (const ReleaseFile& file : manifest.files) side.files[file.path] = Short(file.digest);
  for (const PhasePrediction& phase : manifest.pcr11) {
    side.measurements["pcr11 " + (phase.phase.empty() ? "(boot)" : phase.phase)] = phase.pcr11.hex();
  }
  AddSections(folder, side);
  SEALIFT_ASSIGN_OR_RETURN(const std::string sbom, ReadDescribing(folder, manifest, FileRole::kSbom));
  SEALIFT_RETURN_IF_ERROR(AddPackages(sbom, side));
  SEALIFT_ASSIGN_OR_RETURN(const std::string frames, ReadDescribing(folder, manifest, FileRole::kFrameIndex));
  if (frames.empty()) return side;
  SEALIFT_ASSIGN_OR_RETURN(const content::FrameIndex index, content::ParseFrameIndex(frames));
  for (const content::FrameRecord& frame : index.frames) {
    for (const content::FrameFile& file : frame.files) side.system_files[file.path] = Short(file.digest);
  }
  return side;
}

std::vector<Change> Compare(const Facts& a, const Facts& b) {
  std::vector<Change> changes;
  for (const auto& [name, before] : a) {
    const auto found = b.find(name);
    if (found == b.end()) changes.push_back({.name = name, .before = before, .after = ""});
    if (found == b.end() || found->second == before) continue;
    changes.push_back({.name = name, .before = before, .after = found->second});
  }
  for (const auto& [name, after] : b) {
    if (!a.contains(name)) changes.push_back({.name = name, .before = "", .after = after});
  }
  return changes;
}

}  // namespace

Result<ReleaseDiff> DiffReleases(const fs::path& a, const fs::path& b) {
  SEALIFT_ASSIGN_OR_RETURN(const Side one, ReadSide(a));
  SEALIFT_ASSIGN_OR_RETURN(const Side two, ReadSide(b));
  return ReleaseDiff{.version_a = one.manifest.version,
                     .version_b = two.manifest.version,
                     .settings = Compare(one.settings, two.settings),
                     .packages = Compare(one.packages, two.packages),
                     .files = Compare(one.files, two.files),
                     .system_files = Compare(one.system_files, two.system_files),
                     .sections = Compare(one.sections, two.sections),
                     .measurements = Compare(one.measurements, two.measurements)};
}

}  // namespace sealift::cli
