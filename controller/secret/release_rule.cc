#include "controller/secret/release_rule.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/base/ids.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxParts = 16;
constexpr std::size_t kMaxChannelBytes = 64;

Status Bad(std::string_view part, std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("read releases '{}': {}", part.substr(0, 200), cause));
}

bool IsChannel(std::string_view text) {
  return !text.empty() && text.size() <= kMaxChannelBytes &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
             std::string_view::npos;
}

}  // namespace

Result<ReleaseRule::Part> ReleaseRule::ParsePart(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos || !IsChannel(text.substr(0, colon)))
    return Bad(text, "it is not CHANNEL:VERSIONS, as stable:1.2.0..1.4.0");
  Part part{.channel = std::string(text.substr(0, colon)), .from = {}, .to = {}};
  const std::string_view versions = text.substr(colon + 1);
  if (versions == "*") return part;
  const std::size_t dots = versions.find("..");
  part.from = std::string(versions.substr(0, dots));
  part.to = dots == std::string_view::npos ? part.from : std::string(versions.substr(dots + 2));
  if (part.from.empty() && part.to.empty()) return Bad(text, "it names no version; * is any");
  for (const std::string& version : {part.from, part.to})
    if (!version.empty() && !IsValidVersion(version))
      return Bad(text, fmt::format("'{}' is no version", version));
  if (!part.from.empty() && !part.to.empty() && CompareVersions(part.from, part.to) > 0)
    return Bad(text, "it ends before it begins");
  return part;
}

Result<ReleaseRule> ReleaseRule::Parse(std::string_view text) {
  ReleaseRule rule;
  for (;;) {
    const std::size_t comma = text.find(',');
    SEALIFT_ASSIGN_OR_RETURN(Part part, ParsePart(text.substr(0, comma)));
    rule.parts_.push_back(std::move(part));
    if (rule.parts_.size() > kMaxParts) return Bad(text, fmt::format("more than {} parts", kMaxParts));
    if (comma == std::string_view::npos) return rule;
    text.remove_prefix(comma + 1);
  }
}

bool ReleaseRule::Allows(std::string_view channel, std::string_view version) const {
  return std::ranges::any_of(parts_, [&](const Part& part) {
    return part.channel == channel && (part.from.empty() || CompareVersions(version, part.from) >= 0) &&
           (part.to.empty() || CompareVersions(version, part.to) <= 0);
  });
}

std::string ReleaseRule::text() const {
  std::string text;
  for (const Part& part : parts_) {
    std::string versions = part.from;
    if (part.from != part.to) versions = part.from + ".." + part.to;
    text += fmt::format("{}{}:{}", text.empty() ? "" : ",", part.channel, versions.empty() ? "*" : versions);
  }
  return text;
}

}  // namespace sealift::controller
