#include "controller/attest/firmware.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "shared/crypto/hash.h"

namespace sealift::controller {
namespace {

using tpm::Event;

constexpr std::uint32_t kConfigurationPcr = 1;
// EFI_GLOBAL_VARIABLE as bytes (UEFI 3.3).
constexpr std::array<std::uint8_t, 16> kGlobalVendor{0x61, 0xDF, 0xE4, 0x8B, 0xCA, 0x93, 0xD2, 0x11,
                                                     0xAA, 0x0D, 0x00, 0xE0, 0x98, 0x03, 0x2B, 0x8C};
// SMBIOS and ACPI tables handed to the system, with serial numbers in them (PFP 10.4.1).
constexpr std::uint32_t kEvEfiHandoffTables = 0x80000009;
constexpr std::uint32_t kEvEfiHandoffTables2 = 0x8000000B;
constexpr std::size_t kMaxBootOrderBytes = 1024;
constexpr std::uint8_t kDevicePathEnd = 0x7F;

ByteView DigestOf(const Event& event) { return event.digests.at(tpm::kAlgSha256); }

bool IsDigestOf(const Event& event, ByteView bytes) {
  return std::ranges::equal(DigestOf(event), Sha256(bytes).view());
}

struct Variable {
  ByteView vendor;
  std::string name;
  ByteView content;
};

// UEFI_VARIABLE_DATA, 10.2.6, to its last byte.
std::optional<Variable> ParseVariable(ByteView data) {
  ByteReader reader(data, ByteReader::Endian::kLittle);
  const ByteView vendor = reader.Take(16);
  const std::uint64_t name_chars = reader.U64();
  const std::uint64_t size = reader.U64();
  if (!reader.ok() || name_chars > reader.remaining() / 2) return std::nullopt;
  const ByteView name = reader.Take(static_cast<std::size_t>(name_chars) * 2);
  if (size != reader.remaining()) return std::nullopt;
  return Variable{
      .vendor = vendor, .name = Utf8FromUtf16Le(name), .content = reader.Take(reader.remaining())};
}

bool IsHexDigit(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'); }

bool IsBootOption(std::string_view name) {
  return name.size() == 8 && name.starts_with("Boot") && std::ranges::all_of(name.substr(4), IsHexDigit);
}

// Numbers, each once: what holds two equal words, as any structure with a length of 64 bits does, is none.
bool LooksLikeBootOrder(ByteView content) {
  if (content.empty() || content.size() % 2 != 0 || content.size() > kMaxBootOrderBytes) return false;
  ByteReader reader(content, ByteReader::Endian::kLittle);
  std::set<std::uint16_t> seen;
  while (reader.remaining() > 0) {
    if (!seen.insert(reader.U16()).second) return false;
  }
  return true;
}

// EFI_LOAD_OPTION (UEFI 3.1.3): attributes, a name that ends, a device path that ends where its length says.
bool LooksLikeLoadOption(ByteView content) {
  ByteReader reader(content, ByteReader::Endian::kLittle);
  const std::uint32_t attributes = reader.U32();
  const std::uint16_t path_bytes = reader.U16();
  if (!reader.ok() || (attributes & ~0x1F0Bu) != 0 || path_bytes < 4) return false;
  std::uint16_t c = 1;
  while (reader.ok() && c != 0) c = reader.U16();
  ByteReader path(reader.Take(path_bytes), ByteReader::Endian::kLittle);
  if (!reader.ok()) return false;
  while (path.remaining() >= 4) {
    const std::uint8_t type = path.U8();
    const std::uint8_t subtype = path.U8();
    const std::uint16_t size = path.U16();
    if (size < 4) return false;
    if (type == kDevicePathEnd && subtype == 0xFF) return size == 4 && path.remaining() == 0;
    path.Skip(size - 4u);
    if (!path.ok()) return false;
  }
  return false;
}

bool IsHandoff(const Event& event) {
  return event.type == kEvEfiHandoffTables || event.type == kEvEfiHandoffTables2;
}

bool IsCompared(std::uint32_t pcr, const Event& event) {
  return pcr != kConfigurationPcr || !IsBootVariable(event);
}

bool Complete(const FirmwareMeasurement& firmware) {
  return firmware.explained.size() == kFirmwarePcrs.size();
}

std::optional<Sha256Digest> SlotOf(std::uint32_t pcr, const Event& event) {
  if (pcr == kConfigurationPcr && IsHandoff(event)) return std::nullopt;
  const auto digest = Sha256Digest::FromBytes(DigestOf(event));
  return digest.ok() ? *digest : Sha256Digest();
}

std::string Short(ByteView digest) { return HexEncode(digest.first(6)); }

std::string InWords(const BaselineEvent& event) {
  return event.digest ? fmt::format("{} ({})", event.text, Short(event.digest->view())) : event.text;
}

// Events as they are compared, whether of a baseline or of a log.
struct Shown {
  const BaselineEvent* of_baseline = nullptr;
  const Event* of_log = nullptr;

  ByteView digest() const {
    if (of_log != nullptr) return DigestOf(*of_log);
    return of_baseline->digest ? of_baseline->digest->view() : ByteView();
  }
  std::string words() const {
    if (of_log == nullptr) return InWords(*of_baseline);
    return fmt::format("{} ({})", tpm::DescribeEvent(*of_log), Short(DigestOf(*of_log)));
  }
};

std::vector<Shown> EventsOf(const Baseline& baseline, std::uint32_t pcr) {
  std::vector<Shown> events;
  for (const BaselineEvent& event : baseline.events) {
    if (event.pcr == pcr) events.push_back({.of_baseline = &event});
  }
  return events;
}

std::vector<Shown> EventsOf(const FirmwareMeasurement& firmware, std::uint32_t pcr) {
  std::vector<Shown> events;
  for (const Event* event : firmware.log.EventsOf(pcr)) {
    if (IsCompared(pcr, *event)) events.push_back({.of_log = event});
  }
  return events;
}

bool SameEvent(const Shown& wanted, const Shown& found) {
  return wanted.digest().empty() || std::ranges::equal(wanted.digest(), found.digest());
}

// Where the events begin to differ; nothing where they do not.
std::optional<std::size_t> Difference(const std::vector<Shown>& wanted, const std::vector<Shown>& found) {
  for (std::size_t i = 0; i < std::max(wanted.size(), found.size()); ++i) {
    if (i >= wanted.size() || i >= found.size() || !SameEvent(wanted[i], found[i])) return i;
  }
  return std::nullopt;
}

std::string DifferenceText(const std::vector<Shown>& wanted, const std::vector<Shown>& found) {
  const auto at = Difference(wanted, found);
  if (!at) return "";
  if (*at >= found.size()) return fmt::format("event {}: missing {}", *at + 1, wanted[*at].words());
  if (*at >= wanted.size()) return fmt::format("event {}: unexpected {}", *at + 1, found[*at].words());
  return fmt::format("event {}: expected {}, found {}", *at + 1, wanted[*at].words(), found[*at].words());
}

constexpr std::string_view kOtherStart = "the same events from another start of the register";

bool SameRegister(const Baseline& wanted, const FirmwareMeasurement& firmware, std::uint32_t pcr) {
  const auto found = firmware.registers.find(pcr);
  if (found == firmware.registers.end()) return false;
  if (pcr == kConfigurationPcr) {
    return firmware.explained.contains(pcr) && !Difference(EventsOf(wanted, pcr), EventsOf(firmware, pcr));
  }
  const auto expected = wanted.registers.find(pcr);
  return expected != wanted.registers.end() && expected->second == found->second;
}

std::string RegisterDifference(const Baseline& wanted, const FirmwareMeasurement& firmware,
                               std::uint32_t pcr) {
  if (!firmware.explained.contains(pcr)) return "the event log does not lead to the quoted value";
  const std::string events = DifferenceText(EventsOf(wanted, pcr), EventsOf(firmware, pcr));
  return events.empty() ? std::string(kOtherStart) : events;
}

std::size_t CountSame(const Baseline& wanted, const FirmwareMeasurement& firmware) {
  return static_cast<std::size_t>(std::ranges::count_if(
      kFirmwarePcrs, [&](std::uint32_t pcr) { return SameRegister(wanted, firmware, pcr); }));
}

// The newest of those that fit best.
const Baseline* Closest(const std::vector<Baseline>& approved, const FirmwareMeasurement& firmware) {
  const Baseline* closest = nullptr;
  std::size_t most = 0;
  for (const Baseline& baseline : approved) {
    const std::size_t same = CountSame(baseline, firmware);
    if (closest != nullptr && same <= most) continue;
    closest = &baseline;
    most = same;
  }
  return closest;
}

int Badness(Trust trust) {
  switch (trust) {
    case Trust::kUntrusted:
      return 2;
    case Trust::kTrusted:
      return 0;
    default:
      return 1;
  }
}

Reason WhyOutlier(const FirmwareMeasurement& firmware) {
  if (firmware.registers.size() != kFirmwarePcrs.size()) return Reason::kQuoteSelectionWrong;
  return Complete(firmware) ? Reason::kEventNotAllowed : Reason::kEventLogMismatch;
}

void AddOnce(std::vector<std::string>& list, Reason reason) {
  const std::string id(ReasonId(reason));
  if (std::ranges::find(list, id) == list.end()) list.push_back(id);
}

}  // namespace

bool IsBootVariable(const Event& event) {
  const auto variable = ParseVariable(event.data);
  if (!variable || !std::ranges::equal(variable->vendor, kGlobalVendor)) return false;
  const bool order = variable->name == "BootOrder";
  if (!order && !IsBootOption(variable->name)) return false;
  if (IsDigestOf(event, event.data)) return true;
  // Firmware that measures the content alone measures no name.
  if (!(order ? LooksLikeBootOrder(variable->content) : LooksLikeLoadOption(variable->content))) return false;
  return IsDigestOf(event, variable->content);
}

std::optional<Sha256Digest> MeasuredBaselineId(const HardwareModel& model,
                                               const FirmwareMeasurement& firmware) {
  if (!Complete(firmware)) return std::nullopt;
  Sha256Hasher hasher;
  hasher.Update(AsBytes(fmt::format("sealift baseline 1\n{}\n{}\n{}\n{}\n", model.vendor.size(), model.vendor,
                                    model.product.size(), model.product)));
  for (const auto& [pcr, value] : firmware.registers) {
    if (pcr == kConfigurationPcr) continue;
    hasher.Update(AsBytes(fmt::format("pcr {}\n", pcr)));
    hasher.Update(value.view());
  }
  for (const Event* event : firmware.log.EventsOf(kConfigurationPcr)) {
    if (!IsCompared(kConfigurationPcr, *event)) continue;
    const auto digest = SlotOf(kConfigurationPcr, *event);
    hasher.Update(AsBytes(digest ? "event\n" : "any\n"));
    if (digest) hasher.Update(digest->view());
  }
  return hasher.Finish();
}

std::optional<Baseline> MeasuredBaseline(const Hardware& hardware, const FirmwareMeasurement& firmware) {
  const auto id = MeasuredBaselineId(hardware.model, firmware);
  if (!id) return std::nullopt;
  Baseline baseline{.id = *id,
                    .model = hardware.model,
                    .firmware_version = hardware.firmware_version,
                    .registers = {},
                    .events = {}};
  for (const std::uint32_t pcr : kFirmwarePcrs) {
    if (pcr != kConfigurationPcr) baseline.registers[pcr] = firmware.registers.at(pcr);
    for (const Event* event : firmware.log.EventsOf(pcr)) {
      if (!IsCompared(pcr, *event)) continue;
      baseline.events.push_back(
          {.pcr = pcr, .digest = SlotOf(pcr, *event), .text = tpm::DescribeEvent(*event)});
    }
  }
  if (baseline.events.size() > kMaxBaselineEvents) return std::nullopt;
  return baseline;
}

std::string FirstDifference(const Baseline& wanted, const Baseline& found) {
  for (const std::uint32_t pcr : kFirmwarePcrs) {
    const std::string events = DifferenceText(EventsOf(wanted, pcr), EventsOf(found, pcr));
    if (!events.empty()) return fmt::format("PCR {}: {}", pcr, events);
    if (pcr != kConfigurationPcr && wanted.registers.at(pcr) != found.registers.at(pcr)) {
      return fmt::format("PCR {}: {}", pcr, kOtherStart);
    }
  }
  return "";
}

void JudgeFirmware(const FirmwareMeasurement& firmware, const FirmwareExpectation& expectation,
                   Verdict& verdict) {
  const Baseline* wanted = Closest(expectation.approved, firmware);
  const bool approved = wanted != nullptr && CountSame(*wanted, firmware) == kFirmwarePcrs.size();
  const bool outlier = wanted != nullptr && !approved && !expectation.confirmed;
  for (PcrFinding& finding : verdict.findings) {
    if (std::ranges::find(kFirmwarePcrs, finding.pcr) == kFirmwarePcrs.end()) continue;
    finding.outcome = "unknown";
    if (wanted == nullptr) continue;
    if (const auto value = wanted->registers.find(finding.pcr); value != wanted->registers.end()) {
      finding.expected = {value->second};
    }
    if (SameRegister(*wanted, firmware, finding.pcr)) {
      finding.outcome = "match";
    } else {
      finding.first_difference = RegisterDifference(*wanted, firmware, finding.pcr);
      if (outlier) finding.outcome = "mismatch";
    }
  }
  if (outlier) {
    if (Badness(expectation.outlier) > Badness(verdict.trust)) verdict.trust = expectation.outlier;
    AddOnce(verdict.reasons, WhyOutlier(firmware));
  } else if (!approved) {
    AddOnce(verdict.notes, Reason::kBaselineUnapproved);
  }
}

}  // namespace sealift::controller
