#include "shared/content/download.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "shared/base/files.h"
#include "shared/base/untrusted_files.h"
#include "shared/crypto/hash.h"

namespace sealift::content {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlock = 256u << 10;

Status WriteError(const fs::path& path, std::string_view call) {
  return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", path.string()),
                    call, errno);
}

Status ReadError(const fs::path& path, std::string_view call) {
  const Code code = errno == ENOENT ? Code::kNotFound : Code::kUnavailable;
  return ErrnoError(code, Reason::kFileUnreadable, fmt::format("read '{}'", path.string()), call, errno);
}

// Hashes all of an open file; gives its length. Stops above `max_bytes`.
Result<std::uint64_t> HashAll(int fd, const fs::path& path, std::uint64_t max_bytes, Sha256Hasher& hasher) {
  Bytes block(kBlock);
  std::uint64_t total = 0;
  while (true) {
    const ssize_t got = ::read(fd, block.data(), block.size());
    if (got < 0) {
      if (errno == EINTR) continue;
      return ReadError(path, "read");
    }
    if (got == 0) return total;
    total += static_cast<std::uint64_t>(got);
    if (total > max_bytes) {
      return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                       fmt::format("read '{}': larger than {} bytes", path.string(), max_bytes));
    }
    hasher.Update(ByteView(block.data(), static_cast<std::size_t>(got)));
  }
}

// The part being written, with the hash over all of it.
class Part {
 public:
  static Result<Part> Open(const fs::path& path, std::uint64_t size) {
    Part part(path, size);
    SEALIFT_RETURN_IF_ERROR(RemoveUnlessRegular(path));
    part.fd_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
    if (!part.fd_.valid()) return WriteError(path, "open");
    const Result<std::uint64_t> kept = HashAll(part.fd_.get(), path, size, part.hasher_);
    if (kept.ok()) {
      part.offset_ = *kept;
      return part;
    }
    if (ReasonOf(kept.status()) != Reason::kFileTooLarge) return kept.status();
    SEALIFT_RETURN_IF_ERROR(part.StartAfresh());
    return part;
  }

  std::uint64_t offset() const { return offset_; }

  Status StartAfresh() {
    if (::ftruncate(fd_.get(), 0) != 0) return WriteError(path_, "ftruncate");
    if (::lseek(fd_.get(), 0, SEEK_SET) != 0) return WriteError(path_, "lseek");
    hasher_.Finish();
    offset_ = 0;
    return OkStatus();
  }

  Status Write(ByteView piece) {
    if (piece.size() > size_ - offset_) {
      return MakeError(Code::kInvalidArgument, Reason::kContentTooLong,
                       fmt::format("fetch '{}': the source sends more than {} bytes", path_.string(), size_));
    }
    hasher_.Update(piece);
    offset_ += piece.size();
    return WriteAll(fd_.get(), path_, piece);
  }

  Sha256Digest FinishHash() { return hasher_.Finish(); }

  Status Publish(const fs::path& to) {
    if (::fsync(fd_.get()) != 0) return WriteError(path_, "fsync");
    SEALIFT_RETURN_IF_ERROR(fd_.Close());
    if (::rename(path_.c_str(), to.c_str()) != 0) return WriteError(to, "rename");
    return SyncDirectory(to.parent_path());
  }

 private:
  Part(fs::path path, std::uint64_t size) : path_(std::move(path)), size_(size) {}
  fs::path path_;
  std::uint64_t size_;
  UniqueFd fd_;
  Sha256Hasher hasher_;
  std::uint64_t offset_ = 0;
};

Status FetchInto(Part& part, ContentSource& source, const DownloadRequest& request) {
  if (part.offset() == request.size) return OkStatus();
  const Sink sink = [&](ByteView piece) -> Status {
    SEALIFT_RETURN_IF_ERROR(part.Write(piece));
    if (request.progress) request.progress(part.offset());
    return OkStatus();
  };
  SEALIFT_RETURN_IF_ERROR(source.Fetch(request.digest, part.offset(), sink));
  if (part.offset() == request.size) return OkStatus();
  return MakeError(Code::kUnavailable, Reason::kContentIncomplete,
                   fmt::format("fetch content {}: it ended after {} of {} bytes", request.digest.hex(),
                               part.offset(), request.size));
}

Result<Sha256Digest> HashRegularFile(const fs::path& file, std::uint64_t max_bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenRegularFile(file));
  Sha256Hasher hasher;
  SEALIFT_RETURN_IF_ERROR(HashAll(fd.get(), file, max_bytes, hasher).status());
  return hasher.Finish();
}

Status Mismatch(const DownloadRequest& request, const Sha256Digest& found) {
  return MakeError(
      Code::kInvalidArgument, Reason::kContentDigestMismatch,
      fmt::format("verify content {}: what arrived has digest {}", request.digest.hex(), found.hex()));
}

}  // namespace

Result<Sha256Digest> HashFile(const fs::path& file, std::uint64_t max_bytes) {
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ReadError(file, "open");
  Sha256Hasher hasher;
  SEALIFT_RETURN_IF_ERROR(HashAll(fd.get(), file, max_bytes, hasher).status());
  return hasher.Finish();
}

Status Download(ContentSource& source, const DownloadRequest& request) {
  const Result<Sha256Digest> present = HashRegularFile(request.file, request.size);
  if (present.ok() && *present == request.digest) return OkStatus();
  if (present.status().code() != Code::kNotFound) SEALIFT_RETURN_IF_ERROR(RemoveAnything(request.file));

  const fs::path part_path = request.file.string() + ".part";
  SEALIFT_ASSIGN_OR_RETURN(Part part, Part::Open(part_path, request.size));
  bool resumed = part.offset() > 0;
  while (true) {
    const Status fetched = FetchInto(part, source, request);
    if (ReasonOf(fetched) == Reason::kContentTooLong) SEALIFT_RETURN_IF_ERROR(RemoveAnything(part_path));
    SEALIFT_RETURN_IF_ERROR(fetched);
    const Sha256Digest found = part.FinishHash();
    if (found == request.digest) return part.Publish(request.file);
    if (!resumed) {
      SEALIFT_RETURN_IF_ERROR(RemoveAnything(part_path));
      return Mismatch(request, found);
    }
    resumed = false;
    SEALIFT_RETURN_IF_ERROR(part.StartAfresh());
  }
}

}  // namespace sealift::content
