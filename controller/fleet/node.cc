#include "controller/fleet/node.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxPairs = 16;
constexpr std::size_t kMaxLabelBytes = 63;

bool IsAlnum(char c, bool upper) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (upper && c >= 'A' && c <= 'Z');
}

bool IsKey(std::string_view key) {
  return !key.empty() && key.size() <= kMaxLabelBytes && std::all_of(key.begin(), key.end(), [](char c) {
    return IsAlnum(c, false) || c == '.' || c == '_' || c == '-' || c == '/';
  });
}

bool IsValue(std::string_view value) {
  return value.size() <= kMaxLabelBytes && std::all_of(value.begin(), value.end(), [](char c) {
           return IsAlnum(c, true) || c == '.' || c == '_' || c == '-';
         });
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

Status Bad(std::string_view text, std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kSelectorInvalid,
                   fmt::format("read labels '{}': {}", text.substr(0, 200), why));
}

}  // namespace

std::string_view AdmissionName(Admission admission) {
  switch (admission) {
    case Admission::kPending:
      return "pending";
    case Admission::kAdmitted:
      return "admitted";
    case Admission::kQuarantined:
      return "quarantined";
    case Admission::kRevoked:
      return "revoked";
  }
  return "unknown";
}

std::string_view UpdateStateName(UpdateState state) {
  switch (state) {
    case UpdateState::kUnknown:
      return "unknown";
    case UpdateState::kIdle:
      return "idle";
    case UpdateState::kFetching:
      return "fetching";
    case UpdateState::kVerified:
      return "verified";
    case UpdateState::kStaged:
      return "staged";
    case UpdateState::kArmed:
      return "armed";
    case UpdateState::kRebooting:
      return "rebooting";
    case UpdateState::kAssessing:
      return "assessing";
    case UpdateState::kBlessed:
      return "blessed";
    case UpdateState::kFellBack:
      return "fell-back";
    case UpdateState::kStateMissing:
      return "state-missing";
  }
  return "unknown";
}

std::string_view VolumeStateName(VolumeState state) {
  switch (state) {
    case VolumeState::kOpen:
      return "open";
    case VolumeState::kPlain:
      return "plain";
    case VolumeState::kLocked:
      return "locked";
    case VolumeState::kRefused:
      return "refused";
    case VolumeState::kMissing:
      return "missing";
    case VolumeState::kRecovered:
      return "recovered";
    case VolumeState::kUnspecified:
      break;
  }
  return "unknown";
}

std::string_view TrustName(Trust trust) {
  switch (trust) {
    case Trust::kUnspecified:
      return "none";
    case Trust::kTrusted:
      return "trusted";
    case Trust::kUntrusted:
      return "untrusted";
    case Trust::kUnknown:
      return "unknown";
  }
  return "none";
}

Result<Selector> Selector::Parse(std::string_view text) {
  Selector selector;
  std::string_view rest = Trim(text);
  bool more = !rest.empty();
  while (more) {
    const std::size_t comma = rest.find(',');
    const std::string_view pair = Trim(rest.substr(0, comma));
    more = comma != std::string_view::npos;
    rest = more ? rest.substr(comma + 1) : std::string_view();
    const std::size_t equals = pair.find('=');
    if (equals == std::string_view::npos) return Bad(text, "a pair has no '='");
    const std::string_view key = pair.substr(0, equals);
    const std::string_view value = pair.substr(equals + 1);
    if (!IsKey(key)) return Bad(text, fmt::format("'{}' is not a label name", key.substr(0, 80)));
    if (!IsValue(value)) return Bad(text, fmt::format("'{}' is not a label value", value.substr(0, 80)));
    if (!selector.pairs_.emplace(key, value).second)
      return Bad(text, fmt::format("'{}' is there twice", key));
    if (selector.pairs_.size() > kMaxPairs) return Bad(text, "more than 16 pairs");
  }
  return selector;
}

bool Selector::Matches(const std::map<std::string, std::string>& labels) const {
  return std::all_of(pairs_.begin(), pairs_.end(), [&](const auto& pair) {
    const auto label = labels.find(pair.first);
    return label != labels.end() && label->second == pair.second;
  });
}

std::string Selector::text() const {
  std::string out;
  for (const auto& [key, value] : pairs_) out += fmt::format("{}{}={}", out.empty() ? "" : ",", key, value);
  return out;
}

Status CheckLabels(const std::map<std::string, std::string>& labels) {
  if (labels.size() > kMaxPairs) return Bad("", "more than 16 labels");
  for (const auto& [key, value] : labels) {
    if (!IsKey(key) || !IsValue(value)) return Bad(key + "=" + value, "not a label");
  }
  return OkStatus();
}

std::vector<std::string> AddLabels(std::map<std::string, std::string>& labels,
                                   const std::map<std::string, std::string>& offered) {
  std::vector<std::string> left_out;
  for (const auto& [key, value] : offered) {
    if (labels.contains(key)) continue;
    if (labels.size() < kMaxPairs && IsKey(key) && IsValue(value)) {
      labels.emplace(key, value);
    } else {
      left_out.push_back(key);
    }
  }
  return left_out;
}

}  // namespace sealift::controller
