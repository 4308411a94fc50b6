// What programs that others wrote move from one tree to the next, for the table of bench_delta.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "shared/base/status.h"

namespace sealift::bench {

struct FilePair {
  std::filesystem::path before;
  std::filesystem::path after;
};

// Bytes that `casync extract` fetches for the later files when it has the earlier ones: chunks of 64 KiB on
// average, packed, and the index. Errors: those of the program.
Result<std::uint64_t> CasyncBytes(const std::vector<FilePair>& files, const std::filesystem::path& work);

// Bytes of an ostree static delta from one tree to the other, with bsdiff for files of up to 128 MiB and
// everything inside. The trees have no devices, which ostree does not take. Errors: those of the program.
Result<std::uint64_t> OstreeBytes(const std::filesystem::path& before, const std::filesystem::path& after,
                                  const std::filesystem::path& work);

}  // namespace sealift::bench
