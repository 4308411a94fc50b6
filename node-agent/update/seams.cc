#include "node-agent/update/seams.h"

#include <fmt/format.h>

#include <algorithm>

#include "node-agent/esp/boot_entries.h"
#include "node-agent/esp/esp_stager.h"

namespace sealift::agent {

Result<std::vector<Companion>> CompanionsOf(const Manifest& manifest, const ReleaseFile& image) {
  const std::string folder = fmt::format("{}{}/", image.path, kCompanionSuffix);
  std::vector<Companion> companions;
  for (const ReleaseFile& file : manifest.files) {
    if (file.role != FileRole::kExtension || !file.path.starts_with(folder)) continue;
    const std::string name = file.path.substr(folder.size());
    const bool known = std::ranges::any_of(
        companions, [&](const Companion& other) { return LowerCase(other.name) == LowerCase(name); });
    // The stub takes nothing from folders below.
    if (known || companions.size() >= kMaxCompanions || name.find('/') != std::string::npos) {
      return MakeError(
          Code::kInvalidArgument, Reason::kReleaseManifestInvalid,
          fmt::format("use release {}: '{}' is one too many, has a name that is taken, or lies in a "
                      "folder",
                      manifest.version, file.path));
    }
    companions.push_back({.name = name, .digest = file.digest, .size = file.size});
  }
  return companions;
}

TrustedRelease ReleaseCatalog::Vouch(const ReleaseId& id, Manifest manifest, ReleaseFile image,
                                     std::vector<Companion> companions, UnixMillis not_before,
                                     UnixMillis expires) {
  TrustedRelease release;
  release.id_ = id;
  if (const auto loader = manifest.OnlyFile(FileRole::kBootLoader); loader.ok()) {
    release.boot_loader_ =
        BootLoader{.digest = loader->digest, .size = loader->size, .authenticode = loader->authenticode};
  }
  release.manifest_ = std::move(manifest);
  release.image_ = std::move(image);
  release.companions_ = std::move(companions);
  release.not_before_ = not_before;
  release.expires_ = expires;
  return release;
}

}  // namespace sealift::agent
