// Bytes, and the bounded readers and writers that every parser of foreign bytes is built on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace sealift {

using Bytes = std::vector<std::uint8_t>;
using ByteView = std::span<const std::uint8_t>;

inline ByteView AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
inline std::string_view AsText(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes ToBytes(ByteView view) { return {view.begin(), view.end()}; }
inline Bytes ToBytes(std::string_view text) { return ToBytes(AsBytes(text)); }
inline std::string ToText(ByteView bytes) { return std::string(AsText(bytes)); }
inline void Append(Bytes& to, ByteView bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

// Lower-case, no separators.
std::string HexEncode(ByteView bytes);
// Even length, either case. Errors: INVALID_ARGUMENT/MALFORMED.
Result<Bytes> HexDecode(std::string_view hex);
// RFC 4648 section 4, padded, no line breaks.
std::string Base64Encode(ByteView bytes);
// Skips ASCII white space, as PEM bodies need. Errors: INVALID_ARGUMENT/MALFORMED.
Result<Bytes> Base64Decode(std::string_view text);

// Reads numbers and runs of bytes from a view and never beyond it.
//
// Not thread-safe; borrows the bytes. After the first short read every later read fails too, so a parser may
// read a whole structure and check `ok()` once. Nothing is allocated on the word of a length in the input.
class ByteReader {
 public:
  enum class Endian { kLittle, kBig };
  ByteReader(ByteView bytes, Endian endian) : bytes_(bytes), endian_(endian) {}

  std::uint8_t U8() { return static_cast<std::uint8_t>(Number(1)); }
  std::uint16_t U16() { return static_cast<std::uint16_t>(Number(2)); }
  std::uint32_t U32() { return static_cast<std::uint32_t>(Number(4)); }
  std::uint64_t U64() { return Number(8); }
  // Empty, and not ok() any more, when fewer than `size` bytes remain.
  ByteView Take(std::size_t size);
  void Skip(std::size_t size) { Take(size); }

  bool ok() const { return ok_; }
  std::size_t offset() const { return offset_; }
  std::size_t remaining() const { return ok_ ? bytes_.size() - offset_ : 0; }
  bool AtEnd() const { return ok_ && offset_ == bytes_.size(); }

 private:
  std::uint64_t Number(std::size_t size);

  ByteView bytes_;
  Endian endian_;
  std::size_t offset_ = 0;
  bool ok_ = true;
};

// Appends numbers in one byte order to a growing buffer.
class ByteWriter {
 public:
  using Endian = ByteReader::Endian;
  explicit ByteWriter(Endian endian) : endian_(endian) {}

  void U8(std::uint8_t value) { Number(value, 1); }
  void U16(std::uint16_t value) { Number(value, 2); }
  void U32(std::uint32_t value) { Number(value, 4); }
  void U64(std::uint64_t value) { Number(value, 8); }
  void Raw(ByteView bytes) { Append(bytes_, bytes); }
  void Zeros(std::size_t count) { bytes_.resize(bytes_.size() + count); }
  void PadTo(std::size_t alignment);

  std::size_t size() const { return bytes_.size(); }
  const Bytes& bytes() const { return bytes_; }
  Bytes Finish() && { return std::move(bytes_); }

 private:
  void Number(std::uint64_t value, std::size_t size);

  Endian endian_;
  Bytes bytes_;
};

// UEFI strings. No terminator is added. Input is ASCII or UTF-8; invalid sequences become U+FFFD.
Bytes Utf16Le(std::string_view utf8);
// The reverse, for strings that firmware hands over; lone surrogates become U+FFFD. An odd last byte is
// dropped.
std::string Utf8FromUtf16Le(ByteView utf16);

// A SHA-256 digest: 32 raw bytes on the wire, lower-case hex in JSON and on screen.
struct Sha256Digest {
  std::array<std::uint8_t, 32> bytes{};

  auto operator<=>(const Sha256Digest&) const = default;
  ByteView view() const { return bytes; }
  std::string hex() const { return HexEncode(bytes); }
  // Errors: INVALID_ARGUMENT/MALFORMED unless exactly 32 bytes.
  static Result<Sha256Digest> FromBytes(ByteView bytes);
  static Result<Sha256Digest> FromHex(std::string_view hex);
};

}  // namespace sealift
