// A UKI as parts: what is packed in it lies apart, so that both sides can unpack it, compare it and pack it
// again.
//
// Each section's zstd frames (.initrd), the kernel's LZ4 payload (.linux; Documentation/arch/x86/boot.rst of
// the kernel), and stretches between. Controller and node split with this one function. Thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/delta/encoding.h"
#include "shared/delta/open_file.h"

namespace sealift::delta {

struct ImagePart {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  Encoding encoding = Encoding::kPlain;
  // Of the unpacked part; equals `size` for a plain one.
  std::uint64_t raw_size = 0;

  bool operator==(const ImagePart&) const = default;
};

inline constexpr std::size_t kMaxImageParts = 65536;

// Parts follow each other without a gap from the first byte to the last. What is not understood is plain: a
// frame without a content size, a kernel packed otherwise, a file that is no PE image (one part). Lengths in
// the image are checked against the file only; nothing is unpacked. Errors: those of the file.
Result<std::vector<ImagePart>> SplitImage(const OpenFile& image);

}  // namespace sealift::delta
