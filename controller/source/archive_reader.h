// Tar and ar archives, plain or compressed, through libarchive: no external program, no file of this machine.
//
// Used by one thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "controller/source/tree.h"
#include "shared/crypto/hash.h"

struct archive;
struct archive_entry;

namespace sealift::build {

// Fills the buffer as far as there are bytes; 0 at the end.
using ByteSource = std::function<Result<std::size_t>(std::span<std::uint8_t>)>;

using ArchivePtr = std::unique_ptr<archive, int (*)(archive*)>;

// Undoes gzip, zstd, xz, bzip2 or nothing, whatever the first bytes say; never two of them.
class Decompressor {
 public:
  // Errors: SOURCE_UNUSABLE.
  static Result<std::unique_ptr<Decompressor>> Open(ByteSource compressed);
  // Errors: SOURCE_UNUSABLE; those of the source.
  Result<std::size_t> Read(std::span<std::uint8_t> into);

 private:
  friend class ArchiveReader;
  explicit Decompressor(ByteSource source);
  Status Failed(archive* from, std::string_view what) const;
  static long Feed(archive* from, void* self, const void** bytes);

  ByteSource source_;
  Bytes buffer_;
  Status status_;
  ArchivePtr archive_;
  bool ended_ = false;
};

// Entries of an archive, one after the other.
class ArchiveReader {
 public:
  enum class Format { kTar, kAr };
  // `plain` gives its bytes, uncompressed; an empty archive is fine.
  explicit ArchiveReader(ByteSource plain, Format format = Format::kTar);

  // The next entry, or null at the end. Belongs to the reader, until the next call. Errors: SOURCE_UNUSABLE
  // also for what libarchive would only warn of; those of the source.
  Result<archive_entry*> Next();
  // Pieces of the entry's content with where they belong; what lies between is a hole. Errors: as Next, and
  // those of `take`.
  Status ReadContent(const std::function<Status(std::uint64_t offset, ByteView piece)>& take);

 private:
  Status Failed();
  static long Feed(archive* from, void* self, const void** bytes);

  ByteSource source_;
  Bytes buffer_;
  Status status_;
  ArchivePtr archive_;
  bool opened_ = false;
};

}  // namespace sealift::build
