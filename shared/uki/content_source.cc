#include "shared/uki/content_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "shared/crypto/hash.h"

namespace sealift::uki {
namespace {

// Fits into a second-level cache together with what hashing it needs.
constexpr std::size_t kScratchBytes = 256 << 10;

Status Unreadable(const std::string& path, std::string_view call, int error) {
  return ErrnoError(error == ENOENT ? Code::kNotFound : Code::kUnavailable, Reason::kFileUnreadable,
                    fmt::format("read '{}'", path), call, error);
}

}  // namespace

Status ContentSource::ForEach(std::span<std::uint8_t> scratch, std::uint64_t position,
                              const std::function<Status(ByteView)>& sink) const {
  if (fd_ < 0) return memory_.empty() ? OkStatus() : sink(memory_);
  SEALIFT_CHECK(!scratch.empty());
  std::uint64_t done = 0;
  std::size_t want = scratch.size() - static_cast<std::size_t>(position % scratch.size());
  while (done < size_) {
    want = static_cast<std::size_t>(std::min<std::uint64_t>(want, size_ - done));
    const ssize_t got = ::pread(fd_, scratch.data(), want, static_cast<off_t>(offset_ + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Unreadable(path_, "pread", errno);
    if (got == 0) {
      return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                       fmt::format("read '{}': it became shorter meanwhile", path_));
    }
    done += static_cast<std::uint64_t>(got);
    SEALIFT_RETURN_IF_ERROR(sink(ByteView(scratch.data(), static_cast<std::size_t>(got))));
    want = scratch.size() - static_cast<std::size_t>((position + done) % scratch.size());
  }
  return OkStatus();
}

ContentSource ContentSource::Part(std::uint64_t from, std::uint64_t size) const {
  SEALIFT_CHECK(from <= size_ && size <= size_ - from);
  ContentSource part = *this;
  if (fd_ < 0) return memory_.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(size));
  part.offset_ += from;
  part.size_ = size;
  return part;
}

Result<Bytes> ContentSource::Head(std::size_t max) const {
  Bytes head;
  Bytes scratch(std::min<std::size_t>(max, kScratchBytes));
  SEALIFT_RETURN_IF_ERROR(
      Part(0, std::min<std::uint64_t>(max, size_)).ForEach(scratch, 0, [&](ByteView piece) -> Status {
        Append(head, piece);
        return OkStatus();
      }));
  return head;
}

Result<SourceFile> OpenSource(const std::filesystem::path& path, std::uint64_t max_bytes) {
  SourceFile file{.fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), .source = {}};
  if (!file.fd.valid()) return Unreadable(path.string(), "open", errno);
  struct stat info {};
  if (::fstat(file.fd.get(), &info) != 0) return Unreadable(path.string(), "fstat", errno);
  if (!S_ISREG(info.st_mode))
    return Unreadable(path.string(), "open", S_ISDIR(info.st_mode) ? EISDIR : EINVAL);
  const auto size = static_cast<std::uint64_t>(info.st_size);
  if (size > max_bytes) {
    return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                     fmt::format("read '{}': larger than {} bytes", path.string(), max_bytes));
  }
  file.source = ContentSource(file.fd, path.string(), 0, size);
  return file;
}

Result<Sha256Digest> DigestSource(const ContentSource& source) {
  Sha256Hasher hasher;
  Bytes scratch(kScratchBytes);
  SEALIFT_RETURN_IF_ERROR(source.ForEach(scratch, 0, [&](ByteView piece) -> Status {
    hasher.Update(piece);
    return OkStatus();
  }));
  return hasher.Finish();
}

}  // namespace sealift::uki
