// Event logs as other firmware writes them: the older form, other banks, padding, where PCR 0 starts.
#include <gtest/gtest.h>

#include "shared/base/files.h"
#include "shared/tpm/event_log.h"
#include "tests/support/places.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::tpm {
namespace {

using test::ReasonIdFrom;
using Banks = test::EventLogWriter::Banks;

constexpr std::string_view kLocality("StartupLocality\0", 16);

// TCG_PCClientPCREvent.
void Sha1Event(ByteWriter& out, std::uint32_t pcr, std::uint32_t type, std::string_view data) {
  out.U32(pcr);
  out.U32(type);
  out.Raw(HashWith(kAlgSha1, AsBytes(data)));
  out.U32(static_cast<std::uint32_t>(data.size()));
  out.Raw(AsBytes(data));
}

// TCG_PCR_EVENT2 with the digest of `data` in each of `banks`.
void Event2(Bytes& log, const std::vector<std::uint16_t>& banks, std::uint32_t pcr, std::uint32_t type,
            std::string_view data) {
  ByteWriter out(ByteWriter::Endian::kLittle);
  out.U32(pcr);
  out.U32(type);
  out.U32(static_cast<std::uint32_t>(banks.size()));
  for (const std::uint16_t bank : banks) {
    out.U16(bank);
    out.Raw(HashWith(bank, AsBytes(data)));
  }
  out.U32(static_cast<std::uint32_t>(data.size()));
  out.Raw(AsBytes(data));
  Append(log, out.bytes());
}

Bytes Chain(std::uint16_t bank, Bytes value, const std::vector<std::string_view>& measured) {
  for (const std::string_view data : measured) {
    Append(value, HashWith(bank, AsBytes(data)));
    value = HashWith(bank, value);
  }
  return value;
}

TEST(EventLogForms, ReadsTheOlderFormButDoesNotBelieveIt) {
  ByteWriter out(ByteWriter::Endian::kLittle);
  Sha1Event(out, 0, kEvCrtmVersion, "version");
  Sha1Event(out, 0, kEvNoAction, "said, not measured");
  Sha1Event(out, 7, kEvSeparator, std::string_view("\0\0\0\0", 4));
  Sha1Event(out, 7, kEvIpl, "");
  const auto log = EventLog::Read(out.bytes());
  ASSERT_TRUE(log.ok()) << Describe(log.status());
  EXPECT_EQ(log->format(), EventLogFormat::kSha1);
  EXPECT_EQ(log->event_count(), 4u);
  EXPECT_EQ(log->bank_order(), std::vector<std::uint16_t>{kAlgSha1});
  const auto pcrs = log->ReplayBank(kAlgSha1);
  EXPECT_EQ(pcrs.size(), 2u);
  EXPECT_EQ(pcrs.at(0), Chain(kAlgSha1, Bytes(20), {"version"}));
  EXPECT_EQ(pcrs.at(7), Chain(kAlgSha1, Bytes(20), {std::string_view("\0\0\0\0", 4), ""}));
  EXPECT_TRUE(log->ReplayBank(kAlgSha256).empty());
  EXPECT_EQ(ReasonIdFrom(EventLog::Parse(out.bytes())), "EVENT_LOG_UNSUPPORTED");
  for (std::size_t size = 0; size < out.size(); ++size) {
    const auto cut = EventLog::Read(ByteView(out.bytes()).first(size));
    const bool boundary = size == 39 || size == 89 || size == 125;
    EXPECT_EQ(cut.ok(), boundary) << size;
  }
}

TEST(EventLogForms, ReplaysEveryBankAndKeepsTheirOrder) {
  const std::vector<std::uint16_t> banks{kAlgSha512, kAlgSha1, kAlgSm3, kAlgSha384, kAlgSha256};
  Banks declared;
  for (const std::uint16_t bank : banks) {
    declared.emplace_back(bank, static_cast<std::uint16_t>(DigestSize(bank)));
  }
  Bytes log = test::EventLogWriter(declared).bytes();
  Event2(log, banks, 4, kEvEfiAction, "one");
  // Of SP 800-155: no register, nothing extended.
  Event2(log, banks, 0xFFFFFFFF, kEvNoAction, "SP800-155 Event3");
  Event2(log, banks, 4, kEvSeparator, "");
  const auto read = EventLog::Read(log);
  ASSERT_TRUE(read.ok()) << Describe(read.status());
  EXPECT_EQ(read->bank_order(), banks);
  EXPECT_EQ(read->event_count(), 4u);
  for (const std::uint16_t bank : banks) {
    const auto pcrs = read->ReplayBank(bank);
    ASSERT_EQ(pcrs.size(), 1u);
    EXPECT_EQ(pcrs.at(4), Chain(bank, Bytes(DigestSize(bank)), {"one", ""})) << AlgorithmName(bank);
  }
  Event2(log, banks, 24, kEvSeparator, "");
  EXPECT_EQ(ReasonIdFrom(EventLog::Read(log)), "EVENT_LOG_MALFORMED");
}

TEST(EventLogForms, RegisterZeroStartsWhereTheLogSays) {
  const std::vector<std::uint16_t> banks{kAlgSha256};
  const Bytes empty = test::EventLogWriter().bytes();
  for (const char locality : {'\0', '\3', '\4'}) {
    Bytes log = empty;
    Event2(log, banks, 0, kEvNoAction, std::string(kLocality) + locality);
    Event2(log, banks, 0, kEvCrtmVersion, "v");
    Bytes start(32);
    start.back() = static_cast<std::uint8_t>(locality);
    EXPECT_EQ(EventLog::Read(log)->ReplayBank(kAlgSha256).at(0), Chain(kAlgSha256, start, {"v"}));
    EXPECT_EQ(ToBytes(EventLog::Parse(log)->Replay().at(0).view()), Chain(kAlgSha256, start, {"v"}));
  }
  Bytes four(32);
  four.back() = 4;
  Bytes hcrtm = empty;
  Event2(hcrtm, banks, 0, kEvEfiHcrtmEvent, "HCRTM");
  EXPECT_EQ(EventLog::Read(hcrtm)->ReplayBank(kAlgSha256).at(0), Chain(kAlgSha256, four, {"HCRTM"}));
  // Elsewhere, too short, or of another register it says nothing.
  Bytes other = empty;
  Event2(other, banks, 1, kEvNoAction, std::string(kLocality) + '\3');
  Event2(other, banks, 0, kEvNoAction, kLocality);
  Event2(other, banks, 0, kEvCrtmVersion, "v");
  EXPECT_EQ(EventLog::Read(other)->startup_locality(), 0);
}

TEST(EventLogForms, PaddingIsNoEventAndNothingElseMayFollow) {
  const Bytes log = ReadFile(SEALIFT_SOURCE_DIR "/tests/data/tpm/ovmf-secureboot.eventlog.bin").value();
  const auto pcrs = EventLog::Parse(log)->Replay();
  for (const std::uint8_t fill : {std::uint8_t{0}, std::uint8_t{0xFF}}) {
    for (const std::size_t count : {5u, 31u, 32u, 4096u}) {
      Bytes padded = log;
      padded.resize(log.size() + count, fill);
      const auto read = EventLog::Parse(padded);
      ASSERT_TRUE(read.ok()) << Describe(read.status());
      EXPECT_EQ(read->padding(), count);
      EXPECT_EQ(read->Replay(), pcrs);
      padded.back() = 1;
      EXPECT_EQ(ReasonIdFrom(EventLog::Parse(padded)), "EVENT_LOG_MALFORMED") << count;
    }
  }
}

TEST(EventLogForms, RefusesDeclarationsThatDoNotFit) {
  const auto reads = [](const Banks& banks) { return EventLog::Read(test::EventLogWriter(banks).bytes()); };
  EXPECT_TRUE(reads({{kAlgSha1, 20}}).ok());
  EXPECT_TRUE(reads({{0x7777, 33}}).ok());
  EXPECT_EQ(ReasonIdFrom(reads({})), "EVENT_LOG_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(reads({{kAlgSha256, 31}})), "EVENT_LOG_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(reads({{kAlgSha256, 32}, {kAlgSha256, 32}})), "EVENT_LOG_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(reads({{0x7777, 65}})), "EVENT_LOG_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(reads(Banks(17, {0x7777, 1}))), "EVENT_LOG_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(EventLog::Parse(test::EventLogWriter({{kAlgSha1, 20}}).bytes())),
            "EVENT_LOG_UNSUPPORTED");
  Bytes digest = test::EventLogWriter().bytes();
  digest.at(8) = 1;
  EXPECT_EQ(ReasonIdFrom(EventLog::Read(digest)), "EVENT_LOG_MALFORMED");
  for (const auto& banks : {std::vector<std::uint16_t>{}, {kAlgSha256, kAlgSha1}, {kAlgSha1}}) {
    Bytes log = test::EventLogWriter().bytes();
    Event2(log, banks, 1, kEvIpl, "x");
    EXPECT_EQ(ReasonIdFrom(EventLog::Read(log)), "EVENT_LOG_MALFORMED") << banks.size();
  }
  Bytes twice = test::EventLogWriter({{kAlgSha256, 32}, {kAlgSha1, 20}}).bytes();
  Event2(twice, {kAlgSha1, kAlgSha1}, 1, kEvIpl, "x");
  EXPECT_EQ(ReasonIdFrom(EventLog::Read(twice)), "EVENT_LOG_MALFORMED");
}

}  // namespace
}  // namespace sealift::tpm
