// LEB128 numbers and digests out of memory. Included by this folder alone; belongs to one thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include "shared/base/bytes.h"

namespace sealift::delta {

// After the first bad read every later one gives 0.
class Numbers {
 public:
  explicit Numbers(ByteView bytes) : bytes_(bytes) {}
  std::uint64_t Next() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 63; shift += 7) {
      const ByteView byte = Take(1);
      if (byte.empty()) return 0;
      value |= static_cast<std::uint64_t>(byte[0] & 0x7fu) << shift;
      if (byte[0] < 0x80) return value;
    }
    ok_ = false;
    return 0;
  }
  ByteView Take(std::size_t size) {
    if (!ok_ || size > bytes_.size()) {
      ok_ = false;
      return {};
    }
    const ByteView taken = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return taken;
  }
  Sha256Digest Digest() {
    Sha256Digest digest;
    const ByteView bytes = Take(digest.bytes.size());
    std::ranges::copy(bytes, digest.bytes.begin());
    return digest;
  }
  bool ok() const { return ok_; }
  std::size_t left() const { return bytes_.size(); }

 private:
  ByteView bytes_;
  bool ok_ = true;
};

}  // namespace sealift::delta
