// Makes an image from an older one and a delta.
//
// Thread-safe functions. Memory: a part's references up to 64 MiB (larger ones go to an unlinked file in
// `work_folder`), the three streams' dictionaries, one encoder: together below 192 MiB whatever the images'
// sizes.
#pragma once

#include <filesystem>

#include "shared/delta/delta_format.h"
#include "shared/delta/open_file.h"

namespace sealift::delta {

struct ApplyOptions {
  // Of the state partition.
  std::filesystem::path work_folder;
  // Bytes of the target made so far, now and then.
  std::function<void(std::uint64_t)> progress;
};

// `source`: what the delta says it is for; its digest is the caller's to check. Each packed part is checked
// against its digest before a byte of it is handed on, but for parts above 64 MiB, whose digest is checked
// at their end; the whole target's digest at the very end, so what the sink got counts only with success.
// Errors: INVALID_ARGUMENT/DELTA_INVALID; those of the files and of the sink.
Status ApplyDelta(const OpenFile& delta, const OpenFile& source, const ApplyOptions& options,
                  const Sink& sink);

}  // namespace sealift::delta
