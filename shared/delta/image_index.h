// The index of an image's parts and of the wire objects they are made from, for a node that has no delta.
//
// An object of its own, named with its digest by the release's content list (content_list.h). Binary, LEB128
// numbers: "SLI1", unpacked size, then one zstd frame with
//
//   image size, image SHA-256, count, then for each part in order:
//   encoding; level (not of plain parts); size; raw size (not of plain ones); SHA-256 of the part as it lies
//   in the image; codec, size and SHA-256 of its object
//
// A wire object holds a part's raw bytes, packed as small as may be. It is named by the digest of the packed
// bytes, so that nothing is unpacked before it was checked; equal raw bytes give an equal object as long as
// builders carry one version of the libraries. Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/delta/image_parts.h"

namespace sealift::delta {

// Values are wire format; do not renumber.
enum class ObjectCodec : std::uint8_t {
  kZstd = 0,
  // An .xz file without a checksum of its own, with the filter for x86 code.
  kXz = 1,
  // One without that filter, of at most 64 MiB in code form (code_form.h): where there are ELF files.
  kXzCode = 2,
};

struct ObjectName {
  // Where there is none, since the releases that the publisher compared with all have this part.
  bool none() const { return size == 0; }

  ObjectCodec codec = ObjectCodec::kZstd;
  std::uint64_t size = 0;
  Sha256Digest digest;
  bool operator==(const ObjectName&) const = default;
};

struct IndexedPart {
  ImagePart part;
  int level = 0;
  Sha256Digest digest;
  ObjectName object;
  bool operator==(const IndexedPart&) const = default;
};

struct ImageIndex {
  std::uint64_t size = 0;
  Sha256Digest digest;
  // Without gaps, from the first byte to the last.
  std::vector<IndexedPart> parts;
  bool operator==(const ImageIndex&) const = default;
};

inline constexpr std::uint64_t kMaxIndexBytes = 16ull << 20;

Bytes SerializeImageIndex(const ImageIndex& index);
// Bounded (16 MiB unpacked, 65536 parts), strict. Errors: INVALID_ARGUMENT/DELTA_INVALID.
Result<ImageIndex> ParseImageIndex(ByteView bytes);
// Its two halves, for whoever unpacks elsewhere than it parses.
Result<Bytes> UnpackImageIndex(ByteView bytes);
Result<ImageIndex> ParseUnpackedIndex(ByteView raw);

}  // namespace sealift::delta
