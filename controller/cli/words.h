// How the verbs write words, times and the text of others.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace sealift::cli {

// "UPDATE_STATE_UNSPECIFIED" -> "unknown", "FELL_BACK" -> "fell-back".
std::string Word(const std::string& name);
// RFC 3339; "never" for 0.
std::string TimeText(std::int64_t unix_ms);
// Text of others goes to a terminal: nothing in it may steer one.
std::string Plain(std::string text);

// On standard output.
void Print(const std::string& text);
// Indented. Names that nodes chose may be no UTF-8: what is not comes out replaced.
void PrintJson(const nlohmann::json& value);

}  // namespace sealift::cli
