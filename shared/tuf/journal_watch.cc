#include "shared/tuf/journal_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "shared/base/log.h"

namespace sealift::tuf {
namespace {

using nlohmann::json;

constexpr char kFile[] = "journals.json";
constexpr std::size_t kMaxCheckpointBytes = 16u << 10;
constexpr std::size_t kJournalIdDigits = 32;
// The controller's own, and those it had before.
constexpr std::size_t kMaxJournals = 16;

Result<JournalPlace> PlaceFrom(const json& value) {
  const auto wrong = [](std::string_view what) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("read journal checkpoint: {}", what));
  };
  if (!value.is_object()) return wrong("it is no JSON object");
  const auto text = [&value](const char* key) {
    const auto found = value.find(key);
    return found != value.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  JournalPlace place{.journal = text("journal"), .sequence = 0, .head = {}};
  const bool hex = place.journal.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (place.journal.size() != kJournalIdDigits || !hex) return wrong("it names no journal");
  const auto sequence = value.find("sequence");
  if (sequence == value.end() || !sequence->is_number_unsigned() || sequence->get<std::uint64_t>() == 0)
    return wrong("it names no record");
  place.sequence = sequence->get<std::uint64_t>();
  const auto head = Sha256Digest::FromHex(text("head"));
  if (!head.ok()) return wrong("its head is no digest");
  place.head = *head;
  return place;
}

// The one seen last comes last. Damaged memory counts as none.
Result<std::vector<JournalPlace>> Remembered(TrustedMetadataStore& store) {
  SEALIFT_ASSIGN_OR_RETURN(const std::optional<std::string> text, store.Load(kFile));
  std::vector<JournalPlace> places;
  if (!text.has_value()) return places;
  const json value = json::parse(*text, nullptr, false);
  const auto list = value.is_object() ? value.find("journals") : value.end();
  const bool whole = value.is_object() && list != value.end() && list->is_array() &&
                     list->size() <= kMaxJournals &&
                     std::all_of(list->begin(), list->end(), [&places](const json& one) {
                       const auto place = PlaceFrom(one);
                       if (place.ok()) places.push_back(*place);
                       return place.ok();
                     });
  if (whole) return places;
  log::Warning("what was remembered of signing journals is damaged; beginning anew", {{"file", kFile}});
  return std::vector<JournalPlace>();
}

Status Remember(TrustedMetadataStore& store, const std::vector<JournalPlace>& places) {
  json list = json::array();
  for (const JournalPlace& place : places)
    list.push_back({{"journal", place.journal}, {"sequence", place.sequence}, {"head", place.head.hex()}});
  return store.Store(kFile, json{{"journals", std::move(list)}}.dump());
}

Status Short(const JournalPlace& now, const JournalPlace& seen) {
  return MakeError(Code::kDataLoss, Reason::kJournalShort,
                   fmt::format("compare signing journal {} with what was seen: it ends at record {}, and "
                               "record {} was seen before",
                               now.journal, now.sequence, seen.sequence));
}

Status Forked(const JournalPlace& now, std::string_view what) {
  return MakeError(Code::kDataLoss, Reason::kJournalForked,
                   fmt::format("compare signing journal {} with what was seen: {}", now.journal, what));
}

}  // namespace

Result<JournalPlace> ParseJournalPlace(std::string_view text) {
  if (text.size() > kMaxCheckpointBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     "read journal checkpoint: it is larger than any checkpoint");
  }
  return PlaceFrom(json::parse(text, nullptr, false));
}

Status JournalWatch::See(std::string_view checkpoint_json) {
  if (checkpoint_json.empty()) return OkStatus();
  SEALIFT_ASSIGN_OR_RETURN(const JournalPlace now, ParseJournalPlace(checkpoint_json));
  SEALIFT_ASSIGN_OR_RETURN(std::vector<JournalPlace> places, Remembered(store_));
  const std::string last = places.empty() ? now.journal : places.back().journal;
  const auto seen = std::find_if(places.begin(), places.end(),
                                 [&now](const JournalPlace& place) { return place.journal == now.journal; });
  if (seen != places.end()) {
    if (now.sequence < seen->sequence) return Short(now, *seen);
    if (now.sequence == seen->sequence && now.head != seen->head)
      return Forked(now, fmt::format("record {} was another one when it was seen before", now.sequence));
    if (*seen == now && seen + 1 == places.end()) return OkStatus();
    places.erase(seen);
  } else if (places.size() == kMaxJournals) {
    places.erase(places.begin());
  }
  places.push_back(now);
  SEALIFT_RETURN_IF_ERROR(Remember(store_, places));
  if (last == now.journal) return OkStatus();
  return Forked(now, fmt::format("it takes the place of journal {}", last));
}

bool IsJournalFinding(const Status& status) {
  const Reason reason = ReasonOf(status);
  return reason == Reason::kJournalShort || reason == Reason::kJournalForked;
}

}  // namespace sealift::tuf
