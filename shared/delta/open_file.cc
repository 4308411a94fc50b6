#include "shared/delta/open_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

namespace sealift::delta {
namespace {

constexpr std::size_t kPieceBytes = 256u << 10;

}  // namespace

Result<OpenFile> OpenFile::Open(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    return ErrnoError(errno == ENOENT ? Code::kNotFound : Code::kUnavailable, Reason::kFileUnreadable,
                      fmt::format("read '{}'", path.string()), "open", errno);
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                     fmt::format("read '{}': it is no regular file", path.string()));
  }
  return OpenFile(std::move(fd), static_cast<std::uint64_t>(info.st_size));
}

Result<OpenFile> OpenFile::Temporary(const std::filesystem::path& folder) {
  UniqueFd fd(::open(folder.c_str(), O_RDWR | O_CLOEXEC | O_TMPFILE, 0600));
  if (!fd.valid() && (errno == EOPNOTSUPP || errno == EISDIR)) {
    // Not every file system has files without a name.
    std::string name = (folder / ".sealift-XXXXXX").string();
    fd = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
    if (fd.valid()) ::unlink(name.c_str());
  }
  if (!fd.valid()) {
    return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable,
                      fmt::format("make a temporary file in '{}'", folder.string()), "open", errno);
  }
  return OpenFile(std::move(fd), 0);
}

Status OpenFile::ReadAt(std::uint64_t offset, std::span<std::uint8_t> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    return MakeError(Code::kDataLoss, Reason::kFileUnreadable, "read file: the place lies beyond its end");
  }
  while (!out.empty()) {
    const ssize_t got = ::pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, "read file", "pread", errno);
    if (got == 0) {
      return MakeError(Code::kDataLoss, Reason::kFileUnreadable, "read file: it became shorter");
    }
    out = out.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return OkStatus();
}

Status OpenFile::ForEach(std::uint64_t offset, std::uint64_t size, const Sink& sink) const {
  Bytes buffer(static_cast<std::size_t>(std::min<std::uint64_t>(size, kPieceBytes)));
  while (size > 0) {
    const auto piece =
        std::span(buffer).first(static_cast<std::size_t>(std::min<std::uint64_t>(size, buffer.size())));
    SEALIFT_RETURN_IF_ERROR(ReadAt(offset, piece));
    SEALIFT_RETURN_IF_ERROR(sink(piece));
    offset += piece.size();
    size -= piece.size();
  }
  return OkStatus();
}

Status OpenFile::Append(ByteView bytes) {
  // The only writer of an unlinked file: its position is its end.
  SEALIFT_RETURN_IF_ERROR(WriteAll(fd_.get(), "temporary file", bytes));
  size_ += bytes.size();
  return OkStatus();
}

}  // namespace sealift::delta
