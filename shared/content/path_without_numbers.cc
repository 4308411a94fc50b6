#include "shared/content/path_without_numbers.h"

namespace sealift::content {

std::string WithoutNumbers(std::string_view path) {
  std::string text;
  for (const char c : path) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit)
      text += c;
    else if (text.empty() || text.back() != '#')
      text += '#';
  }
  return text;
}

}  // namespace sealift::content
