#include "controller/source/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "controller/source/image.h"
#include "controller/source/layer_file.h"
#include "controller/source/scratch_file.h"
#include "shared/base/subprocess.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kShownCapabilities = 8;

// The files in an archive that holds an image.
Result<Tree> ReadImageArchive(const fs::path& path, const SourceLimits& limits) {
  SEALIFT_ASSIGN_OR_RETURN(const TreeEntry file, Tree::FileAt(path));
  SourceBudget budget(limits);
  SEALIFT_ASSIGN_OR_RETURN(ScratchFile contents, ScratchFile::Create());
  SEALIFT_ASSIGN_OR_RETURN(LayerFile read, ReadLayerFile(file, contents, budget));
  Tree files;
  SEALIFT_RETURN_IF_ERROR(ApplyLayer(std::move(read.layer), 0, files));
  return files;
}

Result<SourceTree> ReadLayers(const std::vector<LayerBlob>& layers, const SourceLimits& limits) {
  if (layers.size() > limits.max_layers) {
    return MakeError(Code::kResourceExhausted, Reason::kSourceTooLarge,
                     fmt::format("read image: it has {} layers", layers.size()));
  }
  SourceBudget budget(limits);
  SEALIFT_ASSIGN_OR_RETURN(ScratchFile contents, ScratchFile::Create());
  SourceTree source;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    Result<LayerFile> read = ReadLayerFile(layers[i].file, contents, budget);
    if (!read.ok()) return Annotate(read.status(), fmt::format("unpack '{}'", layers[i].name));
    if (read->digest != layers[i].diff_id) {
      return MakeError(
          Code::kInvalidArgument, Reason::kSourceUnusable,
          fmt::format("unpack '{}': it is not the layer of the image's configuration: its digest differs",
                      layers[i].name));
    }
    const Status status = ApplyLayer(std::move(read->layer), i, source.tree);
    if (!status.ok()) return Annotate(status, fmt::format("apply '{}'", layers[i].name));
  }
  source.tree.RemoveVolatileContents();
  SEALIFT_RETURN_IF_ERROR(source.tree.CheckHasUsr());
  return source;
}

// "PATH[:NAME]": PATH may have colons itself, so the longest that exists is taken.
std::pair<fs::path, std::string> SplitReference(std::string_view text) {
  std::error_code error;
  for (std::size_t end = text.size();; end = text.rfind(':', end - 1)) {
    if (end == std::string_view::npos || end == 0) return {fs::path(text), {}};
    if (!fs::exists(fs::path(text.substr(0, end)), error)) continue;
    return {fs::path(text.substr(0, end)), std::string(end == text.size() ? "" : text.substr(end + 1))};
  }
}

Result<SourceTree> ReadOci(const SourceReference& from, const SourceLimits& limits) {
  SEALIFT_ASSIGN_OR_RETURN(const Tree files, Tree::ReadFolder(from.place));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<LayerBlob> layers, OciLayers(files, from.tag));
  return ReadLayers(layers, limits);
}

Result<SourceTree> ReadOciArchive(const SourceReference& from, const SourceLimits& limits) {
  SEALIFT_ASSIGN_OR_RETURN(const Tree files, ReadImageArchive(from.place, limits));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<LayerBlob> layers, OciLayers(files, from.tag));
  return ReadLayers(layers, limits);
}

Result<SourceTree> ReadDockerArchive(const SourceReference& from, const SourceLimits& limits) {
  SEALIFT_ASSIGN_OR_RETURN(const Tree files, ReadImageArchive(from.place, limits));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<LayerBlob> layers, DockerLayers(files, from.tag));
  return ReadLayers(layers, limits);
}

Result<SourceTree> ReadRegistry(const SourceReference& from, const SourceLimits& limits) {
  SEALIFT_ASSIGN_OR_RETURN(const TempDir folder, TempDir::Create("sealift-image"));
  const std::string layout = (folder.path() / "image").string();
  const Result<CommandOutput> output =
      RunCommandChecked({.argv = {"skopeo", "--override-os", "linux", "--override-arch", "amd64", "copy",
                                  "--quiet", from.Text(), fmt::format("oci:{}:image", layout)},
                         .timeout = std::chrono::hours(1)});
  if (!output.ok()) return Annotate(output.status(), fmt::format("fetch '{}'", from.Text()));
  return ReadOci({.kind = "oci", .place = layout, .tag = "image"}, limits);
}

Result<SourceTree> ReadFolder(const SourceReference& from, const SourceLimits&) {
  SourceTree source;
  SEALIFT_ASSIGN_OR_RETURN(source.tree, Tree::Read(fs::path(from.place)));
  return source;
}

struct SourceKind {
  std::string_view name;
  // Whether ":TAG" may follow a path.
  bool tagged;
  Result<SourceTree> (*read)(const SourceReference&, const SourceLimits&);
};
constexpr std::array<SourceKind, 5> kKinds = {{{"dir", false, ReadFolder},
                                               {"oci", true, ReadOci},
                                               {"oci-archive", true, ReadOciArchive},
                                               {"docker-archive", true, ReadDockerArchive},
                                               {"docker", false, ReadRegistry}}};

const SourceKind* KindNamed(std::string_view name) {
  const auto found =
      std::find_if(kKinds.begin(), kKinds.end(), [&](const SourceKind& kind) { return kind.name == name; });
  return found == kKinds.end() ? nullptr : &*found;
}

}  // namespace

std::string LostCapabilities(const Tree& tree) {
  std::vector<std::string> lost;
  std::size_t more = 0;
  for (const auto& [path, entry] : tree.entries()) {
    if (!entry.has_capability) continue;
    if (lost.size() < kShownCapabilities) {
      lost.push_back("/" + path);
    } else {
      ++more;
    }
  }
  if (lost.empty()) return {};
  return fmt::format(
      "an initrd carries no extended attributes: {}{} lose their file capabilities and work for root only",
      fmt::join(lost, ", "), more == 0 ? std::string() : fmt::format(" and {} more", more));
}

std::string SourceReference::Text() const {
  return tag.empty() ? fmt::format("{}:{}", kind, place) : fmt::format("{}:{}:{}", kind, place, tag);
}

Result<SourceReference> ParseSource(std::string_view source) {
  const std::size_t colon = source.find(':');
  const SourceKind* kind = colon == std::string_view::npos ? nullptr : KindNamed(source.substr(0, colon));
  if (kind == nullptr || colon + 1 == source.size()) {
    return MakeError(
        Code::kInvalidArgument, Reason::kInvalidArgument,
        fmt::format("read source '{}': write dir:FOLDER, oci:FOLDER[:TAG], oci-archive:FILE[:TAG], "
                    "docker-archive:FILE[:NAME] or docker://IMAGE",
                    source));
  }
  SourceReference reference{.kind = std::string(kind->name), .place = std::string(source.substr(colon + 1))};
  if (kind->tagged) {
    auto [path, tag] = SplitReference(reference.place);
    reference.place = path.string();
    reference.tag = std::move(tag);
  }
  return reference;
}

Result<SourceTree> ReadSource(std::string_view source, const SourceLimits& limits) {
  SEALIFT_ASSIGN_OR_RETURN(const SourceReference reference, ParseSource(source));
  return KindNamed(reference.kind)->read(reference, limits);
}

}  // namespace sealift::build
