// What one stretch of bytes has of another (C. Percival, "Naive differences of executable code", 2003): long
// approximate matches, whose differences are mostly zero and therefore pack well.
//
// Thread-safe functions. Memory: five times `old` and what comes out.
#pragma once

#include <cstdint>
#include <vector>

#include "shared/base/bytes.h"

namespace sealift::controller {

// From the place `old_offset`: `same` bytes with their differences, then `fresh` ones.
struct DiffEntry {
  std::uint64_t old_offset = 0;
  std::uint64_t same = 0;
  std::uint64_t fresh = 0;
};

struct Differences {
  std::vector<DiffEntry> entries;
  Bytes difference;
  Bytes extra;
};

// Appends to `out`; `old_base` is added to every place. `old` at most 2 GiB, may be empty.
void FindDifferences(ByteView old, ByteView fresh, std::uint64_t old_base, Differences& out);

}  // namespace sealift::controller
