// What a mirror answers, and where it sends us.
#include <cstdlib>

#include "node-agent/mirror/http_message.h"

using namespace sealift::agent;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const HttpUrl from = ParseHttpUrl("https://mirror.example/base").value();
  if (const auto head = ParseHttpHead(text); head.ok()) {
    if (head->status < 100 || head->status > 599) std::abort();
    static_cast<void>(Follow(from, head->location));
  }
  if (const auto url = ParseHttpUrl(text); url.ok()) {
    // What was read is written so that it reads as the same.
    const auto again = ParseHttpUrl(url->Text());
    if (url->Text().size() <= 2000 && (!again.ok() || *again != *url)) std::abort();
  }
  return 0;
}
