// What an image says of itself: which blobs are its layers, in order, and what each must hash to.
//
// Both forms are read from a tree of files: the folder of an OCI image layout, or what is in the archive.
// Thread-safe functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "controller/source/tree.h"

namespace sealift::build {

struct LayerBlob {
  // For messages.
  std::string name;
  // Where its bytes are, checked already where the format names them by digest.
  TreeEntry file;
  // SHA-256 of the tar archive that it decompresses to.
  Sha256Digest diff_id;
};

// OCI image-spec 1.1: oci-layout, index.json, blobs/sha256. `tag`: the annotation
// org.opencontainers.image.ref.name; empty where the layout holds one image. Errors: SOURCE_UNUSABLE.
Result<std::vector<LayerBlob>> OciLayers(const Tree& files, std::string_view tag);

// manifest.json of `docker save`. `name`: one of RepoTags; empty where the archive holds one image. Errors:
// SOURCE_UNUSABLE.
Result<std::vector<LayerBlob>> DockerLayers(const Tree& files, std::string_view name);

}  // namespace sealift::build
