// The file under the signing journal: lines are appended, flushed in batches, and read back in order.
//
// JournalFile has one owner at a time over all processes (flock); its callers keep Append from running twice
// at once, Sync may run beside Append. JournalLines borrows the descriptor and belongs to one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "hsm/journal_record.h"
#include "shared/base/files.h"
#include "shared/base/status.h"

namespace sealift::hsm {

class JournalFile {
 public:
  // Creates it when missing. Errors: UNAVAILABLE/JOURNAL_IN_USE; UNAVAILABLE/JOURNAL_UNWRITABLE.
  static Result<JournalFile> Open(const std::filesystem::path& path);

  // All of `text` or nothing: what a full disk let through is cut away again. Not durable yet.
  // Errors: JOURNAL_UNWRITABLE; `usable()` is false where the end of the file is not known any more.
  Status Append(std::string_view text);
  // What was appended before this call is on the disk. After an error nothing is known of it, for ever.
  Status Sync();
  Status Truncate(std::uint64_t size);

  int fd() const { return fd_.get(); }
  std::uint64_t size() const { return size_; }
  bool usable() const { return usable_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  JournalFile(std::filesystem::path path, UniqueFd fd, std::uint64_t size)
      : path_(std::move(path)), fd_(std::move(fd)), size_(size) {}
  Status Error(std::string_view call, int error) const;

  std::filesystem::path path_;
  UniqueFd fd_;
  std::uint64_t size_;
  bool usable_ = true;
};

// Lines from `offset` to the end. A line longer than kMaxJournalLineBytes is handed out cut, so that its
// parser refuses it.
class JournalLines {
 public:
  JournalLines(int fd, std::uint64_t offset) : fd_(fd), next_read_(offset), offset_(offset) {}
  // The next whole line, without its end; nothing at the end of the file or before an unfinished line. Valid
  // until the next call. Errors: UNAVAILABLE/FILE_UNREADABLE; DATA_LOSS/JOURNAL_DAMAGED where no line ends.
  Result<std::optional<std::string_view>> Next();
  // Where the line after the last one handed out begins.
  std::uint64_t offset() const { return offset_; }
  // After the last line: bytes without a line end.
  std::string_view Rest() const { return std::string_view(buffer_).substr(used_); }

 private:
  int fd_;
  std::uint64_t next_read_;
  std::uint64_t offset_;
  std::string buffer_;
  std::size_t used_ = 0;
};

// Where a writer takes the file up again: behind the record that the last checkpoint covers.
struct ResumePoint {
  // Of the first line that is not covered; 0 without a checkpoint.
  std::uint64_t offset = 0;
  std::optional<JournalCheckpoint> checkpoint;
};
// Reads backwards. Proves nothing. Errors: FILE_UNREADABLE.
Result<ResumePoint> FindResumePoint(int fd, std::uint64_t size);

}  // namespace sealift::hsm
