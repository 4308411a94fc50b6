#include "hsm/journal_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace sealift::hsm {
namespace {

constexpr std::size_t kBlock = 256u << 10;

Status ReadError(int error) {
  return ErrnoError(Code::kUnavailable, Reason::kFileUnreadable, "read signing journal", "pread", error);
}

// Fewer bytes only at the end of the file.
Result<std::string> ReadAt(int fd, std::uint64_t offset, std::size_t size) {
  std::string bytes(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = ::pread(fd, bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ReadError(errno);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

std::string_view LineAt(std::string_view text, std::size_t start) {
  return text.substr(start, text.find('\n', start) - start);
}

// Where the last whole line that is a checkpoint begins. `complete`: the text begins with a line's beginning.
std::optional<std::size_t> LastCheckpointLine(std::string_view text, bool complete) {
  // Inside a string its quotes would be escaped: this can only be the member itself.
  constexpr std::string_view kMark = R"("type":"checkpoint")";
  for (std::size_t mark = text.rfind(kMark); mark != std::string_view::npos;) {
    const std::size_t before = text.rfind('\n', mark);
    if (before == std::string_view::npos && !complete) return std::nullopt;
    if (text.find('\n', mark) != std::string_view::npos) {
      return before == std::string_view::npos ? 0 : before + 1;
    }
    if (mark == 0) return std::nullopt;
    mark = text.rfind(kMark, mark - 1);
  }
  return std::nullopt;
}

// `count` lines before the one at `start`; nothing when the text does not reach that far.
std::optional<std::size_t> LinesBack(std::string_view text, std::size_t start, std::uint64_t count,
                                     bool complete) {
  for (; count > 0; --count) {
    if (start < 2) return std::nullopt;
    const std::size_t before = text.rfind('\n', start - 2);
    if (before == std::string_view::npos && !complete) return std::nullopt;
    start = before == std::string_view::npos ? 0 : before + 1;
  }
  return start;
}

}  // namespace

Status JournalFile::Error(std::string_view call, int error) const {
  return ErrnoError(Code::kUnavailable, Reason::kJournalUnwritable,
                    fmt::format("write signing journal '{}'", path_.string()), call, error);
}

Result<JournalFile> JournalFile::Open(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644));
  const auto fail = [&](std::string_view call, int error) {
    return ErrnoError(Code::kUnavailable, Reason::kJournalUnwritable,
                      fmt::format("open signing journal '{}'", path.string()), call, error);
  };
  if (!fd.valid()) return fail("open", errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail("flock", errno);
    return MakeError(Code::kUnavailable, Reason::kJournalInUse,
                     fmt::format("open signing journal '{}': another program writes it", path.string()));
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return fail("fstat", errno);
  if (!S_ISREG(info.st_mode)) return fail("open", EINVAL);
  return JournalFile(path, std::move(fd), static_cast<std::uint64_t>(info.st_size));
}

Status JournalFile::Append(std::string_view text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = ::write(fd_.get(), text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      Status error = Error("write", written == 0 ? ENOSPC : errno);
      if (done > 0 && !Truncate(size_).ok()) usable_ = false;
      return error;
    }
    done += static_cast<std::size_t>(written);
  }
  size_ += text.size();
  return OkStatus();
}

Status JournalFile::Sync() {
  while (::fdatasync(fd_.get()) != 0) {
    if (errno != EINTR) return Error("fdatasync", errno);
  }
  return OkStatus();
}

Status JournalFile::Truncate(std::uint64_t size) {
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return Error("ftruncate", errno);
  size_ = size;
  return OkStatus();
}

Result<std::optional<std::string_view>> JournalLines::Next() {
  while (true) {
    const std::size_t end = buffer_.find('\n', used_);
    if (end != std::string::npos) {
      const std::string_view line(buffer_.data() + used_, end - used_);
      used_ = end + 1;
      offset_ += line.size() + 1;
      return line.substr(0, kMaxJournalLineBytes + 1);
    }
    buffer_.erase(0, used_);
    used_ = 0;
    SEALIFT_ASSIGN_OR_RETURN(const std::string more, ReadAt(fd_, next_read_, kBlock));
    if (more.empty()) return std::nullopt;
    if (buffer_.size() > 4 * kMaxJournalLineBytes) {
      return MakeError(
          Code::kDataLoss, Reason::kJournalDamaged,
          fmt::format("read signing journal: no line ends in {} bytes from {} on", buffer_.size(), offset_));
    }
    next_read_ += more.size();
    buffer_ += more;
  }
}

Result<ResumePoint> FindResumePoint(int fd, std::uint64_t size) {
  for (std::uint64_t window = kBlock;; window *= 2) {
    const std::uint64_t from = window >= size ? 0 : size - window;
    SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadAt(fd, from, static_cast<std::size_t>(size - from)));
    const auto start = LastCheckpointLine(text, from == 0);
    if (start.has_value()) {
      const auto record = JournalRecord::Parse(LineAt(text, *start));
      const auto* checkpoint = record.ok() ? std::get_if<JournalCheckpoint>(&record->body) : nullptr;
      // Read from the beginning, a damaged line shows itself.
      if (checkpoint == nullptr || checkpoint->sequence >= record->sequence) return ResumePoint{};
      const auto at = LinesBack(text, *start, record->sequence - checkpoint->sequence - 1, from == 0);
      if (at.has_value()) return ResumePoint{.offset = from + *at, .checkpoint = *checkpoint};
    }
    if (from == 0) return ResumePoint{};
  }
}

}  // namespace sealift::hsm
