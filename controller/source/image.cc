#include "controller/source/image.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "shared/crypto/hash.h"

namespace sealift::build {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxJsonBytes = 4u << 20;
constexpr int kMaxIndexDepth = 4;
constexpr std::size_t kPieceBytes = 128u << 10;
constexpr char kTagAnnotation[] = "org.opencontainers.image.ref.name";
constexpr const char* kLayerTypes[] = {"application/vnd.oci.image.layer.v1.tar",
                                       "application/vnd.oci.image.layer.v1.tar+gzip",
                                       "application/vnd.oci.image.layer.v1.tar+zstd",
                                       "application/vnd.oci.image.layer.nondistributable.v1.tar",
                                       "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                                       "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                                       "application/vnd.docker.image.rootfs.diff.tar",
                                       "application/vnd.docker.image.rootfs.diff.tar.gzip",
                                       "application/vnd.docker.image.rootfs.diff.tar.zstd",
                                       "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"};
constexpr const char* kIndexTypes[] = {"application/vnd.oci.image.index.v1+json",
                                       "application/vnd.docker.distribution.manifest.list.v2+json"};
constexpr const char* kManifestTypes[] = {"application/vnd.oci.image.manifest.v1+json",
                                          "application/vnd.docker.distribution.manifest.v2+json"};

Status Unusable(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kSourceUnusable, fmt::format("read image: {}", what));
}

template <std::size_t N>
bool OneOf(const char* const (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// "" and an empty list where there is none of that kind.
std::string Text(const Json& object, const char* name) {
  const auto at = object.is_object() ? object.find(name) : object.end();
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}
const Json& Member(const Json& object, const char* name) {
  static const Json kNothing;
  const auto at = object.is_object() ? object.find(name) : object.end();
  return at == object.end() ? kNothing : *at;
}

Result<const TreeEntry*> FindFile(const Tree& files, const std::string& name) {
  const TreeEntry* entry = files.Find(files.Resolve(name));
  if (entry != nullptr && S_ISREG(entry->mode)) return entry;
  return Unusable(fmt::format("it has no file '{}'", name));
}

Result<Bytes> ReadSmall(const Tree& files, const std::string& name) {
  SEALIFT_ASSIGN_OR_RETURN(const TreeEntry* const entry, FindFile(files, name));
  if (entry->size > kMaxJsonBytes) return Unusable(fmt::format("'{}' is larger than 4 MiB", name));
  return Tree::Contents(*entry);
}

Result<Json> ParseJson(ByteView bytes, std::string_view name) {
  Json json = Json::parse(AsText(bytes), nullptr, false);
  if (json.is_object() || json.is_array()) return json;
  return Unusable(fmt::format("'{}' is no JSON", name));
}

Result<Sha256Digest> ParseDigest(const std::string& text) {
  constexpr std::string_view kPrefix = "sha256:";
  if (text.starts_with(kPrefix)) {
    Result<Sha256Digest> digest = Sha256Digest::FromHex(text.substr(kPrefix.size()));
    if (digest.ok()) return digest;
  }
  return Unusable(fmt::format("'{}' is no SHA-256 digest", text.substr(0, 100)));
}

Result<Sha256Digest> HashOf(const TreeEntry& entry) {
  SEALIFT_ASSIGN_OR_RETURN(ContentReader reader, Tree::Open(entry));
  Sha256Hasher hasher;
  Bytes buffer(kPieceBytes);
  while (true) {
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, reader.Read(buffer));
    if (got == 0) return hasher.Finish();
    hasher.Update(ByteView(buffer).first(got));
  }
}

// The blob of a descriptor, once its bytes are what the descriptor says.
Result<TreeEntry> FindBlob(const Tree& files, const Json& descriptor) {
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, ParseDigest(Text(descriptor, "digest")));
  SEALIFT_ASSIGN_OR_RETURN(const TreeEntry* const entry,
                           FindFile(files, fmt::format("blobs/sha256/{}", digest.hex())));
  const Json& size = Member(descriptor, "size");
  if (!size.is_number_unsigned() || size.get<std::uint64_t>() != entry->size)
    return Unusable(fmt::format("blob {} is not of the size that is said", digest.hex()));
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest actual, HashOf(*entry));
  if (actual != digest) return Unusable(fmt::format("blob {} is damaged: its digest differs", digest.hex()));
  return *entry;
}

Result<Json> JsonBlob(const Tree& files, const Json& descriptor) {
  SEALIFT_ASSIGN_OR_RETURN(const TreeEntry entry, FindBlob(files, descriptor));
  if (entry.size > kMaxJsonBytes) return Unusable("a manifest is larger than 4 MiB");
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, Tree::Contents(entry));
  return ParseJson(bytes, Text(descriptor, "digest"));
}

bool ForThisPlatform(const Json& descriptor) {
  const Json& platform = Member(descriptor, "platform");
  return Text(platform, "os") == "linux" && Text(platform, "architecture") == "amd64";
}

// The one descriptor that is meant: by tag, else the only one, else the only one for this platform.
Result<const Json*> Choose(const Json& index, std::string_view tag) {
  const Json& manifests = Member(index, "manifests");
  if (!manifests.is_array()) return Unusable("an index lists no images");
  std::vector<const Json*> found;
  std::string names;
  for (const Json& one : manifests) {
    const std::string name = Text(Member(one, "annotations"), kTagAnnotation);
    if (!name.empty() && names.size() < 200) names += (names.empty() ? "" : ", ") + name;
    if (tag.empty() || name == tag) found.push_back(&one);
  }
  if (found.size() > 1) std::erase_if(found, [](const Json* one) { return !ForThisPlatform(*one); });
  if (found.size() == 1) return found[0];
  return Unusable(fmt::format("{} image {}; its images are named: {}",
                              found.empty() ? "it has no" : "it has several",
                              tag.empty() ? std::string("for linux/amd64") : fmt::format("'{}'", tag),
                              names.empty() ? "(not at all)" : names));
}

Result<std::vector<Sha256Digest>> DiffIds(const Json& config) {
  const std::string os = Text(config, "os");
  const std::string architecture = Text(config, "architecture");
  if (os != "linux" || architecture != "amd64")
    return Unusable(fmt::format("it is for {}/{} instead of linux/amd64", os, architecture));
  const Json& list = Member(Member(config, "rootfs"), "diff_ids");
  if (!list.is_array()) return Unusable("its configuration lists no layers");
  std::vector<Sha256Digest> ids;
  for (const Json& one : list) {
    if (!one.is_string()) return Unusable("its configuration is malformed");
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest id, ParseDigest(one.get<std::string>()));
    ids.push_back(id);
  }
  return ids;
}

}  // namespace

Result<std::vector<LayerBlob>> OciLayers(const Tree& files, std::string_view tag) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes layout_text, ReadSmall(files, "oci-layout"));
  SEALIFT_ASSIGN_OR_RETURN(const Json layout, ParseJson(layout_text, "oci-layout"));
  if (!Text(layout, "imageLayoutVersion").starts_with("1."))
    return Unusable("its layout is not of version 1");
  SEALIFT_ASSIGN_OR_RETURN(const Bytes index_text, ReadSmall(files, "index.json"));
  SEALIFT_ASSIGN_OR_RETURN(Json document, ParseJson(index_text, "index.json"));
  for (int depth = 0;; ++depth) {
    if (depth == kMaxIndexDepth) return Unusable("its indexes lead nowhere");
    SEALIFT_ASSIGN_OR_RETURN(const Json* const chosen, Choose(document, depth == 0 ? tag : ""));
    const std::string type = Text(*chosen, "mediaType");
    if (!OneOf(kManifestTypes, type) && !OneOf(kIndexTypes, type))
      return Unusable(fmt::format("'{}' is no image", type.substr(0, 100)));
    SEALIFT_ASSIGN_OR_RETURN(Json next, JsonBlob(files, *chosen));
    document = std::move(next);
    if (OneOf(kManifestTypes, type)) break;
  }
  const Json& list = Member(document, "layers");
  if (!list.is_array()) return Unusable("its manifest lists no layers");
  SEALIFT_ASSIGN_OR_RETURN(const Json config, JsonBlob(files, Member(document, "config")));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Sha256Digest> diff_ids, DiffIds(config));
  if (diff_ids.size() != list.size()) return Unusable("manifest and configuration disagree about its layers");
  std::vector<LayerBlob> layers;
  for (const Json& one : list) {
    const std::string type = Text(one, "mediaType");
    if (!OneOf(kLayerTypes, type))
      return Unusable(
          fmt::format("a layer is of the kind '{}', which is not known here", type.substr(0, 100)));
    LayerBlob layer{.name = Text(one, "digest"), .diff_id = diff_ids[layers.size()]};
    SEALIFT_ASSIGN_OR_RETURN(layer.file, FindBlob(files, one));
    layers.push_back(std::move(layer));
  }
  return layers;
}

Result<std::vector<LayerBlob>> DockerLayers(const Tree& files, std::string_view name) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes text, ReadSmall(files, "manifest.json"));
  SEALIFT_ASSIGN_OR_RETURN(const Json images, ParseJson(text, "manifest.json"));
  std::vector<const Json*> found;
  if (images.is_array()) {
    for (const Json& one : images) {
      const Json& tags = Member(one, "RepoTags");
      const bool named = tags.is_array() && std::find(tags.begin(), tags.end(), Json(name)) != tags.end();
      if (name.empty() || named) found.push_back(&one);
    }
  }
  if (found.size() != 1) {
    return Unusable(fmt::format("it has {} image{}", found.empty() ? "no" : "more than one",
                                name.empty() ? std::string() : fmt::format(" named '{}'", name)));
  }
  const Json& image = *found[0];
  const std::string config_name = Text(image, "Config");
  SEALIFT_ASSIGN_OR_RETURN(const Bytes config_text, ReadSmall(files, config_name));
  // "HEX.json" or "blobs/sha256/HEX".
  const std::string stem = std::filesystem::path(config_name).stem().string();
  if (const auto digest = Sha256Digest::FromHex(stem); digest.ok() && *digest != Sha256(config_text))
    return Unusable(fmt::format("'{}' is damaged: its digest differs", config_name));
  SEALIFT_ASSIGN_OR_RETURN(const Json config, ParseJson(config_text, config_name));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Sha256Digest> diff_ids, DiffIds(config));
  const Json& list = Member(image, "Layers");
  if (!list.is_array() || list.size() != diff_ids.size())
    return Unusable("manifest and configuration disagree about its layers");
  std::vector<LayerBlob> layers;
  for (const Json& one : list) {
    if (!one.is_string()) return Unusable("its manifest is malformed");
    LayerBlob layer{.name = one.get<std::string>(), .diff_id = diff_ids[layers.size()]};
    SEALIFT_ASSIGN_OR_RETURN(const TreeEntry* const entry, FindFile(files, layer.name));
    layer.file = *entry;
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace sealift::build
