// Reads what PackInitrd writes, with nothing but libzstd.
#pragma once

#include <gtest/gtest.h>
#include <zstd.h>

#include <string>

#include "shared/base/bytes.h"

namespace sealift::test {

// All frames, decompressed one after the other.
inline std::string UnpackFrames(ByteView packed) {
  std::string out;
  while (!packed.empty()) {
    const std::size_t size = ZSTD_findFrameCompressedSize(packed.data(), packed.size());
    if (ZSTD_isError(size) != 0) break;  // the padding at the end
    std::string frame(ZSTD_getFrameContentSize(packed.data(), packed.size()), '\0');
    EXPECT_EQ(ZSTD_decompress(frame.data(), frame.size(), packed.data(), size), frame.size());
    out += frame;
    packed = packed.subspan(size);
  }
  for (const std::uint8_t byte : packed) EXPECT_EQ(byte, 0);
  return out;
}

}  // namespace sealift::test
