// A delta: how to make one image from another, as a program over the old image's parts and four streams.
//
// Binary; numbers are LEB128 unless said otherwise, "signed" ones zigzag:
//
//   "SLD2"
//   sizes: program unpacked, program packed, control, places, difference, extra, patches
//   program (one zstd frame), control, places, difference, extra (each raw LZMA2, dictionary of 8 MiB),
//   patches
//
// The program: source size, source SHA-256, target size, target SHA-256, count, then that many operations,
// in the order of the target's bytes:
//
//   0 COPY   signed (old offset - end of the last copy), length
//   1 PART   encoding, method; level and size (not of plain parts); raw size; count of references,
//            each: encoding, signed (old offset - end of the last reference), size, raw size (not of plain
//            ones); SHA-256 of the packed part (not of plain ones); with method kZstd: length of its patch
//
// A part's raw bytes are made from its references, unpacked and put behind each other. Method kBsdiff takes
// from `control` triples (signed seek, length of difference, length of extra) until the part is full: the
// place in the reference moves, then come so many bytes of it plus their differences, then so many of
// `extra`. Differences are mostly zero: `places` has pairs (count of zeros, count of others, not both 0),
// `difference` the others; they go on from one part to the next. Method kBsdiffCode is the same where
// references and result stand in code form (code_form.h), each at most 64 MiB. Method kZstd is a zstd frame
// in `patches` with the reference as its prefix. All parts share the streams, since they resemble each other.
//
// Foreign bytes: checked against a signed digest before they come here, and bounded all the same. Plain
// values; thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <variant>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/delta/encoding.h"
#include "shared/delta/open_file.h"

namespace sealift::delta {

enum class Method : std::uint8_t { kBsdiff = 0, kZstd = 1, kBsdiffCode = 2 };

struct CopyOperation {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  bool operator==(const CopyOperation&) const = default;
};

struct Reference {
  Encoding encoding = Encoding::kPlain;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::uint64_t raw_size = 0;
  bool operator==(const Reference&) const = default;
};

struct PartOperation {
  Encoding encoding = Encoding::kPlain;
  Method method = Method::kBsdiff;
  int level = 0;
  std::uint64_t size = 0;
  std::uint64_t raw_size = 0;
  std::vector<Reference> references;
  // Zero for a plain part.
  Sha256Digest digest;
  std::uint64_t patch_size = 0;
  bool operator==(const PartOperation&) const = default;
};

struct DeltaProgram {
  std::uint64_t source_size = 0;
  Sha256Digest source;
  std::uint64_t target_size = 0;
  Sha256Digest target;
  std::vector<std::variant<CopyOperation, PartOperation>> operations;
  bool operator==(const DeltaProgram&) const = default;
};

// Where the streams lie in the file.
struct DeltaLayout {
  DeltaProgram program;
  struct Extent {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
  };
  Extent control, places, difference, extra, patches;
};

// A part's references together, so that a node can hold them.
inline constexpr std::uint64_t kMaxReferenceBytes = 1ull << 30;
inline constexpr std::uint32_t kStreamDictionaryBytes = 8u << 20;
// What method kBsdiffCode takes: of the references together, and of the part.
inline constexpr std::uint64_t kMaxCodeBytes = 64u << 20;

// Of the five streams in their order; everything before the first.
Bytes SerializeDeltaHead(const DeltaProgram& program, const std::array<std::uint64_t, 5>& streams);

// Bounded (program of 16 MiB, 65536 operations, 4096 references each) and strict: offsets lie in the source,
// the operations make the target's size, streams end where the file does.
// Errors: INVALID_ARGUMENT/DELTA_INVALID; those of the file.
Result<DeltaLayout> ReadDelta(const OpenFile& file);

// Numbers as the format writes them.
void PutNumber(Bytes& to, std::uint64_t value);
inline std::uint64_t ZigZag(std::int64_t value) {
  return (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63);
}
inline std::int64_t UnZigZag(std::uint64_t value) {
  return static_cast<std::int64_t>(value >> 1) ^ -static_cast<std::int64_t>(value & 1);
}

}  // namespace sealift::delta
