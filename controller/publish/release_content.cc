#include "controller/publish/release_content.h"

#include <fmt/format.h>

#include "controller/delta/image_objects.h"
#include "shared/base/files.h"
#include "shared/content/download.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxManifestBytes = 1u << 20;

Result<DeltaImage> MainImage(const Manifest& manifest, const fs::path& directory) {
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseFile file, manifest.OnlyFile(FileRole::kUki));
  DeltaImage image{.file = directory / file.path, .frames = {}};
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, content::HashFile(image.file, file.size));
  if (digest != file.digest) {
    return MakeError(
        Code::kFailedPrecondition, Reason::kReleaseChanged,
        fmt::format("read release: '{}' is not the file that release.json describes", image.file.string()));
  }
  // A release without an index of its frames has larger deltas, no worse ones.
  const auto frames = manifest.OnlyFile(FileRole::kFrameIndex);
  if (!frames.ok()) return image;
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(directory / frames->path));
  SEALIFT_ASSIGN_OR_RETURN(image.frames, content::ParseFrameIndex(text));
  return image;
}

Status Add(ReleaseContent& content, const fs::path& folder, ByteView bytes, delta::ContentName& name) {
  name = {.digest = Sha256(bytes), .size = bytes.size()};
  const fs::path file = folder / name.digest.hex();
  SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(file, bytes));
  content.objects.push_back({.name = name, .file = file});
  return OkStatus();
}

struct Start {
  DeltaImage image;
  BuiltDelta delta;
};

Result<Start> DeltaFrom(const fs::path& folder, const DeltaImage& image, const fs::path& work_folder) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(folder / "release.json", kMaxManifestBytes));
  SEALIFT_ASSIGN_OR_RETURN(const Manifest before, ParseManifest(text));
  SEALIFT_ASSIGN_OR_RETURN(DeltaImage source, MainImage(before, folder));
  SEALIFT_ASSIGN_OR_RETURN(BuiltDelta built, BuildDelta(source, image, work_folder));
  return Start{.image = std::move(source), .delta = std::move(built)};
}

}  // namespace

Result<ReleaseContent> MakeReleaseContent(const Manifest& manifest, const fs::path& directory,
                                          const std::vector<EarlierBuild>& earlier,
                                          const fs::path& work_folder) {
  ReleaseContent content;
  SEALIFT_ASSIGN_OR_RETURN(const DeltaImage image, MainImage(manifest, directory));
  ObjectOptions options{.folder = work_folder, .before = {}, .seeds = {}, .threads = 0, .progress = {}};
  delta::ImageContent offered;
  for (const EarlierBuild& build : earlier) {
    const Result<Start> start = DeltaFrom(build.folder, image, work_folder);
    if (!start.ok() && build.optional) {
      content.left_out.push_back({build.version, start.status()});
      continue;
    }
    SEALIFT_RETURN_IF_ERROR(start.status());
    const BuiltDelta& built = start->delta;
    options.seeds.push_back(start->image.file);
    // One image that two versions share needs no delta, and one that gains nothing is none.
    const bool useful = built.source != built.target && built.bytes.size() < built.target_size;
    content.delta_bytes.push_back(useful ? built.bytes.size() : 0);
    if (useful) SEALIFT_RETURN_IF_ERROR(Add(content, work_folder, built.bytes, offered.deltas[built.source]));
  }
  SEALIFT_ASSIGN_OR_RETURN(const BuiltObjects objects, BuildImageObjects(image, options));
  for (const delta::ObjectName& object : objects.fresh) {
    content.objects.push_back(
        {.name = {.digest = object.digest, .size = object.size}, .file = work_folder / object.digest.hex()});
  }
  delta::ContentName index;
  SEALIFT_RETURN_IF_ERROR(Add(content, work_folder, objects.index_bytes, index));
  offered.index = index;
  delta::ContentList list;
  list.images[objects.index.digest] = std::move(offered);
  content.list_json = SerializeContentList(list);
  SEALIFT_RETURN_IF_ERROR(Add(content, work_folder, AsBytes(content.list_json), content.list));
  return content;
}

}  // namespace sealift::controller
