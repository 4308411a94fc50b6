// The wire objects of an image and the index that names them, made where a release is published.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include "controller/delta/delta_builder.h"
#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/delta/image_index.h"

namespace sealift::controller {

struct BuiltObjects {
  delta::ImageIndex index;
  // Serialized, and its name in the store.
  Bytes index_bytes;
  Sha256Digest index_digest;
  // Made now, in `folder` by their digests; those that `before` had are not among them.
  std::vector<delta::ObjectName> fresh;
  std::uint32_t opaque = 0;
};

struct ObjectOptions {
  // Objects go here, named by their digests.
  std::filesystem::path folder;
  // Indexes of earlier releases: what they name is in the store already and not made again.
  std::vector<delta::ImageIndex> before;
  // Images that nodes are expected to have: their parts get no objects.
  std::vector<std::filesystem::path> seeds;
  // 0: as many as the machine has hardware threads.
  unsigned threads = 0;
  // Called with parts done and all of them, one call at a time.
  std::function<void(std::size_t, std::size_t)> progress;
};

// Proves of every part that its object gives back its bytes; what does not is sent as it lies in the image.
// Memory: at most 230 MiB a thread. Errors: those of the files.
Result<BuiltObjects> BuildImageObjects(const DeltaImage& image, const ObjectOptions& options);

}  // namespace sealift::controller
