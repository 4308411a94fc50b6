// Texts of foreign origin, made fit to be stored and sent. Thread-safe.
#pragma once

#include <string>
#include <string_view>

namespace sealift {

// Valid UTF-8 (what is none is replaced), no control characters but line feed and tab, at most `max_bytes`
// and no character cut in two: protobuf refuses to send a string that is anything else.
std::string Shorten(std::string_view text, std::size_t max_bytes);

}  // namespace sealift
