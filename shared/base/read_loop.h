// For files.cc and untrusted_files.cc: what is left of an open file, as bytes.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift {

inline Status TooLargeToRead(const std::filesystem::path& path, std::uint64_t max_bytes) {
  return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                   fmt::format("read '{}': larger than {} bytes", path.string(), max_bytes));
}

// To the end, in growing steps: files below /sys and /proc tell no size or a wrong one, and others grow.
// `said` is what the file says of its size. `read_error(errno)` makes the status of a read(2) that failed.
// Errors also: INVALID_ARGUMENT/FILE_TOO_LARGE.
template <typename ReadErrorOf>
Result<Bytes> ReadToEnd(int fd, const std::filesystem::path& path, std::uint64_t said,
                        std::uint64_t max_bytes, const ReadErrorOf& read_error) {
  Bytes bytes(said == 0 ? 4096 : static_cast<std::size_t>(std::min(said, max_bytes)) + 1);
  std::size_t size = 0;
  while (true) {
    if (size == bytes.size()) bytes.resize(bytes.size() * 2);
    const ssize_t got = ::read(fd, bytes.data() + size, bytes.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return read_error(errno);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size > max_bytes) return TooLargeToRead(path, max_bytes);
  }
  bytes.resize(size);
  return bytes;
}

}  // namespace sealift
