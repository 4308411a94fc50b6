#include "shared/ddi/pread.h"

#include <unistd.h>

#include <cerrno>

namespace sealift::ddi {

Status ReadInto(int fd, std::uint64_t offset, std::span<std::uint8_t> buffer) {
  while (!buffer.empty()) {
    const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, "read extension image", "pread", errno);
    if (got == 0) {
      return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                       "read extension image: the file ends too early");
    }
    buffer = buffer.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return OkStatus();
}

Result<Bytes> ReadExactly(int fd, std::uint64_t offset, std::size_t size) {
  Bytes bytes(size);
  SEALIFT_RETURN_IF_ERROR(ReadInto(fd, offset, bytes));
  return bytes;
}

}  // namespace sealift::ddi
