#include "controller/cli/words.h"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "shared/base/clock.h"

namespace sealift::cli {

std::string Word(const std::string& name) {
  if (name.empty() || name.find("UNSPECIFIED") != std::string::npos) return "unknown";
  std::string out = name;
  for (char& c : out) c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string TimeText(std::int64_t unix_ms) {
  return unix_ms <= 0 ? "never" : FormatRfc3339(FromUnixMs(unix_ms));
}

std::string Plain(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; },
      '?');
  return text;
}

void Print(const std::string& text) { std::fputs(text.c_str(), stdout); }

void PrintJson(const nlohmann::json& value) {
  Print(value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace sealift::cli
