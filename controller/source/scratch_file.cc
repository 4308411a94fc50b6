#include "controller/source/scratch_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

namespace sealift::build {
namespace {

constexpr char kName[] = "temporary file";

Status Unwritable(std::string_view call) {
  const Reason reason = errno == ENOSPC ? Reason::kDiskFull : Reason::kFileUnwritable;
  return ErrnoError(Code::kFailedPrecondition, reason, fmt::format("write {}", kName), call, errno);
}

}  // namespace

Result<ScratchFile> ScratchFile::Create() {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  const std::string where = error ? std::string("/tmp") : folder.string();
  UniqueFd fd(::open(where.c_str(), O_RDWR | O_TMPFILE | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) {
    // Some file systems cannot make one without a name.
    std::string name = where + "/sealift-XXXXXX";
    fd = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
    if (!fd.valid()) return Unwritable("mkostemp");
    ::unlink(name.c_str());
  }
  return ScratchFile(std::make_shared<const UniqueFd>(std::move(fd)));
}

ScratchFile::ScratchFile(ScratchFile&& other) noexcept
    : fd_(std::move(other.fd_)),
      size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, nullptr)) {}

ScratchFile::~ScratchFile() {
  if (mapped_ != nullptr) ::munmap(mapped_, size_);
}

Status ScratchFile::Append(ByteView bytes) {
  SEALIFT_CHECK(mapped_ == nullptr);
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd_->get(), bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return Unwritable("pwrite");
    size_ += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return OkStatus();
}

Status ScratchFile::AppendHole(std::uint64_t size) {
  SEALIFT_CHECK(mapped_ == nullptr);
  if (::ftruncate(fd_->get(), static_cast<off_t>(size_ + size)) != 0) return Unwritable("ftruncate");
  size_ += size;
  return OkStatus();
}

Result<ByteView> ScratchFile::Map() {
  SEALIFT_CHECK(mapped_ == nullptr);
  if (size_ == 0) return ByteView();
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_->get(), 0);
  if (address == MAP_FAILED) {
    return ErrnoError(Code::kResourceExhausted, Reason::kFileUnreadable, fmt::format("map {}", kName), "mmap",
                      errno);
  }
  mapped_ = address;
  return ByteView(static_cast<const std::uint8_t*>(address), size_);
}

}  // namespace sealift::build
