// The bytes of a section: in memory, or a stretch of an open file that is never held in memory whole.
//
// A plain value that borrows what it names, which must outlive it and must not change. Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "shared/base/files.h"

namespace sealift::uki {

class ContentSource {
 public:
  ContentSource() = default;
  // Implicit, so that bytes in memory can be named where a source is wanted.
  ContentSource(ByteView bytes) : memory_(bytes), size_(bytes.size()) {}    // NOLINT
  ContentSource(const Bytes& bytes) : ContentSource(ByteView(bytes)) {}     // NOLINT
  ContentSource(std::string_view text) : ContentSource(AsBytes(text)) {}    // NOLINT
  ContentSource(const std::string& text) : ContentSource(AsBytes(text)) {}  // NOLINT
  // `path` is for messages.
  ContentSource(const UniqueFd& fd, std::string path, std::uint64_t offset, std::uint64_t size)
      : fd_(fd.get()), path_(std::move(path)), offset_(offset), size_(size) {}

  std::uint64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // Hands the bytes to `sink` in order, in pieces of at most `scratch` where they come from a file. The first
  // piece ends where the distance from `position` is a multiple of scratch.size(), so that a copy to that
  // place writes whole pages. Errors: UNAVAILABLE/FILE_UNREADABLE, also when the file ended early; the
  // sink's.
  Status ForEach(std::span<std::uint8_t> scratch, std::uint64_t position,
                 const std::function<Status(ByteView)>& sink) const;
  // The stretch at `from`, which lies inside. Errors: as ForEach.
  ContentSource Part(std::uint64_t from, std::uint64_t size) const;
  // The first bytes, at most `max`.
  Result<Bytes> Head(std::size_t max) const;

 private:
  ByteView memory_;
  int fd_ = -1;
  std::string path_;
  std::uint64_t offset_ = 0;
  std::uint64_t size_ = 0;
};

// A whole file, open for as long as its source is used. Move-only.
struct SourceFile {
  UniqueFd fd;
  ContentSource source;
};
// Errors: NOT_FOUND or UNAVAILABLE with FILE_UNREADABLE; FILE_TOO_LARGE above `max_bytes`; a file that is not
// a regular one counts as unreadable.
Result<SourceFile> OpenSource(const std::filesystem::path& path, std::uint64_t max_bytes);

// SHA-256 over all of it. Errors: as ForEach.
Result<Sha256Digest> DigestSource(const ContentSource& source);

}  // namespace sealift::uki
