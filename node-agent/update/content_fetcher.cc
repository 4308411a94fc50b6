#include "node-agent/update/content_fetcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "shared/base/files.h"

namespace sealift::agent {
namespace {

namespace fs = std::filesystem;

// Ends a transfer once it moved its share. A second transfer within one Download is the whole object once
// more, because a resumed part was wrong; cut into slices again it would be a resumed part for ever.
class SliceSource final : public content::ContentSource {
 public:
  SliceSource(content::ContentSource& inner, std::uint64_t budget, std::chrono::milliseconds time)
      : inner_(inner), budget_(budget), until_(std::chrono::steady_clock::now() + time) {}

  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override {
    const bool again = std::exchange(began_, true);
    Status refused;
    const Status status = inner_.Fetch(digest, offset, [&, again](ByteView piece) -> Status {
      const bool late = moved_ > 0 && std::chrono::steady_clock::now() >= until_;
      if (!again && (moved_ >= budget_ || late)) {
        stopped_ = true;
        return MakeError(Code::kCancelled, Reason::kCancelled, "fetch content: this slice is done");
      }
      moved_ += piece.size();
      refused = sink(piece);
      return refused;
    });
    if (!stopped_ && refused.ok()) gave_out_ = status;
    // The reason is ours also where the source gave another one of its own.
    return refused.ok() ? status : refused;
  }
  bool stopped() const { return stopped_; }
  std::uint64_t moved() const { return moved_; }
  // Why the source ended by itself; OK when it did not.
  const Status& gave_out() const { return gave_out_; }

 private:
  content::ContentSource& inner_;
  const std::uint64_t budget_;
  const std::chrono::steady_clock::time_point until_;
  std::uint64_t moved_ = 0;
  bool began_ = false;
  bool stopped_ = false;
  Status gave_out_;
};

std::uint64_t SizeOf(const fs::path& file) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(file, error);
  return error ? 0 : size;
}

}  // namespace

Status ContentFetcher::CheckSpace(const fs::path& file, std::uint64_t size) const {
  const std::uint64_t have = std::max(SizeOf(file), SizeOf(file.string() + ".part"));
  const std::uint64_t needed = (have < size ? size - have : 0) + options_.reserve_bytes;
  std::error_code error;
  fs::space_info space = fs::space(directory_, error);
  if (!error && space.available < needed && options_.make_room) {
    options_.make_room();
    space = fs::space(directory_, error);
  }
  if (error) {
    return MakeError(Code::kUnavailable, Reason::kStateIo,
                     fmt::format("ask for free space at '{}': {}", directory_.string(), error.message()));
  }
  if (space.available >= needed) return OkStatus();
  return MakeError(Code::kResourceExhausted, Reason::kDiskFull,
                   fmt::format("fetch content to '{}': {} bytes are free, {} are needed", directory_.string(),
                               space.available, needed));
}

Result<FetchProgress> ContentFetcher::FetchSome(const Sha256Digest& digest, std::uint64_t size) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(directory_, 0700));
  FetchProgress progress;
  progress.size = size;
  progress.file = directory_ / digest.hex();
  SEALIFT_RETURN_IF_ERROR(CheckSpace(progress.file, size));
  SliceSource slice(source_, options_.slice_bytes, options_.slice_time);
  content::DownloadRequest request;
  request.digest = digest;
  request.size = size;
  request.file = progress.file;
  request.progress = [&progress](std::uint64_t have) { progress.have = have; };
  const Status status = content::Download(slice, request);
  if (slice.stopped()) return progress;
  progress.source = slice.gave_out();
  if (ReasonOf(status) == Reason::kContentIncomplete) progress.source = status;
  const bool ended_by_source = !progress.source.ok();
  const Code code = progress.source.code();
  const bool broke_off = code == Code::kUnavailable || code == Code::kDeadlineExceeded;
  const bool waits = broke_off && options_.waits && options_.waits();
  if (waits || (broke_off && slice.moved() >= options_.least_bytes)) progress.source = OkStatus();
  const Reason reason = ReasonOf(status);
  const bool wrong = reason == Reason::kContentDigestMismatch || reason == Reason::kContentTooLong;
  if (wrong && options_.blame && options_.blame(digest)) {
    progress.have = 0;
    progress.source = OkStatus();
    return progress;
  }
  if (!status.ok() && ended_by_source) return progress;
  SEALIFT_RETURN_IF_ERROR(status);
  progress.have = size;
  progress.complete = true;
  if (options_.complete) options_.complete(digest, progress.file);
  return progress;
}

Status ContentFetcher::Discard(const Sha256Digest* keep) {
  const std::string kept = keep == nullptr ? std::string() : keep->hex();
  std::error_code error;
  if (!fs::exists(directory_, error)) return OkStatus();
  std::error_code failed;
  for (fs::directory_iterator entry(directory_, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (keep != nullptr && name.starts_with(kept)) continue;
    std::error_code removed;
    fs::remove_all(entry->path(), removed);
    if (removed) failed = removed;
  }
  if (!error && !failed) return OkStatus();
  return MakeError(Code::kUnavailable, Reason::kStateIo,
                   fmt::format("clear '{}': {}", directory_.string(), (error ? error : failed).message()));
}

}  // namespace sealift::agent
