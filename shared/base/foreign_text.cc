#include "shared/base/foreign_text.h"

#include "shared/base/bytes.h"

namespace sealift {

std::string Shorten(std::string_view text, std::size_t max_bytes) {
  std::string out = Utf8FromUtf16Le(Utf16Le(text));
  for (char& c : out) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) c = ' ';
  }
  if (out.size() <= max_bytes) return out;
  std::size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(out[end]) & 0xc0) == 0x80) --end;
  out.resize(end);
  return out;
}

}  // namespace sealift
