#include "shared/tpm/event_log.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/crypto/hash.h"

namespace sealift::tpm {
namespace {

constexpr std::size_t kMaxBanks = 16;
constexpr std::size_t kMaxDigestBytes = 64;
constexpr std::uint32_t kPcrCount = 24;
constexpr std::string_view kSpecId("Spec ID Event03\0", 16);
constexpr std::string_view kSpecIdTpm12("Spec ID Event00\0", 16);
constexpr std::string_view kStartupLocality("StartupLocality\0", 16);
constexpr std::size_t kSha1Bytes = 20;

using Endian = ByteReader::Endian;

Status Malformed(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kEventLogMalformed,
                   fmt::format("read event log: {}", cause));
}

Status Unsupported(std::string_view cause) {
  return MakeError(Code::kInvalidArgument, Reason::kEventLogUnsupported,
                   fmt::format("read event log: {}", cause));
}

// TCG_EfiSpecIDEvent, 10.4.5.1.
Result<std::map<std::uint16_t, std::size_t>> ParseSpecId(ByteView data) {
  ByteReader reader(data, Endian::kLittle);
  const ByteView signature = reader.Take(kSpecId.size());
  if (std::ranges::equal(signature, AsBytes(kSpecIdTpm12))) return Unsupported("it is of a TPM 1.2");
  if (!std::ranges::equal(signature, AsBytes(kSpecId))) return Unsupported("it has the old SHA-1 form");
  reader.Skip(4);  // platform class
  reader.Skip(4);  // specification version, errata, UINTN size
  const std::uint32_t count = reader.U32();
  if (!reader.ok() || count == 0 || count > kMaxBanks) return Malformed("it declares no banks or too many");
  std::map<std::uint16_t, std::size_t> banks;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint16_t algorithm = reader.U16();
    const std::size_t size = reader.U16();
    const std::size_t known = DigestSize(algorithm);
    if (size == 0 || size > kMaxDigestBytes || (known != 0 && known != size) ||
        !banks.emplace(algorithm, size).second) {
      return Malformed("it declares a bank twice or with a wrong digest size");
    }
  }
  reader.Skip(reader.U8());  // vendor information
  if (!reader.AtEnd()) return Malformed("its first event does not end where it says");
  if (!banks.contains(kAlgSha256)) return Unsupported("it has no SHA-256 bank");
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

bool StartsWith(ByteView data, std::string_view prefix) {
  return data.size() >= prefix.size() && std::ranges::equal(data.first(prefix.size()), AsBytes(prefix));
}

}  // namespace

Sha256Digest Extend(const Sha256Digest& value, const Sha256Digest& digest) {
  Sha256Hasher hasher;
  hasher.Update(value.view());
  hasher.Update(digest.view());
  return hasher.Finish();
}

Result<EventLog> EventLog::Parse(ByteView bytes) {
  if (bytes.size() > kMaxEventLogBytes) {
    return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                     fmt::format("read event log: larger than {} bytes", kMaxEventLogBytes));
  }
  ByteReader reader(bytes, Endian::kLittle);
  const std::uint32_t first_pcr = reader.U32();
  const std::uint32_t first_type = reader.U32();
  reader.Skip(kSha1Bytes);
  const ByteView first_data = reader.Take(reader.U32());
  if (!reader.ok()) return Malformed("it is cut short in its first event");
  if (first_pcr != 0 || first_type != kEvNoAction) return Unsupported("it has the old SHA-1 form");

  EventLog log;
  SEALIFT_ASSIGN_OR_RETURN(log.banks_, ParseSpecId(first_data));
  while (!reader.AtEnd()) {
    if (log.events_.size() == kMaxEvents) return Malformed("it has too many events");
    auto event = ParseEvent(reader, log.banks_);
    if (!reader.ok()) return Malformed(fmt::format("it is cut short in event {}", log.events_.size() + 1));
    if (!event.ok()) return event.status();
    if (event->type == kEvNoAction) {
      if (StartsWith(event->data, kStartupLocality) && event->data.size() == kStartupLocality.size() + 1) {
        log.startup_locality_ = event->data.back();
      }
    } else if (event->pcr >= kPcrCount) {
      return Malformed(fmt::format("event {} names PCR {}", log.events_.size() + 1, event->pcr));
    }
    log.events_.push_back(*std::move(event));
  }
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

std::vector<const Event*> EventLog::EventsOf(std::uint32_t pcr) const {
  std::vector<const Event*> found;
  for (const Event& event : events_) {
    if (event.pcr == pcr && event.type != kEvNoAction) found.push_back(&event);
  }
  return found;
}

}  // namespace sealift::tpm
