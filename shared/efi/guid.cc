#include "shared/efi/guid.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::efi {
namespace {

// Text position -> byte position: the first three groups are little-endian.
constexpr std::array<std::size_t, 16> kTextOrder = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};

}  // namespace

std::string Guid::text() const {
  Bytes ordered(16);
  for (std::size_t i = 0; i < 16; ++i) ordered[i] = bytes[kTextOrder[i]];
  const std::string hex = HexEncode(ordered);
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4),
                     hex.substr(16, 4), hex.substr(20));
}

Result<Guid> Guid::Parse(std::string_view text) {
  const auto malformed = [&] {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("read GUID '{}': not of the form 8-4-4-4-12", text.substr(0, 64)));
  };
  if (text.size() != 36) return malformed();
  std::string hex;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;
    if (hyphen != (text[i] == '-')) return malformed();
    if (!hyphen) hex += text[i];
  }
  const Result<Bytes> ordered = HexDecode(hex);
  if (!ordered.ok()) return malformed();
  Guid guid;
  for (std::size_t i = 0; i < 16; ++i) guid.bytes[kTextOrder[i]] = (*ordered)[i];
  return guid;
}

Result<Guid> Guid::FromBytes(ByteView bytes) {
  Guid guid;
  if (bytes.size() != guid.bytes.size()) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("read GUID: {} bytes instead of 16", bytes.size()));
  }
  std::copy(bytes.begin(), bytes.end(), guid.bytes.begin());
  return guid;
}

}  // namespace sealift::efi
