#include "controller/build/newc.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "shared/crypto/hash.h"

namespace sealift::build {
namespace {

constexpr std::size_t kHeaderBytes = 110;
constexpr std::size_t kPieceBytes = 128u << 10;

std::uint64_t Aligned(std::uint64_t size) {
  return (size + kArchiveAlignment - 1) / kArchiveAlignment * kArchiveAlignment;
}

std::uint64_t HeaderBytes(std::string_view path) { return Aligned(kHeaderBytes + path.size() + 1); }

Status Pad(std::uint64_t size, const ByteSink& sink) {
  constexpr std::uint8_t kZeros[kArchiveAlignment] = {};
  return size % kArchiveAlignment == 0 ? OkStatus() : sink(ByteView(kZeros).first(Aligned(size) - size));
}

Status WriteContent(const ArchiveEntry& item, const ByteSink& sink, Bytes& buffer,
                    std::vector<content::FrameFile>* files) {
  SEALIFT_ASSIGN_OR_RETURN(ContentReader reader, Tree::Open(*item.entry));
  Sha256Hasher hasher;
  while (true) {
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, reader.Read(buffer));
    if (got == 0) break;
    const ByteView piece = ByteView(buffer).first(got);
    if (files != nullptr) hasher.Update(piece);
    SEALIFT_RETURN_IF_ERROR(sink(piece));
  }
  SEALIFT_RETURN_IF_ERROR(Pad(item.entry->size, sink));
  if (files == nullptr) return OkStatus();
  // The names before it in the frame are those of the same file.
  const Sha256Digest digest = hasher.Finish();
  for (std::size_t i = files->size() - (item.links - 1); i < files->size(); ++i) (*files)[i].digest = digest;
  files->push_back({.path = std::string(item.path), .size = item.entry->size, .digest = digest});
  return OkStatus();
}

}  // namespace

std::string ArchiveHeader(std::string_view path, const TreeEntry& entry, const ArchiveEntry& item,
                          std::uint64_t size) {
  std::string header =
      fmt::format("070701{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{}",
                  item.inode, entry.mode, entry.uid, entry.gid, item.links, 0, size, 0, 0, entry.device_major,
                  entry.device_minor, path.size() + 1, 0, path);
  header.resize(HeaderBytes(path), '\0');
  return header;
}

std::uint64_t ArchivedSize(const ArchiveEntry& item) {
  if (S_ISLNK(item.entry->mode)) return item.entry->target.size();
  return item.carries_data ? item.entry->size : 0;
}

std::uint64_t ArchiveBytes(const Frame& frame) {
  std::uint64_t size = frame.last ? HeaderBytes(kArchiveTrailer) : 0;
  for (const ArchiveEntry& item : frame.entries) size += HeaderBytes(item.path) + Aligned(ArchivedSize(item));
  return size;
}

Status WriteFrame(const Frame& frame, const ByteSink& sink, std::vector<content::FrameFile>* files) {
  Bytes buffer(kPieceBytes);
  for (const ArchiveEntry& item : frame.entries) {
    const TreeEntry& entry = *item.entry;
    SEALIFT_RETURN_IF_ERROR(sink(AsBytes(ArchiveHeader(item.path, entry, item, ArchivedSize(item)))));
    if (S_ISLNK(entry.mode)) {
      SEALIFT_RETURN_IF_ERROR(sink(AsBytes(entry.target)));
      SEALIFT_RETURN_IF_ERROR(Pad(entry.target.size(), sink));
    } else if (item.carries_data) {
      SEALIFT_RETURN_IF_ERROR(WriteContent(item, sink, buffer, files));
    } else if (S_ISREG(entry.mode) && files != nullptr) {
      files->push_back({.path = std::string(item.path), .size = entry.size});
    }
  }
  if (!frame.last) return OkStatus();
  return sink(AsBytes(ArchiveHeader(kArchiveTrailer, TreeEntry{}, ArchiveEntry{}, 0)));
}

}  // namespace sealift::build
