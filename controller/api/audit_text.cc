#include "controller/api/audit_text.h"

#include <cstdint>
#include <nlohmann/json.hpp>

namespace sealift::controller {
namespace {

bool Continues(char c) { return (static_cast<std::uint8_t>(c) & 0xc0) == 0x80; }

}  // namespace

std::string AuditLine(std::string text) {
  if (text.size() > kMaxAuditText) {
    std::size_t end = kMaxAuditText;
    while (end > 0 && Continues(text[end])) --end;
    text = text.substr(0, end) + "...";
  }
  for (char& c : text) {
    if (static_cast<std::uint8_t>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  // Whatever is no character becomes U+FFFD.
  const std::string quoted =
      nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return nlohmann::json::parse(quoted).get<std::string>();
}

}  // namespace sealift::controller
