#include "shared/base/ids.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace sealift {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsAlpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsVersionChar(char c) {
  return IsDigit(c) || IsAlpha(c) || c == '.' || c == '~' || c == '^' || c == '-';
}

// Compares runs of digits as numbers of any length.
int CompareNumbers(std::string_view a, std::string_view b) {
  a.remove_prefix(std::min(a.find_first_not_of('0'), a.size()));
  b.remove_prefix(std::min(b.find_first_not_of('0'), b.size()));
  if (a.size() != b.size()) return a.size() < b.size() ? -1 : 1;
  return a.compare(b);
}

template <typename Predicate>
std::string_view TakeWhile(std::string_view& text, Predicate predicate) {
  std::size_t n = 0;
  while (n < text.size() && predicate(text[n])) ++n;
  const std::string_view taken = text.substr(0, n);
  text.remove_prefix(n);
  return taken;
}

}  // namespace

std::string MakeUuidV7(UnixMillis now, ByteView random) {
  SEALIFT_CHECK(random.size() >= 10);
  ByteWriter out(ByteWriter::Endian::kBig);
  const auto ms = static_cast<std::uint64_t>(ToUnixMs(now));
  out.U16(static_cast<std::uint16_t>(ms >> 32));
  out.U32(static_cast<std::uint32_t>(ms));
  out.U8(static_cast<std::uint8_t>(0x70 | (random[0] & 0x0F)));
  out.U8(random[1]);
  out.U8(static_cast<std::uint8_t>(0x80 | (random[2] & 0x3F)));
  out.Raw(random.subspan(3, 7));
  const std::string hex = HexEncode(out.bytes());
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4),
                     hex.substr(16, 4), hex.substr(20));
}

Result<NodeId> NodeId::Parse(std::string_view text) {
  constexpr std::string_view kShape = "xxxxxxxx-xxxx-7xxx-vxxx-xxxxxxxxxxxx";
  bool good = text.size() == kShape.size();
  for (std::size_t i = 0; good && i < kShape.size(); ++i) {
    const char c = text[i];
    switch (kShape[i]) {
      case 'x':
        good = IsDigit(c) || (c >= 'a' && c <= 'f');
        break;
      case 'v':
        good = c == '8' || c == '9' || c == 'a' || c == 'b';
        break;
      default:
        good = c == kShape[i];
    }
  }
  if (!good) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("parse node id '{}': not a lower-case UUIDv7", text.substr(0, 64)));
  }
  return NodeId(std::string(text));
}

int CompareVersions(std::string_view a, std::string_view b) {
  // UAPI.10, step by step; characters outside the alphabet separate and do not count.
  const auto skip = [](std::string_view& text) { TakeWhile(text, [](char c) { return !IsVersionChar(c); }); };
  // 1 when only `a` starts with `c`, -1 for only `b`, 0 otherwise; consumes it from both when both do.
  const auto lead = [](std::string_view& x, std::string_view& y, char c) {
    const bool in_x = !x.empty() && x.front() == c;
    const bool in_y = !y.empty() && y.front() == c;
    if (in_x != in_y) return in_x ? 1 : -1;
    if (in_x) {
      x.remove_prefix(1);
      y.remove_prefix(1);
    }
    return 0;
  };
  while (true) {
    skip(a);
    skip(b);
    // '~' sorts before everything, the end of the text included.
    const bool tilde_both = !a.empty() && !b.empty() && a.front() == '~' && b.front() == '~';
    if (const int order = lead(a, b, '~'); order != 0) return -order;
    if (tilde_both) continue;
    if (a.empty() || b.empty()) return a.empty() && b.empty() ? 0 : a.empty() ? -1 : 1;
    bool again = false;
    for (const char separator : {'-', '^', '.'}) {
      const bool both = a.front() == separator && b.front() == separator;
      if (const int order = lead(a, b, separator); order != 0) return -order;
      if (both) {
        again = true;
        break;
      }
    }
    if (again) continue;
    if (IsDigit(a.front()) || IsDigit(b.front())) {
      const std::string_view left = TakeWhile(a, IsDigit);
      const std::string_view right = TakeWhile(b, IsDigit);
      if (const int order = CompareNumbers(left, right); order != 0) return order;
    } else {
      const std::string_view left = TakeWhile(a, IsAlpha);
      const std::string_view right = TakeWhile(b, IsAlpha);
      // Capital letters sort before small ones, as in ASCII; a shorter run before a longer one.
      if (const int order = left.compare(right); order != 0) return order;
    }
  }
}

bool IsValidVersion(std::string_view version) {
  if (version.empty() || version.size() > 64 || version.front() == '.' || version.front() == '-')
    return false;
  return std::all_of(version.begin(), version.end(),
                     [](char c) { return IsVersionChar(c) || c == '+' || c == '_'; });
}

}  // namespace sealift
