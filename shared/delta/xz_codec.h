// Wire objects as .xz. Thread-safe functions; an encoder belongs to one thread.
#pragma once

#include <memory>

#include "shared/delta/encoding.h"

namespace sealift::delta {

enum class XzFilter { kNone, kX86 };
// Takes 94 MiB of memory.
std::unique_ptr<Encoder> MakeXzEncoder(XzFilter filter, const Sink& sink);
// At most 16 MiB of memory, exactly `raw_size` bytes. Errors: INVALID_ARGUMENT/DELTA_INVALID; those of the
// file and the sink.
Status DecodeXz(const OpenFile& file, std::uint64_t raw_size, const Sink& sink);

}  // namespace sealift::delta
