#include "controller/cli/build_time.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

namespace sealift::cli {

Result<UnixMillis> BuildTime() {
  const char* text = std::getenv("SOURCE_DATE_EPOCH");
  if (text == nullptr) return SystemClock().Now();
  const std::string_view view(text);
  std::int64_t seconds = 0;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), seconds);
  if (error != std::errc() || end != view.data() + view.size() || seconds < 0) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "read SOURCE_DATE_EPOCH: it is not a number of seconds");
  }
  return FromUnixMs(seconds * 1000);
}

}  // namespace sealift::cli
