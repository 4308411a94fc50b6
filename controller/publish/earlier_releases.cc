#include "controller/publish/earlier_releases.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/base/files.h"
#include "shared/release/manifest.h"
#include "shared/release/release_targets.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxManifestBytes = 1u << 20;

// False: its image is one of `but`.
Result<bool> FetchOne(const tuf::Targets& targets, const ListedRelease& release,
                      const std::set<Sha256Digest>& but, content::ContentSource& source,
                      const fs::path& folder) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(folder));
  if (release.manifest_size > kMaxManifestBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge, "read manifest: it is too large");
  }
  const fs::path manifest_file = folder / "release.json";
  SEALIFT_RETURN_IF_ERROR(Download(
      source,
      {.digest = release.id.digest, .size = release.manifest_size, .file = manifest_file, .progress = {}}));
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(manifest_file, kMaxManifestBytes));
  SEALIFT_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(text));
  SEALIFT_RETURN_IF_ERROR(CheckManifestListed(manifest, release, targets));
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseFile image, manifest.OnlyFile(FileRole::kUki));
  if (but.contains(image.digest)) return false;
  std::vector<ReleaseFile> files = {image};
  if (const auto frames = manifest.OnlyFile(FileRole::kFrameIndex); frames.ok()) files.push_back(*frames);
  for (const ReleaseFile& file : files) {
    const fs::path path = folder / file.path;
    SEALIFT_RETURN_IF_ERROR(MakeDirectories(path.parent_path()));
    SEALIFT_RETURN_IF_ERROR(
        Download(source, {.digest = file.digest, .size = file.size, .file = path, .progress = {}}));
  }
  return true;
}

}  // namespace

EarlierReleases FetchEarlierReleases(const tuf::Targets& targets, std::string_view channel, std::size_t count,
                                     const std::set<Sha256Digest>& but, content::ContentSource& source,
                                     const fs::path& work_folder) {
  EarlierReleases earlier;
  std::vector<ListedRelease> releases = ListReleases(targets);
  std::erase_if(releases, [&](const ListedRelease& release) {
    return release.channel != channel || release.withdrawn.has_value();
  });
  // Oldest first.
  std::reverse(releases.begin(), releases.end());
  if (releases.size() > count)
    releases.erase(releases.begin() + static_cast<std::ptrdiff_t>(count), releases.end());
  for (const ListedRelease& release : releases) {
    const fs::path folder = work_folder / fmt::format("earlier-{}", earlier.folders.size());
    const Result<bool> fetched = FetchOne(targets, release, but, source, folder);
    if (fetched.ok() && *fetched) {
      earlier.folders.push_back(folder);
      earlier.versions.push_back(release.version);
      continue;
    }
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    if (!fetched.ok()) earlier.left_out.push_back({release.version, fetched.status()});
  }
  return earlier;
}

}  // namespace sealift::controller
