#include "controller/media/oci_archive.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "controller/media/tar_file.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::media {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kManifestType[] = "application/vnd.oci.image.manifest.v1+json";

// Collects the files of the layout, each written below `work`.
class Layout {
 public:
  explicit Layout(fs::path work) : work_(std::move(work)) {}

  Status Add(const std::string& path, std::string_view text) {
    SEALIFT_RETURN_IF_ERROR(MakeDirectories((work_ / path).parent_path()));
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(work_ / path, AsBytes(text)));
    files_.push_back({.path = path, .source = work_ / path});
    return OkStatus();
  }
  // A blob and its descriptor.
  Result<json> AddBlob(const json& content, const char* type) {
    const std::string text = content.dump();
    const std::string digest = Sha256(AsBytes(text)).hex();
    SEALIFT_RETURN_IF_ERROR(Add("blobs/sha256/" + digest, text));
    return json{{"mediaType", type}, {"digest", "sha256:" + digest}, {"size", text.size()}};
  }
  void AddExisting(std::string path, fs::path source) {
    files_.push_back({.path = std::move(path), .source = std::move(source)});
  }
  std::vector<MediaFile> Sorted() const {
    std::vector<MediaFile> files = files_;
    std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
    return files;
  }

 private:
  fs::path work_;
  std::vector<MediaFile> files_;
};

std::string BlobPath(const json& descriptor) {
  return "blobs/sha256/" +
         descriptor.at("digest").get<std::string>().substr(std::string_view("sha256:").size());
}

}  // namespace

Status WriteOciArchive(const fs::path& out, const fs::path& work, const OciImage& image, const Stamp& stamp) {
  const fs::path layer_file = work / "layer.tar";
  SEALIFT_ASSIGN_OR_RETURN(const WrittenTar layer, WriteTar(layer_file, image.files, stamp.time));
  Layout layout(work / "layout");
  const std::string layer_digest = "sha256:" + layer.digest.hex();
  const std::string created = FormatRfc3339(stamp.time);
  SEALIFT_ASSIGN_OR_RETURN(
      const json config,
      layout.AddBlob(
          {{"created", created},
           {"architecture", "amd64"},
           {"os", "linux"},
           {"config", {{"Labels", {{"org.opencontainers.image.version", image.version}}}}},
           {"rootfs", {{"type", "layers"}, {"diff_ids", {layer_digest}}}},
           {"history", json::array({{{"created", created}, {"created_by", "sealift build-uki"}}})}},
          "application/vnd.oci.image.config.v1+json"));
  const json layer_descriptor = {{"mediaType", "application/vnd.oci.image.layer.v1.tar"},
                                 {"digest", layer_digest},
                                 {"size", layer.bytes}};
  layout.AddExisting(BlobPath(layer_descriptor), layer_file);
  SEALIFT_ASSIGN_OR_RETURN(json manifest, layout.AddBlob({{"schemaVersion", 2},
                                                          {"mediaType", kManifestType},
                                                          {"config", config},
                                                          {"layers", {layer_descriptor}}},
                                                         kManifestType));
  const std::string tag = image.reference.substr(image.reference.rfind(':') + 1);
  manifest["annotations"] = {{"org.opencontainers.image.ref.name", tag},
                             {"io.containerd.image.name", image.reference}};
  SEALIFT_RETURN_IF_ERROR(layout.Add("oci-layout", json{{"imageLayoutVersion", "1.0.0"}}.dump()));
  SEALIFT_RETURN_IF_ERROR(
      layout.Add("index.json", json{{"schemaVersion", 2},
                                    {"mediaType", "application/vnd.oci.image.index.v1+json"},
                                    {"manifests", {manifest}}}
                                   .dump()));
  // docker load reads this one.
  SEALIFT_RETURN_IF_ERROR(
      layout.Add("manifest.json", json::array({{{"Config", BlobPath(config)},
                                                {"RepoTags", {image.reference}},
                                                {"Layers", {BlobPath(layer_descriptor)}}}})
                                      .dump()));
  return WriteTar(out, layout.Sorted(), stamp.time).status();
}

}  // namespace sealift::media
