// The index of an initrd's frames: what each decodes to, so that a node fetches or rebuilds only those it
// lacks.
//
// An object of its own (file "frames.json" of a release, named in the manifest with its digest), since the
// kernel takes nothing between frames. JSON, one form per index: members in the order below, no white space,
//
//   {"format":1,"zstd":{"version":"1.5.4","level":9},"size":N,"digest":HEX,"frames":[
//     {"offset":N,"size":N,"digest":HEX,"raw_size":N,"raw_digest":HEX,"group":TEXT,"files":[
//       {"path":TEXT,"size":N,"digest":HEX},...]},...]}
//
// with paths and groups percent-encoded (RFC 3986, upper case) where a byte is '%', '"', '\' or no printable
// ASCII character: file names need not be UTF-8. `format` changes when a reader of the old one would
// misunderstand; unknown members are ignored. Thread-safe functions over plain values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::content {

inline constexpr std::uint32_t kFrameIndexFormat = 1;

// A regular file of the tree, without a leading slash. Every name of a file with several is listed.
struct FrameFile {
  std::string path;
  std::uint64_t size = 0;
  Sha256Digest digest;

  bool operator==(const FrameFile&) const = default;
};

struct FrameRecord {
  // Where the compressed frame lies in the initrd, and what it must hash to.
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  Sha256Digest digest;
  // The part of the archive it decodes to; `raw_digest` is the frame's name in a content store.
  std::uint64_t raw_size = 0;
  Sha256Digest raw_digest;
  // The package its files belong to; empty where none claims them. A hint for choosing what to compare with.
  std::string group;
  std::vector<FrameFile> files;

  bool operator==(const FrameRecord&) const = default;
};

struct FrameIndex {
  // With which library and level the frames came to these very bytes; another may give others.
  std::string zstd_version;
  int zstd_level = 0;
  // Of the whole initrd: its frames, then up to three zero bytes.
  std::uint64_t size = 0;
  Sha256Digest digest;
  std::vector<FrameRecord> frames;

  bool operator==(const FrameIndex&) const = default;
};

std::string SerializeFrameIndex(const FrameIndex& index);

// Bounded (64 MiB), strict: frames follow each other without a gap and end where the initrd does; paths are
// relative, without ".", ".." or empty parts, and occur once. Errors: INVALID_ARGUMENT/MALFORMED.
Result<FrameIndex> ParseFrameIndex(std::string_view json);

}  // namespace sealift::content
