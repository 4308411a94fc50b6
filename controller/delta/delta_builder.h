// Makes the delta between two images, once, where the release is published.
//
// Thread-safe functions. Memory: at most 1 GiB whatever the images' sizes (5 times the largest reference, up
// to 96 MiB at a time, and three packers); the delta itself.
#pragma once

#include <filesystem>
#include <optional>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/content/frame_index.h"
#include "shared/delta/image_parts.h"
#include "shared/delta/open_file.h"

namespace sealift::controller {

struct DeltaImage {
  std::filesystem::path file;
  // Says which frames hold which files. Without it, or when it is another image's, frames are compared with
  // those of the same place.
  std::optional<content::FrameIndex> frames;
};

struct BuiltDelta {
  Bytes bytes;
  Sha256Digest source;
  Sha256Digest target;
  std::uint64_t target_size = 0;
  // Parts of the target: taken as they are, made from references, sent as packed (see below).
  std::uint32_t copied = 0;
  std::uint32_t patched = 0;
  // Packed by a library or level that could not be reproduced here.
  std::uint32_t opaque = 0;
  // Of the delta's bytes.
  std::uint64_t control = 0;
  std::uint64_t difference = 0;
  std::uint64_t extra = 0;
  std::uint64_t patches = 0;
};

// Applies what it made before it gives it back, so that a delta that does not rebuild the image never leaves.
// `work_folder` takes unlinked files for large parts. Errors: those of the files; INTERNAL when the proof
// fails.
Result<BuiltDelta> BuildDelta(const DeltaImage& source, const DeltaImage& target,
                              const std::filesystem::path& work_folder);

// What reproduces a packed part: the level its bytes come from, by trying `hint` first; nothing when none
// does. Errors: those of the file.
Result<std::optional<int>> FindLevel(const delta::OpenFile& image, const delta::ImagePart& part, int hint);

}  // namespace sealift::controller
