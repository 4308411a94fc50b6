#include "controller/fleet/admission.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

constexpr std::string_view kTokenPrefix = "sealift-join-";
constexpr std::size_t kTokenBytes = 32;
constexpr std::size_t kTokenIdDigits = 12;
constexpr std::size_t kMaxSerialBytes = 64;
constexpr std::size_t kMaxEntries = 100'000;
constexpr std::size_t kMaxNamedLines = 20;
constexpr std::string_view kHeader = "serial,ek_digest,labels";

// One line's fields; nothing when its quotes do not pair. No field spans lines.
std::optional<std::vector<std::string>> Fields(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += line[++i];
    } else if (quoted && c == '"') {
      quoted = false;
      if (i + 1 < line.size() && line[i + 1] != ',') return std::nullopt;
    } else if (!quoted && c == '"') {
      if (!fields.back().empty()) return std::nullopt;
      quoted = true;
    } else if (!quoted && c == ',') {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  if (quoted) return std::nullopt;
  return fields;
}

std::optional<std::map<std::string, std::string>> Labels(std::string_view text) {
  std::map<std::string, std::string> labels;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(';'), text.size());
    const std::string_view pair = text.substr(0, end);
    const std::size_t equals = pair.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    if (!labels.emplace(pair.substr(0, equals), pair.substr(equals + 1)).second) return std::nullopt;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (!CheckLabels(labels).ok()) return std::nullopt;
  return labels;
}

bool IsSerial(std::string_view text) {
  return text.size() <= kMaxSerialBytes &&
         std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7F; });
}

class InventoryReader {
 public:
  Result<std::vector<InventoryEntry>> Read(std::string_view csv) {
    if (csv.starts_with("\xEF\xBB\xBF")) csv.remove_prefix(3);
    while (!csv.empty()) {
      const std::size_t end = std::min(csv.find('\n'), csv.size());
      std::string_view line = csv.substr(0, end);
      if (line.ends_with('\r')) line.remove_suffix(1);
      ++number_;
      if (number_ == 1) {
        if (line != kHeader) Blame(fmt::format("the header is not '{}'", kHeader));
      } else if (!line.empty()) {
        Take(line);
      }
      csv.remove_prefix(std::min(end + 1, csv.size()));
    }
    if (entries_.empty() && wrong_ == 0) Blame("there is no machine in it");
    if (wrong_ == 0) return std::move(entries_);
    return MakeError(Code::kInvalidArgument, Reason::kInventoryInvalid,
                     fmt::format("read the inventory: {} line{} wrong: {}{}", wrong_, wrong_ == 1 ? "" : "s",
                                 problems_, wrong_ > kMaxNamedLines ? "; and more" : ""));
  }

 private:
  void Take(std::string_view line) {
    const auto fields = Fields(line);
    if (!fields || fields->size() != 3) return Blame("it has not three fields");
    InventoryEntry entry{.ek = {}, .serial = fields->at(0), .node_id = std::nullopt};
    if (!IsSerial(entry.serial)) return Blame("the serial is not up to 64 characters without spaces");
    const auto digest = HexDecode(fields->at(1));
    const auto ek_digest =
        digest.ok() ? Sha256Digest::FromBytes(*digest) : Result<Sha256Digest>(digest.status());
    if (!ek_digest.ok()) return Blame("the EK digest is not 64 hex digits");
    entry.ek.ek_digest = *ek_digest;
    const auto labels = Labels(fields->at(2));
    if (!labels) return Blame("the labels are not key=value pairs with ';' between");
    entry.ek.labels = *labels;
    if (!digests_.insert(*ek_digest).second) return Blame("the EK digest is there twice");
    if (!entry.serial.empty() && !serials_.insert(entry.serial).second) {
      return Blame("the serial is there twice");
    }
    if (entries_.size() == kMaxEntries) return Blame("it is one machine too many");
    entries_.push_back(std::move(entry));
  }

  void Blame(std::string_view why) {
    if (++wrong_ <= kMaxNamedLines) {
      problems_ += fmt::format("{}line {}: {}", problems_.empty() ? "" : "; ", number_, why);
    }
  }

  std::size_t number_ = 0;
  std::size_t wrong_ = 0;
  std::string problems_;
  std::vector<InventoryEntry> entries_;
  std::set<Sha256Digest> digests_;
  std::set<std::string> serials_;
};

}  // namespace

NewJoinToken MakeJoinToken() {
  NewJoinToken token{
      .secret = std::string(kTokenPrefix) + HexEncode(RandomBytes(kTokenBytes)), .hash = {}, .id = ""};
  token.hash = Sha256(AsBytes(token.secret));
  token.id = token.hash.hex().substr(0, kTokenIdDigits);
  return token;
}

std::optional<Sha256Digest> HashJoinToken(std::string_view secret) {
  if (!secret.starts_with(kTokenPrefix) || secret.size() != kTokenPrefix.size() + 2 * kTokenBytes) {
    return std::nullopt;
  }
  return Sha256(AsBytes(secret));
}

Result<std::vector<InventoryEntry>> ParseInventory(std::string_view csv) {
  return InventoryReader().Read(csv);
}

}  // namespace sealift::controller
