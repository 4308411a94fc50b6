#include "controller/build/initrd.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "controller/build/newc.h"
#include "shared/crypto/hash.h"

namespace sealift::build {
namespace {

// A frame of more raw bytes waits for its turn and is then compressed straight into the sink.
constexpr std::uint64_t kLargeFrameBytes = 4u << 20;
// Finished frames that wait for their turn, together.
constexpr std::uint64_t kMaxWaitingBytes = 3u << 20;

using ZstdContext = std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)>;

// One frame on its way through libzstd; the rule of the format is in the header.
class FrameCompressor {
 public:
  FrameCompressor(ZSTD_CCtx* context, std::uint64_t raw_size, const ByteSink& out)
      : context_(context), out_(out), buffer_(ZSTD_CStreamOutSize()) {
    ZSTD_CCtx_reset(context_, ZSTD_reset_session_only);
    ZSTD_CCtx_setPledgedSrcSize(context_, raw_size);
  }

  Status Put(ByteView raw) {
    raw_hasher_.Update(raw);
    ZSTD_inBuffer input{raw.data(), raw.size(), 0};
    while (input.pos < input.size) SEALIFT_RETURN_IF_ERROR(Step(input, ZSTD_e_continue).status());
    return OkStatus();
  }

  Status Finish() {
    ZSTD_inBuffer nothing{nullptr, 0, 0};
    while (true) {
      SEALIFT_ASSIGN_OR_RETURN(const std::size_t left, Step(nothing, ZSTD_e_end));
      if (left == 0) return OkStatus();
    }
  }

  std::uint64_t size() const { return size_; }
  Sha256Digest Digest() { return hasher_.Finish(); }
  Sha256Digest RawDigest() { return raw_hasher_.Finish(); }

 private:
  Result<std::size_t> Step(ZSTD_inBuffer& input, ZSTD_EndDirective directive) {
    ZSTD_outBuffer output{buffer_.data(), buffer_.size(), 0};
    const std::size_t left = ZSTD_compressStream2(context_, &output, &input, directive);
    if (ZSTD_isError(left) != 0) {
      return MakeError(Code::kInternal, Reason::kInternal,
                       fmt::format("compress initrd: {}", ZSTD_getErrorName(left)));
    }
    const ByteView piece = ByteView(buffer_).first(output.pos);
    if (!piece.empty()) {
      hasher_.Update(piece);
      size_ += piece.size();
      SEALIFT_RETURN_IF_ERROR(out_(piece));
    }
    return left;
  }

  ZSTD_CCtx* context_;
  const ByteSink& out_;
  Bytes buffer_;
  Sha256Hasher raw_hasher_;
  Sha256Hasher hasher_;
  std::uint64_t size_ = 0;
};

// Frames are taken in turn, compressed side by side and written in order; the first error stops all.
class Packer {
 public:
  Packer(const std::vector<Frame>& frames, const InitrdOptions& options, const ByteSink& sink)
      : frames_(frames), options_(options), sink_(sink) {
    index_.frames.resize(frames.size());
    for (const Frame& frame : frames) total_ += frame.raw_size;
  }

  Result<content::FrameIndex> Run() {
    unsigned count =
        options_.threads == 0 ? std::max(1u, std::thread::hardware_concurrency()) : options_.threads;
    count = static_cast<unsigned>(std::min<std::size_t>(count, frames_.size()));
    {
      std::vector<std::jthread> threads;
      for (unsigned i = 0; i < count; ++i) threads.emplace_back([this] { Work(); });
    }
    SEALIFT_RETURN_IF_ERROR(status_);
    if (const std::uint64_t rest = size_ % kArchiveAlignment; rest != 0)
      SEALIFT_RETURN_IF_ERROR(Write(Bytes(kArchiveAlignment - rest)));
    index_.size = size_;
    index_.digest = hasher_.Finish();
    return std::move(index_);
  }
  std::uint64_t total() const { return total_; }

 private:
  void Work() {
    const ZstdContext context(ZSTD_createCCtx(), ZSTD_freeCCtx);
    SEALIFT_CHECK(context != nullptr);
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, options_.zstd_level);
    while (const std::optional<std::size_t> index = TakeFrame()) {
      const Status status = frames_[*index].raw_size > kLargeFrameBytes ? PackLarge(context.get(), *index)
                                                                        : PackSmall(context.get(), *index);
      if (!status.ok()) Stop(status);
    }
  }

  // Waits while too much is finished already. Whoever has the frame that is next to be written never waits
  // here, so the others get on.
  std::optional<std::size_t> TakeFrame() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !status_.ok() || waiting_bytes_ < kMaxWaitingBytes; });
    if (!status_.ok() || next_ == frames_.size()) return std::nullopt;
    return next_++;
  }

  Status PackLarge(ZSTD_CCtx* context, std::size_t index) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !status_.ok() || (written_ == index && !writing_); });
      if (!status_.ok()) return status_;
      writing_ = true;
    }
    SEALIFT_RETURN_IF_ERROR(Compress(context, index, [this](ByteView piece) { return Write(piece); }));
    return WriteFinished(index);
  }

  Status PackSmall(ZSTD_CCtx* context, std::size_t index) {
    Bytes packed;
    const ByteSink keep = [&packed](ByteView piece) {
      Append(packed, piece);
      return OkStatus();
    };
    // Grown in doublings, a frame that waits would hold twice its size.
    packed.reserve(static_cast<std::size_t>(frames_[index].raw_size / 3));
    SEALIFT_RETURN_IF_ERROR(Compress(context, index, keep));
    packed.shrink_to_fit();
    {
      const std::lock_guard lock(mutex_);
      waiting_bytes_ += packed.size();
      waiting_.emplace(index, std::move(packed));
      if (writing_ || written_ != index) return OkStatus();
      writing_ = true;
    }
    return WriteFinished(std::nullopt);
  }

  Status Compress(ZSTD_CCtx* context, std::size_t index, const ByteSink& out) {
    const Frame& frame = frames_[index];
    content::FrameRecord& record = index_.frames[index];
    FrameCompressor compressor(context, frame.raw_size, out);
    SEALIFT_RETURN_IF_ERROR(WriteFrame(
        frame, [&](ByteView piece) { return compressor.Put(piece); }, &record.files));
    SEALIFT_RETURN_IF_ERROR(compressor.Finish());
    record.group = frame.group;
    record.size = compressor.size();
    record.digest = compressor.Digest();
    record.raw_size = frame.raw_size;
    record.raw_digest = compressor.RawDigest();
    return OkStatus();
  }

  // Called with the turn (writing_): writes the frames whose turn has come. `done`: one that was written.
  Status WriteFinished(std::optional<std::size_t> done) {
    while (true) {
      Bytes packed;
      {
        const std::lock_guard lock(mutex_);
        if (done.has_value()) Account(*done);
        const auto found = waiting_.find(written_);
        if (found == waiting_.end() || !status_.ok()) {
          writing_ = false;
          changed_.notify_all();
          return OkStatus();
        }
        done = found->first;
        packed = std::move(found->second);
        waiting_.erase(found);
      }
      SEALIFT_RETURN_IF_ERROR(Write(packed));
      const std::lock_guard lock(mutex_);
      waiting_bytes_ -= packed.size();
    }
  }

  void Account(std::size_t index) {
    index_.frames[index].offset = size_ - index_.frames[index].size;
    ++written_;
    done_ += frames_[index].raw_size;
    if (options_.progress) options_.progress(done_, total_);
    changed_.notify_all();
  }

  // Called with the turn.
  Status Write(ByteView bytes) {
    hasher_.Update(bytes);
    size_ += bytes.size();
    return sink_(bytes);
  }

  void Stop(const Status& status) {
    const std::lock_guard lock(mutex_);
    if (status_.ok()) status_ = status;
    changed_.notify_all();
  }

  const std::vector<Frame>& frames_;
  const InitrdOptions& options_;
  const ByteSink& sink_;
  // Belong to whoever has the turn; a record's other members to whoever packs the frame.
  content::FrameIndex index_;
  Sha256Hasher hasher_;
  std::uint64_t size_ = 0;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Under mutex_ from here on.
  Status status_;
  std::size_t next_ = 0;
  std::size_t written_ = 0;
  bool writing_ = false;
  std::map<std::size_t, Bytes> waiting_;
  std::uint64_t waiting_bytes_ = 0;
};

}  // namespace

Result<Initrd> PackInitrd(const Tree& tree, const InstalledPackages& packages, const InitrdOptions& options,
                          const ByteSink& sink) {
  if (options.zstd_level < 1 || options.zstd_level > 19) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "pack initrd: zstd levels go from 1 to 19");
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Frame> frames, PlanFrames(tree, packages));
  Packer packer(frames, options, sink);
  Initrd initrd;
  SEALIFT_ASSIGN_OR_RETURN(initrd.index, packer.Run());
  initrd.index.zstd_version = ZSTD_versionString();
  initrd.index.zstd_level = options.zstd_level;
  initrd.unpacked_bytes = packer.total();
  return initrd;
}

}  // namespace sealift::build
