#include "controller/build/esp_tree.h"

#include <fmt/format.h>

#include "controller/build/fat_names.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "shared/uki/content_source.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;

}  // namespace

Status CheckOutputFolder(const fs::path& out) {
  std::error_code error;
  const fs::path name = out.has_filename() ? out : out.parent_path();
  if (fs::is_symlink(name, error)) {
    // It could not be replaced in one step at the end.
    return MakeError(
        Code::kFailedPrecondition, Reason::kOutputNotEmpty,
        fmt::format("write release to '{}': it is a symbolic link; name what it leads to", out.string()));
  }
  if (!fs::exists(out, error)) return OkStatus();
  const bool folder = fs::is_directory(out, error);
  if (folder && (fs::is_empty(out, error) || fs::exists(out / kManifestFile, error))) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kOutputNotEmpty,
                   fmt::format("write release to '{}': {}", out.string(),
                               folder ? "it holds something else" : "it is not a folder"));
}

Result<EspTree> EspTree::Create(const fs::path& out) {
  SEALIFT_RETURN_IF_ERROR(CheckOutputFolder(out));
  SEALIFT_ASSIGN_OR_RETURN(OutputFolder folder, OutputFolder::Create(out));
  return EspTree(std::move(folder));
}

Status EspTree::Write(const std::string& path, FileRole role, ByteView bytes,
                      const Sha256Digest* authenticode) {
  SEALIFT_ASSIGN_OR_RETURN(const fs::path place, PlaceFor(path));
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(place, bytes));
  Add({.path = path, .role = role, .digest = Sha256(bytes), .size = bytes.size()}, authenticode);
  return OkStatus();
}

Result<fs::path> EspTree::PlaceFor(const std::string& path) {
  fs::path place = folder_.path() / path;
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(place.parent_path()));
  return place;
}

Status EspTree::AddWritten(const std::string& path, FileRole role, const Sha256Digest* authenticode) {
  SEALIFT_ASSIGN_OR_RETURN(const uki::SourceFile file, uki::OpenSource(folder_.path() / path, UINT32_MAX));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, uki::DigestSource(file.source));
  Add({.path = path, .role = role, .digest = digest, .size = file.source.size()}, authenticode);
  return OkStatus();
}

void EspTree::Add(ReleaseFile file, const Sha256Digest* authenticode) {
  if (authenticode != nullptr) file.authenticode = *authenticode;
  files_.push_back(std::move(file));
}

std::uint64_t EspTree::total_bytes() const {
  std::uint64_t total = 0;
  for (const ReleaseFile& file : files_)
    if (file.role != FileRole::kFrameIndex && file.role != FileRole::kSbom) total += file.size;
  return total;
}

Result<Manifest> EspTree::Commit(Manifest manifest) {
  std::vector<std::string> paths = {kManifestFile};
  for (const ReleaseFile& file : files_) paths.push_back(file.path);
  SEALIFT_RETURN_IF_ERROR(CheckFatNames(paths, "release"));
  manifest.files = files_;
  const std::string text = SerializeManifest(manifest);
  SEALIFT_RETURN_IF_ERROR(ParseManifest(text).status());
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(folder_.path() / kManifestFile, AsBytes(text)));
  SEALIFT_RETURN_IF_ERROR(folder_.Commit());
  return manifest;
}

}  // namespace sealift::build
