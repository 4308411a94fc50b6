#include "controller/publish/content_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "controller/publish/content_lock.h"
#include "shared/base/log.h"

namespace sealift::controller {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlock = 256u << 10;

Status WriteError(const fs::path& path, std::string_view call) {
  return ErrnoError(Code::kUnavailable, Reason::kFileUnwritable, fmt::format("write '{}'", path.string()),
                    call, errno);
}

Status ReadError(const fs::path& path, std::string_view call) {
  return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, fmt::format("read '{}'", path.string()),
                    call, errno);
}

Status Unknown(const Sha256Digest& digest) {
  return MakeError(Code::kNotFound, Reason::kContentUnknown,
                   fmt::format("read content {}: the store does not have it", digest.hex()));
}

std::int64_t Nanoseconds(const timespec& time) {
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::int64_t>(time.tv_nsec);
}

}  // namespace

Result<std::unique_ptr<ContentStore>> ContentStore::Open(fs::path directory, ContentStoreOptions options) {
  std::unique_ptr<ContentStore> store(new ContentStore(std::move(directory), options));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(store->directory_ / "objects"));
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(store->directory_ / "incoming"));
  SEALIFT_RETURN_IF_ERROR(store->SweepIncoming());
  return store;
}

// What a killed process left; a live writer holds the lock of its file.
Status ContentStore::SweepIncoming() const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_ / "incoming", error)) {
    const UniqueFd fd(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!fd.valid() || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) continue;
    if (::unlink(entry.path().c_str()) != 0 && errno != ENOENT) return WriteError(entry.path(), "unlink");
  }
  if (error)
    return MakeError(Code::kUnavailable, Reason::kFileUnreadable,
                     fmt::format("read '{}': {}", (directory_ / "incoming").string(), error.message()));
  return OkStatus();
}

fs::path ContentStore::PathOf(const Sha256Digest& digest) const {
  const std::string hex = digest.hex();
  return directory_ / "objects" / hex.substr(0, 2) / hex;
}

Result<ContentStore::Writer> ContentStore::Begin(const Sha256Digest& digest, std::uint64_t size) {
  if (size > options_.max_object_bytes) {
    return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                     fmt::format("store content {}: {} bytes are more than {}", digest.hex(), size,
                                 options_.max_object_bytes));
  }
  Writer writer(*this, digest, size);
  std::string pattern = (directory_ / "incoming" / (digest.hex() + ".XXXXXX")).string();
  writer.fd_ = UniqueFd(::mkostemp(pattern.data(), O_CLOEXEC));
  if (!writer.fd_.valid()) return WriteError(pattern, "mkostemp");
  writer.path_ = pattern;
  if (::flock(writer.fd_.get(), LOCK_EX | LOCK_NB) != 0) return WriteError(pattern, "flock");
  return writer;
}

ContentStore::Writer::Writer(Writer&& other) noexcept
    : store_(other.store_),
      digest_(other.digest_),
      size_(other.size_),
      written_(other.written_),
      hasher_(std::move(other.hasher_)),
      path_(std::exchange(other.path_, {})),
      fd_(std::move(other.fd_)) {}

ContentStore::Writer::~Writer() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

Status ContentStore::Writer::Write(ByteView piece) {
  if (piece.size() > size_ - written_) {
    return MakeError(Code::kInvalidArgument, Reason::kContentTooLong,
                     fmt::format("store content {}: more than the announced {} bytes", digest_.hex(), size_));
  }
  hasher_.Update(piece);
  written_ += piece.size();
  return WriteAll(fd_.get(), path_, piece);
}

Status ContentStore::Writer::Commit() {
  if (written_ != size_) {
    return MakeError(Code::kInvalidArgument, Reason::kContentIncomplete,
                     fmt::format("store content {}: {} of {} bytes came", digest_.hex(), written_, size_));
  }
  const Sha256Digest found = hasher_.Finish();
  if (found != digest_) {
    return MakeError(Code::kInvalidArgument, Reason::kContentDigestMismatch,
                     fmt::format("store content {}: what came has digest {}", digest_.hex(), found.hex()));
  }
  const fs::path target = store_->PathOf(digest_);
  if (::fchmod(fd_.get(), 0444) != 0) return WriteError(path_, "fchmod");
  if (::fsync(fd_.get()) != 0) return WriteError(path_, "fsync");
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(target.parent_path()));
  SEALIFT_RETURN_IF_ERROR(SyncDirectory(target.parent_path().parent_path()));
  {
    SEALIFT_ASSIGN_OR_RETURN(const UniqueFd lock, LockContent(store_->directory_, ContentLock::kUpload));
    if (::rename(path_.c_str(), target.c_str()) != 0) return WriteError(target, "rename");
  }
  path_.clear();
  return SyncDirectory(target.parent_path());
}

Status ContentStore::Put(const Sha256Digest& digest, ByteView bytes) {
  SEALIFT_ASSIGN_OR_RETURN(Writer writer, Begin(digest, bytes.size()));
  SEALIFT_RETURN_IF_ERROR(writer.Write(bytes));
  return writer.Commit();
}

Status ContentStore::VerifyOnce(const Sha256Digest& digest, int fd, const FileIdentity& identity) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = verified_.find(digest);
    if (found != verified_.end() && found->second == identity) return OkStatus();
  }
  Sha256Hasher hasher;
  Bytes block(kBlock);
  off_t offset = 0;
  while (true) {
    const ssize_t got = ::pread(fd, block.data(), block.size(), offset);
    if (got < 0) {
      if (errno == EINTR) continue;
      return ReadError(PathOf(digest), "pread");
    }
    if (got == 0) break;
    offset += got;
    hasher.Update(ByteView(block.data(), static_cast<std::size_t>(got)));
  }
  const Sha256Digest found = hasher.Finish();
  if (found != digest) {
    const fs::path path = PathOf(digest);
    const fs::path aside = path.string() + ".damaged";
    if (::rename(path.c_str(), aside.c_str()) != 0 && errno != ENOENT) return WriteError(aside, "rename");
    return MakeError(Code::kDataLoss, Reason::kContentDigestMismatch,
                     fmt::format("read content {}: what lies there has digest {} and was put aside",
                                 digest.hex(), found.hex()));
  }
  const std::lock_guard lock(mutex_);
  verified_.insert_or_assign(digest, identity);
  return OkStatus();
}

Result<ContentStore::Reader> ContentStore::Read(const Sha256Digest& digest) {
  const fs::path path = PathOf(digest);
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) return errno == ENOENT ? Unknown(digest) : ReadError(path, "open");
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return ReadError(path, "fstat");
  const FileIdentity identity{
      static_cast<std::uint64_t>(info.st_dev), static_cast<std::uint64_t>(info.st_ino),
      static_cast<std::int64_t>(info.st_size), Nanoseconds(info.st_mtim), Nanoseconds(info.st_ctim)};
  SEALIFT_RETURN_IF_ERROR(VerifyOnce(digest, fd.get(), identity));
  return Reader(std::move(fd), static_cast<std::uint64_t>(info.st_size));
}

Result<Bytes> ContentStore::Reader::ReadAt(std::uint64_t offset, std::size_t size) const {
  if (offset >= size_) return Bytes();
  Bytes bytes(static_cast<std::size_t>(std::min<std::uint64_t>(size, size_ - offset)));
  SEALIFT_RETURN_IF_ERROR(ReadInto(offset, bytes));
  return bytes;
}

Status ContentStore::Reader::ReadInto(std::uint64_t offset, std::span<std::uint8_t> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return ReadError("content object", "pread");
    offset += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
  return OkStatus();
}

Result<Bytes> ContentStore::ReadAll(const Sha256Digest& digest, std::uint64_t max_bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const Reader reader, Read(digest));
  if (reader.size() > max_bytes) {
    return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                     fmt::format("read content {}: larger than {} bytes", digest.hex(), max_bytes));
  }
  return reader.ReadAt(0, static_cast<std::size_t>(reader.size()));
}

// Whoever asks means to refer to it: its grace before a collection (content_collector.h) begins anew.
bool ContentStore::Has(const Sha256Digest& digest) const {
  // Without the lock it may be on its way out; then it is better sent again.
  const Result<UniqueFd> lock = LockContent(directory_, ContentLock::kUpload);
  if (!lock.ok() || !Size(digest).ok()) return false;
  return ::utimensat(AT_FDCWD, PathOf(digest).c_str(), nullptr, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

Result<std::uint64_t> ContentStore::Size(const Sha256Digest& digest) const {
  struct stat info {};
  const fs::path path = PathOf(digest);
  if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return Unknown(digest);
  return static_cast<std::uint64_t>(info.st_size);
}

}  // namespace sealift::controller
