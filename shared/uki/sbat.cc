#include "shared/uki/sbat.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace sealift::uki {
namespace {

constexpr std::size_t kMaxBytes = 16 << 10;
constexpr std::string_view kHeaderComponent = "sbat";
constexpr std::string_view kHeader =
    "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kUkiLayoutInvalid, fmt::format("merge SBAT: {}", what));
}

Status AddLines(std::string_view text, std::map<std::string, std::string>& seen, std::string& lines,
                std::string& header) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty()) continue;
    if (std::any_of(line.begin(), line.end(), [](char c) { return c < 0x20 || c > 0x7e; }))
      return Invalid("a line is not printable ASCII");
    const std::size_t comma = line.find(',');
    const std::string component(line.substr(0, comma));
    const std::string_view rest =
        comma == std::string_view::npos ? std::string_view() : line.substr(comma + 1);
    const std::string generation(rest.substr(0, rest.find(',')));
    if (component.empty() || generation.empty() || generation.size() > 9 ||
        generation.find_first_not_of("0123456789") != std::string::npos)
      return Invalid(fmt::format("line '{}' has no component or no generation", line.substr(0, 80)));
    const auto [found, added] = seen.emplace(component, generation);
    if (!added && found->second != generation)
      return Invalid(fmt::format("component '{}' has two generations", component.substr(0, 80)));
    if (!added) continue;
    (component == kHeaderComponent ? header : lines) += std::string(line) + "\n";
  }
  return OkStatus();
}

}  // namespace

Result<std::string> MergeSbat(std::string_view own, std::string_view given) {
  while (!own.empty() && own.back() == '\0') own.remove_suffix(1);
  if (own.size() + given.size() > kMaxBytes) return Invalid("more than 16 KiB");
  std::map<std::string, std::string> seen;
  std::string header;
  std::string lines;
  SEALIFT_RETURN_IF_ERROR(AddLines(own, seen, lines, header));
  SEALIFT_RETURN_IF_ERROR(AddLines(given, seen, lines, header));
  return (header.empty() ? std::string(kHeader) : header) + lines;
}

}  // namespace sealift::uki
