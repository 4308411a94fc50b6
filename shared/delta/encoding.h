// How parts of an image are packed, taken apart and packed again to the very same bytes.
//
// The bytes are part of the format: a node makes them again from what it has, and a signature covers them. So
// both sides carry these versions of the libraries (Debian 12: zstd 1.5.4, lz4 1.9.4), linked statically into
// the agent; whoever describes a part proves first that they reproduce it. Thread-safe functions; an Encoder
// belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/delta/open_file.h"

namespace sealift::delta {

// Values are wire format; do not renumber.
enum class Encoding : std::uint8_t {
  // As it is.
  kPlain = 0,
  // One zstd frame as controller/build/initrd.h makes it.
  kZstdFrame = 1,
  // Blocks of 8 MiB in the legacy format of lz4, as the kernel's build makes it (`lz4 -l -9`).
  kLz4Legacy = 2,
};

// Longer ones are not taken apart.
inline constexpr std::uint64_t kMaxRawBytes = 1ull << 30;

// Packs what it is fed.
class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual Status Put(ByteView raw) = 0;
  virtual Status Finish() = 0;
};

// `level`: 1 to 19 for zstd, 3 to 12 for lz4, else 0. `sink` is borrowed until Finish. Zstd needs `raw_size`
// ahead. Errors: INVALID_ARGUMENT/DELTA_INVALID for a level out of range.
Result<std::unique_ptr<Encoder>> MakeEncoder(Encoding encoding, int level, std::uint64_t raw_size,
                                             const Sink& sink);

// Unpacks a stretch of a file into `sink`: exactly `raw_size` bytes, checked before more are made. Memory:
// at most the frame's window (8 MiB) or two blocks. Errors: INVALID_ARGUMENT/DELTA_INVALID when the stretch
// is not exactly one thing of that encoding and size; those of the file and the sink.
Status Decode(const OpenFile& file, std::uint64_t offset, std::uint64_t size, Encoding encoding,
              std::uint64_t raw_size, const Sink& sink);

}  // namespace sealift::delta
