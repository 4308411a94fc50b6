#include "controller/build/initrd.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <zstd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

namespace sealift::build {
namespace {

// Target size of a frame before compression.
constexpr std::uint64_t kFrameBytes = 1u << 20;
constexpr std::size_t kMaxPathBytes = 4000;
constexpr std::string_view kTrailer = "TRAILER!!!";
constexpr std::size_t kPadding = 4;

// FNV-1a: spreads names; no adversary gains from a collision.
std::uint64_t HashName(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash ^ (hash >> 32);
}

// Version numbers in paths change with every upgrade; cut points should not.
std::string WithoutNumbers(std::string_view path) {
  std::string text;
  for (const char c : path) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit)
      text += c;
    else if (text.empty() || text.back() != '#')
      text += '#';
  }
  return text;
}

// A file of size s ends a frame with probability of about s / kFrameBytes.
bool CutsAfter(std::string_view path, std::uint64_t size) {
  if (size == 0) return false;
  return HashName(WithoutNumbers(path)) % kFrameBytes < std::bit_floor(size);
}

void PutHeader(ByteWriter& writer, std::string_view path, const TreeEntry& entry, const ArchiveEntry& item,
               std::uint64_t size) {
  writer.PadTo(kPadding);
  const std::string header =
      fmt::format("070701{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}",
                  item.inode, entry.mode, entry.uid, entry.gid, item.links, 0, size, 0, 0, entry.device_major,
                  entry.device_minor, path.size() + 1, 0);
  writer.Raw(AsBytes(header));
  writer.Raw(AsBytes(path));
  writer.U8(0);
  writer.PadTo(kPadding);
}

// All names of one file, next to its first name.
using Group = std::vector<const std::pair<const std::string, TreeEntry>*>;

std::vector<Group> FileGroups(const Tree& tree) {
  std::vector<Group> groups;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::size_t> known;
  for (const auto& item : tree.entries()) {
    if (!S_ISREG(item.second.mode)) continue;
    if (item.second.link_group.has_value()) {
      const auto [at, fresh] = known.try_emplace(*item.second.link_group, groups.size());
      if (!fresh) {
        groups[at->second].push_back(&item);
        continue;
      }
    }
    groups.push_back({&item});
  }
  return groups;
}

using ZstdContext = std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)>;

Result<Bytes> Compress(ZSTD_CCtx* context, ByteView raw) {
  Bytes out(ZSTD_compressBound(raw.size()));
  const std::size_t size = ZSTD_compress2(context, out.data(), out.size(), raw.data(), raw.size());
  if (ZSTD_isError(size) != 0) {
    return MakeError(Code::kInternal, Reason::kInternal,
                     fmt::format("compress initrd: {}", ZSTD_getErrorName(size)));
  }
  out.resize(size);
  out.shrink_to_fit();
  return out;
}

// Frames are taken in turn; the first error stops all.
class Packer {
 public:
  Packer(const Tree& tree, const std::vector<Frame>& frames, const InitrdOptions& options)
      : tree_(tree), frames_(frames), options_(options), packed_(frames.size()) {
    for (const Frame& frame : frames)
      for (const ArchiveEntry& item : frame)
        if (item.carries_data) total_ += item.entry->size;
  }

  Result<std::vector<Bytes>> Run() {
    unsigned count =
        options_.threads == 0 ? std::max(1u, std::thread::hardware_concurrency()) : options_.threads;
    count = static_cast<unsigned>(std::min<std::size_t>(count, frames_.size()));
    {
      std::vector<std::jthread> threads;
      for (unsigned i = 0; i < count; ++i) threads.emplace_back([this] { Work(); });
    }
    SEALIFT_RETURN_IF_ERROR(status_);
    return std::move(packed_);
  }
  std::uint64_t unpacked_bytes() const { return unpacked_; }

 private:
  void Work() {
    const ZstdContext context(ZSTD_createCCtx(), ZSTD_freeCCtx);
    SEALIFT_CHECK(context != nullptr);
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, options_.zstd_level);
    for (std::size_t i = next_++; i < frames_.size(); i = next_++) {
      if (!PackOne(context.get(), i)) return;
    }
  }

  bool PackOne(ZSTD_CCtx* context, std::size_t index) {
    const Result<Bytes> raw = WriteFrame(tree_, frames_[index], index + 1 == frames_.size());
    Result<Bytes> packed = raw.ok() ? Compress(context, *raw) : Result<Bytes>(raw.status());
    const std::lock_guard lock(mutex_);
    if (!status_.ok()) return false;
    if (!packed.ok()) {
      status_ = packed.status();
      return false;
    }
    packed_[index] = *std::move(packed);
    unpacked_ += raw->size();
    for (const ArchiveEntry& item : frames_[index])
      if (item.carries_data) done_ += item.entry->size;
    if (options_.progress) options_.progress(done_, total_);
    return true;
  }

  const Tree& tree_;
  const std::vector<Frame>& frames_;
  const InitrdOptions& options_;
  std::atomic<std::size_t> next_ = 0;
  std::mutex mutex_;
  // Under mutex_ from here on.
  std::vector<Bytes> packed_;
  Status status_;
  std::uint64_t done_ = 0;
  std::uint64_t total_ = 0;
  std::uint64_t unpacked_ = 0;
};

}  // namespace

Result<std::vector<Frame>> PlanFrames(const Tree& tree) {
  for (const auto& [path, entry] : tree.entries()) {
    if (path.size() > kMaxPathBytes || path == kTrailer) {
      return MakeError(Code::kInvalidArgument, Reason::kRootfsUnusable,
                       fmt::format("pack initrd: an archive cannot hold the path '{}'", path.substr(0, 80)));
    }
  }
  std::vector<Frame> frames(1);
  for (const auto& [path, entry] : tree.entries())
    if (!S_ISREG(entry.mode)) frames[0].push_back({.path = path, .entry = &entry});
  Frame frame;
  std::uint64_t size = 0;
  const auto cut = [&] {
    if (!frame.empty()) frames.push_back(std::move(frame));
    frame = {};
    size = 0;
  };
  for (const Group& group : FileGroups(tree)) {
    const auto& [first_path, first] = *group.front();
    const bool large = first.size >= kFrameBytes;
    if (large) cut();
    const auto links = static_cast<std::uint32_t>(group.size());
    const auto inode = links == 1 ? 0 : static_cast<std::uint32_t>(HashName(first_path) | 1);
    for (const auto* item : group) {
      frame.push_back({.path = item->first,
                       .entry = &item->second,
                       .links = links,
                       .inode = inode,
                       .carries_data = item == group.back()});
    }
    size += first.size;
    const bool chosen = size >= kFrameBytes / 4 && CutsAfter(first_path, first.size);
    if (large || chosen || size >= 3 * kFrameBytes) cut();
  }
  cut();
  return frames;
}

Result<Bytes> WriteFrame(const Tree& tree, const Frame& frame, bool last) {
  ByteWriter writer(ByteWriter::Endian::kLittle);
  for (const ArchiveEntry& item : frame) {
    if (S_ISLNK(item.entry->mode)) {
      PutHeader(writer, item.path, *item.entry, item, item.entry->target.size());
      writer.Raw(AsBytes(item.entry->target));
    } else if (item.carries_data) {
      SEALIFT_ASSIGN_OR_RETURN(const Bytes content, tree.Contents(*item.entry));
      PutHeader(writer, item.path, *item.entry, item, content.size());
      writer.Raw(content);
    } else {
      PutHeader(writer, item.path, *item.entry, item, 0);
    }
  }
  if (last) PutHeader(writer, kTrailer, TreeEntry{}, ArchiveEntry{}, 0);
  writer.PadTo(kPadding);
  return std::move(writer).Finish();
}

Result<Initrd> PackInitrd(const Tree& tree, const InitrdOptions& options) {
  if (options.zstd_level < 1 || options.zstd_level > 19) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "pack initrd: zstd levels go from 1 to 19");
  }
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Frame> frames, PlanFrames(tree));
  Packer packer(tree, frames, options);
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<Bytes> packed, packer.Run());
  Initrd initrd{.unpacked_bytes = packer.unpacked_bytes(), .frames = packed.size()};
  std::size_t size = 0;
  for (const Bytes& frame : packed) size += frame.size();
  initrd.bytes.reserve(size + kPadding);
  for (const Bytes& frame : packed) Append(initrd.bytes, frame);
  initrd.bytes.resize((initrd.bytes.size() + kPadding - 1) / kPadding * kPadding);
  return initrd;
}

}  // namespace sealift::build
