// What one node asks of another.
#include "node-agent/mirror/share_request.h"

#include <cstdlib>
#include <string>

using namespace sealift::agent;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto request = ParseShareRequest(text);
  if (!request.ok()) return 0;
  // What was read, written as a node writes it, reads as the same.
  const std::string hex = request->digest.hex();
  const std::string again = "GET /objects/" + hex.substr(0, 2) + "/" + hex +
                            " HTTP/1.1\r\nRange: bytes=" + std::to_string(request->offset) + "-\r\n\r\n";
  const auto second = ParseShareRequest(again);
  if (!second.ok() || !(*second == *request)) std::abort();
  if (text.find(hex) == std::string_view::npos) std::abort();
  return 0;
}
