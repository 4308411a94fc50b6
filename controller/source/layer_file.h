// A layer in a file: decompressed, hashed and counted while it is read.
//
// Used by one thread.
#pragma once

#include "controller/source/layer.h"

namespace sealift::build {

struct LayerFile {
  Layer layer;
  // SHA-256 of the tar archive, whatever it was compressed with: what images call diff_id.
  Sha256Digest digest;
};

// Contents go to the end of `contents`. Errors: those of ReadLayer and of Tree::Open.
Result<LayerFile> ReadLayerFile(const TreeEntry& file, ScratchFile& contents, SourceBudget& budget);

}  // namespace sealift::build
