// Reads of a range of a file, all of it or an error. Thread-safe.
#pragma once

#include <cstdint>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::ddi {

// Errors: INVALID_ARGUMENT/EXTENSION_INVALID when the file ends before; FILE_UNREADABLE.
Result<Bytes> ReadExactly(int fd, std::uint64_t offset, std::size_t size);
// Into `buffer`, which is filled.
Status ReadInto(int fd, std::uint64_t offset, std::span<std::uint8_t> buffer);

}  // namespace sealift::ddi
