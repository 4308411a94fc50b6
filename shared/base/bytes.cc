#include "shared/base/bytes.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift {
namespace {

constexpr char kHexDigits[] = "0123456789abcdef";
constexpr char kBase64Digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr char32_t kReplacement = 0xFFFD;

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

int Base64Value(char c) {
  const std::string_view digits(kBase64Digits, 64);
  const auto at = digits.find(c);
  return at == std::string_view::npos ? -1 : static_cast<int>(at);
}

Status MalformedText(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, what);
}

// Decodes one UTF-8 sequence at `at` and advances it.
char32_t NextCodePoint(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(at++);
  if (lead < 0x80) return lead;
  const std::size_t extra = lead >= 0xF0 && lead < 0xF8   ? 3
                            : lead >= 0xE0 && lead < 0xF0 ? 2
                            : lead >= 0xC2 && lead < 0xE0 ? 1
                                                          : 0;
  if (extra == 0 || at + extra > text.size()) return kReplacement;
  char32_t value = lead & (0x3Fu >> extra);
  for (std::size_t i = 0; i < extra; ++i) {
    const std::uint8_t next = byte(at + i);
    if ((next & 0xC0) != 0x80) return kReplacement;
    value = (value << 6) | (next & 0x3Fu);
  }
  at += extra;
  constexpr std::array<char32_t, 4> kSmallest{0, 0x80, 0x800, 0x10000};
  if (value < kSmallest.at(extra) || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
    return kReplacement;
  return value;
}

void AppendUtf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t value) { out.push_back(static_cast<char>(value)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | (c >> 6));
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | (c >> 12));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | (c >> 18));
    put(0x80 | ((c >> 12) & 0x3F));
    put(0x80 | ((c >> 6) & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

}  // namespace

std::string HexEncode(ByteView bytes) {
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (const std::uint8_t byte : bytes) {
    hex.push_back(kHexDigits[byte >> 4]);
    hex.push_back(kHexDigits[byte & 15]);
  }
  return hex;
}

Result<Bytes> HexDecode(std::string_view hex) {
  if (hex.size() % 2 != 0) return MalformedText("decode hex: odd number of digits");
  Bytes bytes;
  bytes.reserve(hex.size() / 2);
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    const int high = HexValue(hex[i]);
    const int low = HexValue(hex[i + 1]);
    if (high < 0 || low < 0) return MalformedText(fmt::format("decode hex: not a hex digit at offset {}", i));
    bytes.push_back(static_cast<std::uint8_t>(high * 16 + low));
  }
  return bytes;
}

std::string Base64Encode(ByteView bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j) group = (group << 8) | (j < count ? bytes[i + j] : 0u);
    for (std::size_t j = 0; j < 4; ++j) {
      text.push_back(j <= count ? kBase64Digits[(group >> (18 - 6 * j)) & 63] : '=');
    }
  }
  return text;
}

Result<Bytes> Base64Decode(std::string_view text) {
  Bytes bytes;
  std::uint32_t group = 0;
  std::size_t digits = 0;
  std::size_t padding = 0;
  for (const char c : text) {
    if (c == ' ' || c == '\n' || c == '\r' || c == '\t') continue;
    if (c == '=') {
      ++padding;
      continue;
    }
    const int value = Base64Value(c);
    if (value < 0 || padding != 0) return MalformedText("decode base64: unexpected character");
    group = (group << 6) | static_cast<std::uint32_t>(value);
    if (++digits % 4 == 0) {
      bytes.push_back(static_cast<std::uint8_t>(group >> 16));
      bytes.push_back(static_cast<std::uint8_t>(group >> 8));
      bytes.push_back(static_cast<std::uint8_t>(group));
      group = 0;
    }
  }
  const std::size_t rest = digits % 4;
  if (rest == 1 || (rest == 0 ? padding != 0 : padding != 4 - rest)) {
    return MalformedText("decode base64: wrong length or padding");
  }
  if (rest == 2) bytes.push_back(static_cast<std::uint8_t>(group >> 4));
  if (rest == 3) {
    bytes.push_back(static_cast<std::uint8_t>(group >> 10));
    bytes.push_back(static_cast<std::uint8_t>(group >> 2));
  }
  return bytes;
}

ByteView ByteReader::Take(std::size_t size) {
  if (!ok_ || size > bytes_.size() - offset_) {
    ok_ = false;
    return {};
  }
  const ByteView taken = bytes_.subspan(offset_, size);
  offset_ += size;
  return taken;
}

std::uint64_t ByteReader::Number(std::size_t size) {
  const ByteView raw = Take(size);
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    const std::size_t shift = endian_ == Endian::kLittle ? 8 * i : 8 * (raw.size() - 1 - i);
    value |= std::uint64_t{raw[i]} << shift;
  }
  return value;
}

void ByteWriter::Number(std::uint64_t value, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    const std::size_t shift = endian_ == Endian::kLittle ? 8 * i : 8 * (size - 1 - i);
    bytes_.push_back(static_cast<std::uint8_t>(value >> shift));
  }
}

void ByteWriter::PadTo(std::size_t alignment) {
  if (const std::size_t over = bytes_.size() % alignment; over != 0) Zeros(alignment - over);
}

Bytes Utf16Le(std::string_view utf8) {
  ByteWriter out(ByteWriter::Endian::kLittle);
  for (std::size_t at = 0; at < utf8.size();) {
    const char32_t c = NextCodePoint(utf8, at);
    if (c >= 0x10000) {
      out.U16(static_cast<std::uint16_t>(0xD800 + ((c - 0x10000) >> 10)));
      out.U16(static_cast<std::uint16_t>(0xDC00 + ((c - 0x10000) & 0x3FF)));
    } else {
      out.U16(static_cast<std::uint16_t>(c));
    }
  }
  return std::move(out).Finish();
}

std::string Utf8FromUtf16Le(ByteView utf16) {
  std::string out;
  ByteReader reader(utf16, ByteReader::Endian::kLittle);
  while (reader.remaining() >= 2) {
    char32_t c = reader.U16();
    if (c >= 0xD800 && c < 0xDC00 && reader.remaining() >= 2) {
      ByteReader ahead = reader;
      const char32_t low = ahead.U16();
      if (low >= 0xDC00 && low < 0xE000) {
        reader = ahead;
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
      }
    }
    AppendUtf8(out, c >= 0xD800 && c < 0xE000 ? kReplacement : c);
  }
  return out;
}

Result<Sha256Digest> Sha256Digest::FromBytes(ByteView bytes) {
  Sha256Digest digest;
  if (bytes.size() != digest.bytes.size()) {
    return MalformedText(fmt::format("decode SHA-256 digest: {} bytes instead of 32", bytes.size()));
  }
  std::copy(bytes.begin(), bytes.end(), digest.bytes.begin());
  return digest;
}

Result<Sha256Digest> Sha256Digest::FromHex(std::string_view hex) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, HexDecode(hex));
  return FromBytes(bytes);
}

}  // namespace sealift
