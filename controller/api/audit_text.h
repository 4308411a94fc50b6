// What callers wrote, as the audit log keeps and shows it.
#pragma once

#include <cstddef>
#include <string>

namespace sealift::controller {

inline constexpr std::size_t kMaxAuditText = 1024;

// One line of valid UTF-8, at most kMaxAuditText bytes and "...": control characters would let a caller forge
// lines, and half a character would keep everybody from reading the log, since a message that holds one does
// not parse.
std::string AuditLine(std::string text);

}  // namespace sealift::controller
