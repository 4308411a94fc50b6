#include "controller/buildhost/medium.h"

#include <fmt/format.h>

#include "controller/build/esp_tree.h"
#include "controller/build/fat_names.h"
#include "controller/media/install_iso.h"
#include "controller/media/oci_archive.h"
#include "shared/base/files.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

// Those of the key set that there are.
std::vector<media::MediaFile> KeyFiles(const fs::path& folder) {
  std::vector<media::MediaFile> files;
  for (const std::string& path : KeyFileNames()) {
    const fs::path source = folder / fs::path(path).filename();
    std::error_code error;
    if (fs::is_regular_file(source, error)) files.push_back({.path = path, .source = source});
  }
  return files;
}

Result<std::vector<media::MediaFile>> OverlayFiles(const fs::path& overlay) {
  if (overlay.empty()) return std::vector<media::MediaFile>();
  return media::ListFiles(overlay);
}

void Append(std::vector<media::MediaFile>& to, const std::vector<media::MediaFile>& files) {
  to.insert(to.end(), files.begin(), files.end());
}

std::string FileName(const MediumOptions& options, const std::string& version) {
  const bool iso = options.type == "iso";
  if (!options.name.empty()) return options.name + (iso ? ".iso" : ".tar");
  return fmt::format("{}{}{}", iso ? "kairos_" : "kairos_uki_", version, iso ? ".iso" : ".tar");
}

}  // namespace

std::vector<std::string> KeyFileNames() {
  std::vector<std::string> paths;
  for (const char* name : {"KEK", "PK", "db", "dbx"})
    for (const char* form : {"auth", "der", "esl"}) paths.push_back(fmt::format("keys/{}.{}", name, form));
  return paths;
}

Status CheckMediumOptions(const MediumOptions& options) {
  if (!options.name.empty()) {
    if (options.name.find('/') != std::string::npos || options.name.front() == '.') {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("name medium '{}': it must be a plain file name", options.name));
    }
    SEALIFT_RETURN_IF_ERROR(build::CheckFatNames({options.name}, "name of the medium"));
  }
  if (!options.overlay.empty() && options.type != "iso") {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "take overlay onto the medium: only an ISO has room beside the EFI system partition");
  }
  SEALIFT_ASSIGN_OR_RETURN(std::vector<media::MediaFile> files, OverlayFiles(options.overlay));
  Append(files, KeyFiles(options.keys_folder));
  std::vector<std::string> paths = {media::kEspImageFile, "boot.catalog", build::kManifestFile,
                                    build::kFrameIndexFile, build::kSbomFile};
  for (const media::MediaFile& file : files) paths.push_back(file.path);
  return build::CheckFatNames(paths, "files beside the EFI system partition");
}

Result<std::string> MakeMedium(const MediumOptions& options, const fs::path& folder,
                               const Manifest& manifest) {
  const std::string id = ReleaseIdOf(SerializeManifest(manifest)).hex();
  const media::Stamp stamp{.time = options.built, .id = id.substr(0, 32)};
  const std::string name = FileName(options, manifest.version);
  const fs::path tree = folder / "tree";
  const fs::path work = folder / "work";
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(work));
  SEALIFT_ASSIGN_OR_RETURN(std::vector<media::MediaFile> files, media::ListFiles(tree));
  if (options.type == "container") {
    const std::string reference = fmt::format("kairos_uki:{}", manifest.version);
    SEALIFT_RETURN_IF_ERROR(media::WriteOciArchive(
        folder / name, work, {.reference = reference, .version = manifest.version, .files = files}, stamp));
    return name;
  }
  const std::vector<media::MediaFile> keys = KeyFiles(options.keys_folder);
  SEALIFT_ASSIGN_OR_RETURN(std::vector<media::MediaFile> root, OverlayFiles(options.overlay));
  Append(root, keys);
  // What only describes the release (index, packages) needs no room on the EFI system partition.
  for (const media::MediaFile& file : files)
    if (file.path.find('/') == std::string::npos) root.push_back(file);
  std::erase_if(files, [](const media::MediaFile& file) {
    return file.path.find('/') == std::string::npos && file.path != build::kManifestFile;
  });
  Append(files, keys);
  SEALIFT_RETURN_IF_ERROR(
      media::WriteInstallIso(folder / name, work, {.esp = std::move(files), .root = std::move(root)}, stamp));
  return name;
}

}  // namespace sealift::controller
