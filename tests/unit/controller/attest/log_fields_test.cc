// Every field and every length of a real event log, changed one at a time, with a quote that holds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "controller/attest/firmware.h"
#include "controller/attest/verifier.h"
#include "tests/support/measured_boot.h"
#include "tests/support/software_tpm.h"

namespace sealift::controller {
namespace {

using test::MeasuredBoot;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

const UnixMillis kNow = FromUnixMs(1'800'000'000'000);
constexpr std::uint32_t kNoRegister = 0xFFFFFFFF;

// Where the fields of an event lie in the log's bytes.
struct Place {
  std::uint32_t pcr = 0;
  std::uint32_t type = 0;
  std::size_t at = 0;
  std::size_t data_size = 0;

  std::size_t type_at() const { return at + 4; }
  std::size_t count_at() const { return at + 8; }
  std::size_t algorithm_at() const { return at + 12; }
  std::size_t digest_at() const { return at + 14; }
  std::size_t size_at() const { return at + 46; }
  std::size_t data_at() const { return at + 50; }
};

std::uint32_t U32At(const Bytes& log, std::size_t at) {
  return ByteReader(ByteView(log).subspan(at, 4), ByteReader::Endian::kLittle).U32();
}

void SetU32(Bytes& log, std::size_t at, std::uint32_t value) {
  for (std::size_t i = 0; i < 4; ++i) log.at(at + i) = static_cast<std::uint8_t>(value >> 8 * i);
}

// Of a log with one SHA-256 bank, without its leading event.
std::vector<Place> PlacesIn(const Bytes& log) {
  std::vector<Place> places;
  for (std::size_t at = 32 + U32At(log, 28); at < log.size();) {
    Place place{.pcr = U32At(log, at), .type = U32At(log, at + 4), .at = at};
    place.data_size = U32At(log, place.size_at());
    at = place.data_at() + place.data_size;
    places.push_back(place);
  }
  return places;
}

class LogFieldsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    FirmwareMeasurement measured{.registers = {}, .explained = {0, 1, 2, 3}, .log = boot_.log};
    for (const std::uint32_t pcr : kFirmwarePcrs) measured.registers[pcr] = boot_.pcrs.at(pcr);
    firmware_.approved = {
        MeasuredBaseline({.model = {.vendor = "v", .product = "p"}, .firmware_version = "1"}, measured)
            .value()};
    firmware_.outlier = Trust::kUntrusted;
    for (const Place& place : places_) {
      if (place.pcr == 11) last_of_image_ = place.at;
    }
  }
  // Reasons of the verdict; empty where it is trusted.
  std::vector<std::string> Reasons(const Bytes& log) const {
    auto judged = ExamineEvidence({.quote = quote_, .event_log = log}, ak_.area(), nonce_, candidates_,
                                  PhaseRule::kFinalPhase, kNow);
    EXPECT_TRUE(judged.ok()) << Describe(judged.status());
    if (judged->firmware) JudgeFirmware(*judged->firmware, firmware_, judged->verdict);
    EXPECT_EQ(judged->verdict.reasons.empty(), judged->verdict.trust == Trust::kTrusted);
    return judged->verdict.reasons;
  }
  std::vector<std::string> ReasonsWith(std::size_t at, std::uint32_t value) const {
    Bytes log = log_;
    SetU32(log, at, value);
    return Reasons(log);
  }
  std::vector<std::string> ReasonsWithFlip(std::size_t at) const {
    Bytes log = log_;
    log.at(at) ^= 1;
    return Reasons(log);
  }
  // Registers that are judged event by event: without this one the log leads to another value. Of PCR 0, 2
  // and 3 the value counts; of PCR 11 the log holds the beginning, which may be shorter.
  bool Needed(const Place& place) const {
    return place.pcr == 1 || place.pcr == 4 || place.pcr == 7 ||
           (place.pcr == 11 && place.at != last_of_image_);
  }
  static bool Judged(std::uint32_t pcr) { return pcr == 1 || pcr == 4 || pcr == 7 || pcr == 11; }

  const MeasuredBoot boot_ = MeasuredBoot::Load();
  const Bytes log_ = test::FixtureEventLog();
  const std::vector<Place> places_ = PlacesIn(log_);
  const std::vector<ExpectedRelease> candidates_{boot_.Expect()};
  const Bytes nonce_ = Bytes(32, 9);
  test::SoftwareAk ak_;
  const tpm::QuoteEvidence quote_ = ak_.Quote(boot_.pcrs, nonce_);
  FirmwareExpectation firmware_;
  std::size_t last_of_image_ = 0;
};

TEST_F(LogFieldsTest, TheLogAsItIsIsTrusted) {
  EXPECT_THAT(Reasons(log_), IsEmpty());
  EXPECT_EQ(places_.size(), boot_.log.events().size());
  EXPECT_EQ(std::ranges::count(places_, 11u, &Place::pcr), 10);
}

TEST_F(LogFieldsTest, EachFieldOfTheLeadingEvent) {
  const auto malformed = ElementsAre("EVENT_LOG_MALFORMED");
  const auto no_log = AnyOf(ElementsAre("EVENT_LOG_MALFORMED"), ElementsAre("EVENT_LOG_UNSUPPORTED"));
  EXPECT_THAT(ReasonsWith(0, 1), malformed) << "register";
  EXPECT_THAT(ReasonsWithFlip(4), no_log) << "type";
  for (std::size_t at = 8; at < 28; ++at) EXPECT_THAT(ReasonsWithFlip(at), malformed) << "digest " << at;
  const std::uint32_t size = U32At(log_, 28);
  for (const std::uint32_t other : {size - 1, size + 1, 0u, 0xFFFFFFFFu, 0x7FFFFFFFu})
    EXPECT_THAT(ReasonsWith(28, other), no_log) << "size " << other;
  for (std::size_t at = 32; at < 48; ++at) EXPECT_THAT(ReasonsWithFlip(at), no_log) << "signature " << at;
  // Class, version, errata and the size of a UINTN: nothing follows from them.
  for (std::size_t at = 48; at < 56; ++at) EXPECT_THAT(ReasonsWithFlip(at), IsEmpty()) << at;
  for (const std::uint32_t banks : {0u, 2u, 0xFFFFFFFFu}) EXPECT_THAT(ReasonsWith(56, banks), malformed);
  for (std::size_t at = 60; at < 64; ++at) EXPECT_THAT(ReasonsWithFlip(at), malformed) << "bank " << at;
  EXPECT_THAT(ReasonsWithFlip(64), malformed) << "size of vendor information";
}

TEST_F(LogFieldsTest, EachFieldOfEachEvent) {
  const auto mismatch = ElementsAre("EVENT_LOG_MISMATCH");
  for (const Place& place : places_) {
    SCOPED_TRACE(place.at);
    // In another register it is missing in its own, and too much there.
    if (Needed(place) || (Judged(place.pcr ^ 1) && !Judged(place.pcr))) {
      EXPECT_THAT(ReasonsWith(place.at, place.pcr ^ 1), mismatch);
    } else {
      EXPECT_THAT(ReasonsWith(place.at, place.pcr ^ 1), IsEmpty());
    }
    for (const std::uint32_t none : {24u, kNoRegister})
      EXPECT_THAT(ReasonsWith(place.at, none), ElementsAre("EVENT_LOG_MALFORMED"));
    // A type is free text, but an event that says it was not measured is none.
    EXPECT_THAT(ReasonsWith(place.type_at(), place.type ^ 1), IsEmpty());
    if (Needed(place)) {
      EXPECT_THAT(ReasonsWith(place.type_at(), tpm::kEvNoAction), mismatch);
    } else {
      EXPECT_THAT(ReasonsWith(place.type_at(), tpm::kEvNoAction), IsEmpty());
    }
    for (const std::size_t byte : {0u, 13u, 31u}) {
      if (Judged(place.pcr)) {
        EXPECT_THAT(ReasonsWithFlip(place.digest_at() + byte), mismatch) << byte;
      } else {
        EXPECT_THAT(ReasonsWithFlip(place.digest_at() + byte), IsEmpty()) << byte;
      }
    }
    // The data is not measured as it stands; only what claims to be a boot variable has to be one.
    for (const std::size_t byte : {std::size_t{0}, place.data_size - 1}) {
      if (place.pcr == 1 && place.type == tpm::kEvEfiVariableBoot) {
        EXPECT_THAT(ReasonsWithFlip(place.data_at() + byte), ElementsAre("EVENT_NOT_ALLOWED")) << byte;
      } else {
        EXPECT_THAT(ReasonsWithFlip(place.data_at() + byte), IsEmpty()) << byte;
      }
    }
  }
}

TEST_F(LogFieldsTest, EachLengthOfEachEvent) {
  const auto malformed = ElementsAre("EVENT_LOG_MALFORMED");
  for (const Place& place : places_) {
    SCOPED_TRACE(place.at);
    for (const std::uint32_t count : {0u, 2u, 0xFFFFFFFFu})
      EXPECT_THAT(ReasonsWith(place.count_at(), count), malformed) << count;
    EXPECT_THAT(ReasonsWithFlip(place.algorithm_at()), malformed);
    EXPECT_THAT(ReasonsWithFlip(place.algorithm_at() + 1), malformed);
    const auto size = static_cast<std::uint32_t>(place.data_size);
    for (const std::uint32_t other : {size - 1, size + 1, size + 0x101, 0x80000000u, 0xFFFFFFFFu})
      EXPECT_THAT(ReasonsWith(place.size_at(), other), malformed) << other;
    // An event more or less.
    Bytes without = log_;
    const auto begin = without.begin() + static_cast<std::ptrdiff_t>(place.at);
    const auto end = begin + static_cast<std::ptrdiff_t>(place.data_at() - place.at + place.data_size);
    const Bytes event(begin, end);
    without.erase(begin, end);
    Bytes twice = log_;
    twice.insert(twice.begin() + static_cast<std::ptrdiff_t>(place.at), event.begin(), event.end());
    if (Needed(place)) {
      EXPECT_THAT(Reasons(without), ElementsAre("EVENT_LOG_MISMATCH"));
    } else {
      EXPECT_THAT(Reasons(without), IsEmpty());
    }
    if (Judged(place.pcr)) {
      EXPECT_THAT(Reasons(twice), ElementsAre("EVENT_LOG_MISMATCH"));
    } else {
      EXPECT_THAT(Reasons(twice), IsEmpty());
    }
  }
}

// No byte of it makes the reader stumble, or a verdict of what does not parse anything but untrusted.
TEST_F(LogFieldsTest, NoByteEndsTheReader) {
  std::set<std::string> seen;
  for (std::size_t at = 0; at < log_.size(); ++at) {
    Bytes log = log_;
    log[at] ^= 0x80;
    const auto parsed = tpm::EventLog::Parse(log);
    if (parsed.ok()) continue;
    seen.insert(ReasonIdOf(parsed.status()));
    EXPECT_EQ(parsed.status().code(), Code::kInvalidArgument) << at;
  }
  EXPECT_THAT(seen, AnyOf(ElementsAre("EVENT_LOG_MALFORMED"),
                          ElementsAre("EVENT_LOG_MALFORMED", "EVENT_LOG_UNSUPPORTED")));
}

}  // namespace
}  // namespace sealift::controller
