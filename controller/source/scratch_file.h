// A temporary file without a name: what is too large for memory and must leave no trace.
#pragma once

#include <memory>

#include "shared/base/bytes.h"
#include "shared/base/files.h"

namespace sealift::build {

// Grows at its end, in $TMPDIR; the space comes back when the last owner of the descriptor goes. Not
// thread-safe, but fd() may be read with pread(2) by any thread.
class ScratchFile {
 public:
  // Errors: FILE_UNWRITABLE.
  static Result<ScratchFile> Create();
  ScratchFile(ScratchFile&& other) noexcept;
  ScratchFile& operator=(ScratchFile&&) = delete;
  ~ScratchFile();

  // Errors: FILE_UNWRITABLE, DISK_FULL.
  Status Append(ByteView bytes);
  // As many zero bytes, which take no room on the disk.
  Status AppendHole(std::uint64_t size);
  std::uint64_t size() const { return size_; }
  const std::shared_ptr<const UniqueFd>& fd() const { return fd_; }

  // All of it as memory that the kernel pages in and drops as it likes. Lives as long as this; nothing may be
  // appended afterwards. Errors: FILE_UNREADABLE.
  Result<ByteView> Map();

 private:
  explicit ScratchFile(std::shared_ptr<const UniqueFd> fd) : fd_(std::move(fd)) {}

  std::shared_ptr<const UniqueFd> fd_;
  std::uint64_t size_ = 0;
  void* mapped_ = nullptr;
};

}  // namespace sealift::build
