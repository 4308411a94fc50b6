// Wire objects as .xz with the filter for x86 code. Thread-safe functions; an encoder belongs to one thread.
#pragma once

#include <memory>

#include "shared/delta/encoding.h"

namespace sealift::delta {

// Takes 94 MiB of memory.
std::unique_ptr<Encoder> MakeXzEncoder(const Sink& sink);
// At most 16 MiB of memory, exactly `raw_size` bytes. Errors: INVALID_ARGUMENT/DELTA_INVALID; those of the
// file and the sink.
Status DecodeXz(const OpenFile& file, std::uint64_t raw_size, const Sink& sink);

}  // namespace sealift::delta
