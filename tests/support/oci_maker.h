// Writes OCI image layouts by hand, so that each of their promises can be broken.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"

namespace sealift::test {

class OciMaker {
 public:
  using Json = nlohmann::json;
  static constexpr char kManifest[] = "application/vnd.oci.image.manifest.v1+json";
  static constexpr char kIndex[] = "application/vnd.oci.image.index.v1+json";

  OciMaker() : folder_(TempDir::Create("sealift-oci").value()) {
    Write("oci-layout", R"({"imageLayoutVersion":"1.0.0"})");
  }
  const std::filesystem::path& path() const { return folder_.path(); }
  std::string source() const { return "oci:" + path().string(); }

  // A blob's descriptor.
  Json Blob(const std::string& text, const std::string& type) {
    const std::string hex = Sha256(AsBytes(text)).hex();
    Write("blobs/sha256/" + hex, text);
    return {{"mediaType", type}, {"digest", "sha256:" + hex}, {"size", text.size()}};
  }
  // An image of plain layers; its descriptor.
  Json Image(const std::vector<std::string>& layers, const std::string& architecture = "amd64") {
    Json config = {{"os", "linux"}, {"architecture", architecture}, {"rootfs", {{"type", "layers"}}}};
    Json manifest = {{"schemaVersion", 2}, {"layers", Json::array()}};
    config["rootfs"]["diff_ids"] = Json::array();
    for (const std::string& layer : layers) {
      config["rootfs"]["diff_ids"].push_back("sha256:" + Sha256(AsBytes(layer)).hex());
      manifest["layers"].push_back(Blob(layer, "application/vnd.oci.image.layer.v1.tar"));
    }
    manifest["config"] = Blob(config.dump(), "application/vnd.oci.image.config.v1+json");
    return Blob(manifest.dump(), kManifest);
  }
  OciMaker& Index(const std::vector<Json>& images) {
    Write("index.json", Json{{"schemaVersion", 2}, {"manifests", images}}.dump());
    return *this;
  }
  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((path() / name).parent_path());
    if (!WriteFileAtomically(path() / name, AsBytes(text)).ok()) std::abort();
  }

 private:
  TempDir folder_;
};

}  // namespace sealift::test
