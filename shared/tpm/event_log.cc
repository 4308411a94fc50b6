#include "shared/tpm/event_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "shared/crypto/hash.h"

namespace sealift::tpm {
namespace {

constexpr std::size_t kMaxBanks = 16;
constexpr std::size_t kMaxDigestBytes = 64;
constexpr std::uint32_t kPcrCount = 24;
constexpr std::string_view kSpecId("Spec ID Event03\0", 16);
constexpr std::string_view kStartupLocality("StartupLocality\0", 16);
constexpr std::size_t kSha1Bytes = 20;
// So many zeros may also be the beginning of an event that is cut short: its register.
constexpr std::size_t kAmbiguousPadding = 4;

using Endian = ByteReader::Endian;

Status Malformed(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kEventLogMalformed,
                   fmt::format("read event log: {}", cause));
}

Status Unsupported(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kEventLogUnsupported,
                   fmt::format("read event log: {}", cause));
}

struct Banks {
  std::map<std::uint16_t, std::size_t> sizes;
  std::vector<std::uint16_t> order;
};

// TCG_EfiSpecIDEvent, 10.4.5.1.
Result<Banks> ParseSpecId(ByteView data) {
  ByteReader reader(data, Endian::kLittle);
  reader.Skip(kSpecId.size());
  reader.Skip(4);  // platform class
  reader.Skip(4);  // specification version, errata, UINTN size
  const std::uint32_t count = reader.U32();
  if (!reader.ok() || count == 0 || count > kMaxBanks) return Malformed("it declares no banks or too many");
  Banks banks;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint16_t algorithm = reader.U16();
    const std::size_t size = reader.U16();
    const std::size_t known = DigestSize(algorithm);
    if (size == 0 || size > kMaxDigestBytes || (known != 0 && known != size) ||
        !banks.sizes.emplace(algorithm, size).second) {
      return Malformed("it declares a bank twice or with a wrong digest size");
    }
    banks.order.push_back(algorithm);
  }
  reader.Skip(reader.U8());  // vendor information
  if (!reader.AtEnd()) return Malformed("its first event does not end where it says");
  return banks;
}

// TCG_PCR_EVENT2, 10.2.2. Does not check `reader.ok()`.
Result<Event> ParseEvent(ByteReader& reader, const std::map<std::uint16_t, std::size_t>& banks) {
  Event event;
  event.pcr = reader.U32();
  event.type = reader.U32();
  const std::uint32_t count = reader.U32();
  if (count != banks.size()) return Malformed("an event has not one digest per bank");
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto bank = banks.find(reader.U16());
    if (bank == banks.end()) return Malformed("an event has a digest of an undeclared bank");
    const ByteView digest = reader.Take(bank->second);
    if (!event.digests.emplace(bank->first, ToBytes(digest)).second) {
      return Malformed("an event has two digests for one bank");
    }
  }
  event.data = ToBytes(reader.Take(reader.U32()));
  return event;
}

// TCG_PCClientPCREvent, 10.2.1. Does not check `reader.ok()`.
Event ParseSha1Event(ByteReader& reader) {
  Event event;
  event.pcr = reader.U32();
  event.type = reader.U32();
  event.digests.emplace(kAlgSha1, ToBytes(reader.Take(kSha1Bytes)));
  event.data = ToBytes(reader.Take(reader.U32()));
  return event;
}

bool StartsWith(ByteView data, std::string_view prefix) {
  return data.size() >= prefix.size() && std::ranges::equal(data.first(prefix.size()), AsBytes(prefix));
}

bool IsPadding(ByteView rest) {
  if (rest.size() <= kAmbiguousPadding || (rest.front() != 0 && rest.front() != 0xFF)) return false;
  return std::ranges::all_of(rest, [&](std::uint8_t byte) { return byte == rest.front(); });
}

// The leading event of the crypto-agile form; nothing where the log has the other form.
Result<std::optional<Banks>> ParseLeadingEvent(ByteReader& reader) {
  const std::uint32_t pcr = reader.U32();
  const std::uint32_t type = reader.U32();
  const ByteView digest = reader.Take(kSha1Bytes);
  const ByteView data = reader.Take(reader.U32());
  if (!reader.ok()) return Malformed("it is cut short in its first event");
  if (type != kEvNoAction || !StartsWith(data, kSpecId)) return std::optional<Banks>();
  if (pcr != 0 || std::ranges::any_of(digest, [](std::uint8_t byte) { return byte != 0; })) {
    return Malformed("its first event has a register or a digest");
  }
  SEALIFT_ASSIGN_OR_RETURN(Banks banks, ParseSpecId(data));
  return std::optional<Banks>(std::move(banks));
}

// 0 where the log does not say.
std::uint8_t LocalityOf(const std::vector<Event>& events) {
  std::uint8_t locality = 0;
  bool extended = false;
  for (const Event& event : events) {
    if (event.pcr != 0) continue;
    if (event.type == kEvNoAction) {
      if (StartsWith(event.data, kStartupLocality) && event.data.size() > kStartupLocality.size()) {
        locality = event.data.at(kStartupLocality.size());
      }
    } else if (!std::exchange(extended, true) && event.type == kEvEfiHcrtmEvent) {
      return 4;
    }
  }
  return locality;
}

}  // namespace

Sha256Digest Extend(const Sha256Digest& value, const Sha256Digest& digest) {
  Sha256Hasher hasher;
  hasher.Update(value.view());
  hasher.Update(digest.view());
  return hasher.Finish();
}

Result<EventLog> EventLog::Parse(ByteView bytes) {
  SEALIFT_ASSIGN_OR_RETURN(EventLog log, Read(bytes));
  if (log.format_ == EventLogFormat::kSha1) return Unsupported("it has the old SHA-1 form");
  if (!log.banks_.contains(kAlgSha256)) return Unsupported("it has no SHA-256 bank");
  return log;
}

Result<EventLog> EventLog::Read(ByteView bytes) {
  if (bytes.size() > kMaxEventLogBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                     fmt::format("read event log: larger than {} bytes", kMaxEventLogBytes));
  }
  EventLog log;
  ByteReader reader(bytes, Endian::kLittle);
  SEALIFT_ASSIGN_OR_RETURN(std::optional<Banks> banks, ParseLeadingEvent(reader));
  if (banks) {
    log.banks_ = std::move(banks->sizes);
    log.bank_order_ = std::move(banks->order);
  } else {
    log.format_ = EventLogFormat::kSha1;
    log.banks_ = {{kAlgSha1, kSha1Bytes}};
    log.bank_order_ = {kAlgSha1};
    reader = ByteReader(bytes, Endian::kLittle);
  }
  while (!reader.AtEnd()) {
    const std::size_t number = log.event_count();
    if (IsPadding(bytes.subspan(reader.offset()))) {
      log.padding_ = reader.remaining();
      break;
    }
    if (log.events_.size() == kMaxEvents) return Malformed("it has too many events");
    Result<Event> event = banks ? ParseEvent(reader, log.banks_) : ParseSha1Event(reader);
    if (!reader.ok()) return Malformed(fmt::format("it is cut short in event {}", number));
    if (!event.ok()) return event.status();
    if (event->type != kEvNoAction && event->pcr >= kPcrCount) {
      return Malformed(fmt::format("event {} names PCR {}", number, event->pcr));
    }
    log.events_.push_back(*std::move(event));
  }
  if (log.event_count() == 0) return Malformed("it has no events");
  log.startup_locality_ = LocalityOf(log.events_);
  return log;
}

PcrValues EventLog::Replay() const {
  PcrValues values;
  for (const Event& event : events_) {
    if (event.type == kEvNoAction) continue;
    const auto [at, fresh] = values.try_emplace(event.pcr);
    if (fresh && event.pcr == 0) at->second.bytes.back() = startup_locality_;
    Sha256Digest digest;
    std::ranges::copy(event.digests.at(kAlgSha256), digest.bytes.begin());
    at->second = Extend(at->second, digest);
  }
  return values;
}

std::map<std::uint32_t, Bytes> EventLog::ReplayBank(std::uint16_t algorithm) const {
  std::map<std::uint32_t, Bytes> values;
  const std::size_t size = DigestSize(algorithm);
  if (size == 0 || !banks_.contains(algorithm)) return values;
  for (const Event& event : events_) {
    if (event.type == kEvNoAction) continue;
    const auto [at, fresh] = values.try_emplace(event.pcr, Bytes(size));
    if (fresh && event.pcr == 0) at->second.back() = startup_locality_;
    Bytes joined = std::move(at->second);
    Append(joined, event.digests.at(algorithm));
    at->second = HashWith(algorithm, joined);
  }
  return values;
}

std::vector<const Event*> EventLog::EventsOf(std::uint32_t pcr) const {
  std::vector<const Event*> found;
  for (const Event& event : events_) {
    if (event.pcr == pcr && event.type != kEvNoAction) found.push_back(&event);
  }
  return found;
}

}  // namespace sealift::tpm
