// The firmware's event log: what was measured into which register, in order.
//
// The crypto-agile form and the older SHA-1 form (TCG PC Client Platform Firmware Profile 1.06, section 10),
// as /sys/kernel/security/tpm0/binary_bios_measurements gives them. A log is a claim: it is believed only
// where its replay leads to a quoted register. Even then the quote covers the digests alone; an event's type
// and data are free text unless DataMatchesDigest says otherwise.
//
// Immutable after parsing, so thread-safe. Bounded: kMaxEventLogBytes, kMaxEvents.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/tpm/quote.h"

namespace sealift::tpm {

inline constexpr std::size_t kMaxEventLogBytes = 8u << 20;
inline constexpr std::size_t kMaxEvents = 65536;

// Event types (10.4.1) that mean something here.
inline constexpr std::uint32_t kEvPostCode = 0x1;
inline constexpr std::uint32_t kEvNoAction = 0x3;
inline constexpr std::uint32_t kEvSeparator = 0x4;
inline constexpr std::uint32_t kEvAction = 0x5;
inline constexpr std::uint32_t kEvEventTag = 0x6;
inline constexpr std::uint32_t kEvCrtmVersion = 0x8;
inline constexpr std::uint32_t kEvIpl = 0xD;
inline constexpr std::uint32_t kEvEfiVariableDriverConfig = 0x80000001;
inline constexpr std::uint32_t kEvEfiVariableBoot = 0x80000002;
inline constexpr std::uint32_t kEvEfiBootServicesApplication = 0x80000003;
inline constexpr std::uint32_t kEvEfiBootServicesDriver = 0x80000004;
inline constexpr std::uint32_t kEvEfiRuntimeServicesDriver = 0x80000005;
inline constexpr std::uint32_t kEvEfiGptEvent = 0x80000006;
inline constexpr std::uint32_t kEvEfiAction = 0x80000007;
inline constexpr std::uint32_t kEvEfiPlatformFirmwareBlob = 0x80000008;
inline constexpr std::uint32_t kEvEfiVariableBoot2 = 0x8000000C;
inline constexpr std::uint32_t kEvEfiHcrtmEvent = 0x80000010;
inline constexpr std::uint32_t kEvEfiVariableAuthority = 0x800000E0;

// "EV_EFI_ACTION", or "event type 0x00000099".
std::string EventTypeName(std::uint32_t type);

struct Event {
  std::uint32_t pcr = 0;
  std::uint32_t type = 0;
  // By algorithm; every bank of the log has one.
  std::map<std::uint16_t, Bytes> digests;
  Bytes data;
};

// True when the type's digest is by definition the hash of the data and, in the SHA-256 bank, it is.
bool DataMatchesDigest(const Event& event);
// One line for people: type, and what the data says ("EV_EFI_VARIABLE_DRIVER_CONFIG db, 819 bytes"). Control
// characters in the data never get out; the length is bounded.
std::string DescribeEvent(const Event& event);

enum class EventLogFormat { kCryptoAgile, kSha1 };

class EventLog {
 public:
  // Of what nodes send: crypto-agile with a SHA-256 bank. Errors: INVALID_ARGUMENT with EVENT_LOG_MALFORMED
  // (cut short, trailing bytes, a bank missing in an event), EVENT_LOG_UNSUPPORTED (SHA-1 form, or no SHA-256
  // bank), FILE_TOO_LARGE.
  static Result<EventLog> Parse(ByteView bytes);
  // Of either form and any banks, for looking at. Errors: as of Parse, without EVENT_LOG_UNSUPPORTED.
  static Result<EventLog> Read(ByteView bytes);

  EventLogFormat format() const { return format_; }
  // Without the leading Spec ID event.
  const std::vector<Event>& events() const { return events_; }
  // With it.
  std::size_t event_count() const {
    return events_.size() + (format_ == EventLogFormat::kCryptoAgile ? 1 : 0);
  }
  // Algorithm to digest size, as the log declares them.
  const std::map<std::uint16_t, std::size_t>& banks() const { return banks_; }
  // In the order of the declaration.
  const std::vector<std::uint16_t>& bank_order() const { return bank_order_; }
  // Zeros or 0xff after the last event, as firmware fills its table with; more than four bytes of one of
  // them.
  std::size_t padding() const { return padding_; }
  // 0, or the locality TPM2_Startup came from (3 or 4): PCR 0 then starts with it in its last byte. 4 also
  // where an H-CRTM event is what PCR 0 starts with (TPM 2.0 part 1, 34.3).
  std::uint8_t startup_locality() const { return startup_locality_; }

  // The SHA-256 registers the log leads to; only those it extends.
  PcrValues Replay() const;
  // The same of any bank of the log whose hash is known here; of others nothing.
  std::map<std::uint32_t, Bytes> ReplayBank(std::uint16_t algorithm) const;
  // What was extended into `pcr`, in order. Pointers live as long as this log.
  std::vector<const Event*> EventsOf(std::uint32_t pcr) const;

 private:
  EventLog() = default;
  EventLogFormat format_ = EventLogFormat::kCryptoAgile;
  std::vector<Event> events_;
  std::map<std::uint16_t, std::size_t> banks_;
  std::vector<std::uint16_t> bank_order_;
  std::size_t padding_ = 0;
  std::uint8_t startup_locality_ = 0;
};

// SHA-256(value || digest): what TPM2_PCR_Extend does.
Sha256Digest Extend(const Sha256Digest& value, const Sha256Digest& digest);

}  // namespace sealift::tpm
