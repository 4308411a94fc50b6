// A file read at offsets, never held in memory whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

#include "shared/base/bytes.h"
#include "shared/base/files.h"
#include "shared/base/status.h"

namespace sealift::delta {

// Takes consecutive pieces; an error ends the work and comes back unchanged.
using Sink = std::function<Status(ByteView)>;

// A regular file as large as it was when it was opened. Thread-safe (pread). Move-only.
class OpenFile {
 public:
  // Errors: NOT_FOUND or UNAVAILABLE with FILE_UNREADABLE, also for what is no regular file.
  static Result<OpenFile> Open(const std::filesystem::path& path);
  // An unlinked temporary file in `folder` that takes what is written to it. Errors: FILE_UNWRITABLE.
  static Result<OpenFile> Temporary(const std::filesystem::path& folder);

  std::uint64_t size() const { return size_; }
  // For whoever hands it on to another process; stays this object's.
  int descriptor() const { return fd_.get(); }
  // Fills all of `out`. Errors: DATA_LOSS/FILE_UNREADABLE beyond the end or when the file became shorter.
  Status ReadAt(std::uint64_t offset, std::span<std::uint8_t> out) const;
  // Hands a stretch to `sink` in pieces of at most 256 KiB. Errors: as ReadAt; those of the sink.
  Status ForEach(std::uint64_t offset, std::uint64_t size, const Sink& sink) const;
  // At the end. Errors: FILE_UNWRITABLE, DISK_FULL.
  Status Append(ByteView bytes);

 private:
  OpenFile(UniqueFd fd, std::uint64_t size) : fd_(std::move(fd)), size_(size) {}
  UniqueFd fd_;
  std::uint64_t size_;
};

}  // namespace sealift::delta
