#include "shared/tpm/event_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "tests/support/places.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::tpm {
namespace {

using test::ReasonIdFrom;
using LogWriter = test::EventLogWriter;
using ::testing::HasSubstr;

// Of OVMF 2022.11 with Secure Boot, systemd-boot 252 and a UKI, single SHA-256 bank.
Bytes Fixture() {
  return ReadFile(SEALIFT_SOURCE_DIR "/tests/data/tpm/ovmf-secureboot.eventlog.bin").value();
}

TEST(EventLog, ReplaysARealLogToTheRegistersTheMachineHad) {
  const auto log = EventLog::Parse(Fixture());
  ASSERT_TRUE(log.ok()) << Describe(log.status());
  EXPECT_EQ(log->events().size(), 39u);
  const PcrValues pcrs = log->Replay();
  EXPECT_EQ(pcrs.size(), 10u);
  EXPECT_EQ(pcrs.at(4).hex(), "1d196e54640a3209ec928568fdcd87773ed7f9e5c900356b1b9a74509368f02e");
  EXPECT_EQ(pcrs.at(7).hex(), "6ebf9fc8756bc19c7204aa9dd72986ebb64e3a66ae1c50096c7f1f5646ce88e2");
  EXPECT_EQ(pcrs.at(11).hex(), "aeee6770ea2edebe486d1187bd31ac23ff5c9ebc5e9a9c599665ce5d28495113");
  EXPECT_FALSE(pcrs.contains(12));
}

TEST(EventLog, DescribesEventsInWords) {
  const auto log = EventLog::Parse(Fixture());
  ASSERT_TRUE(log.ok());
  std::vector<std::string> four;
  for (const Event* event : log->EventsOf(4)) four.push_back(DescribeEvent(*event));
  EXPECT_THAT(four, ::testing::ElementsAre("EV_EFI_ACTION \"Calling EFI Application from Boot Option\"",
                                           "EV_SEPARATOR",
                                           "EV_EFI_BOOT_SERVICES_APPLICATION \\EFI\\BOOT\\BOOTX64.EFI",
                                           "EV_EFI_BOOT_SERVICES_APPLICATION \\EFI\\kairos\\active.efi"));
  EXPECT_EQ(DescribeEvent(*log->EventsOf(7)[3]), "EV_EFI_VARIABLE_DRIVER_CONFIG db, 819 bytes");
  EXPECT_EQ(DescribeEvent(*log->EventsOf(11)[0]), "EV_IPL .linux");
  for (const Event* event : log->EventsOf(7)) EXPECT_TRUE(DataMatchesDigest(*event)) << DescribeEvent(*event);
  EXPECT_FALSE(DataMatchesDigest(*log->EventsOf(4)[2]));
}

TEST(EventLog, DescriptionNeverLetsControlCharactersOut) {
  LogWriter writer;
  writer.Event(4, kEvEfiAction, "\x1b[2J\r\nspoofed" + std::string(5000, 'x'));
  const auto log = EventLog::Parse(writer.bytes());
  ASSERT_TRUE(log.ok());
  const std::string text = DescribeEvent(log->events()[0]);
  EXPECT_LT(text.size(), 200u);
  for (const char c : text) EXPECT_TRUE(c >= ' ' && c <= '~');
}

TEST(EventLog, RefusesEveryTruncationOfARealLog) {
  const Bytes log = Fixture();
  const auto parsed = EventLog::Parse(log);
  std::size_t boundaries = 0;
  for (std::size_t size = 0; size < log.size(); ++size) {
    const auto cut = EventLog::Parse(ByteView(log).first(size));
    if (cut.ok()) {
      ++boundaries;
    } else {
      EXPECT_EQ(ReasonIdFrom(cut), "EVENT_LOG_MALFORMED") << size;
    }
  }
  // A log may end after any event; the quote tells that the rest is missing.
  EXPECT_EQ(boundaries, parsed->events().size());
}

TEST(EventLog, RefusesTheOldForms) {
  ByteWriter old(ByteWriter::Endian::kLittle);
  old.U32(0);
  old.U32(kEvCrtmVersion);
  old.Zeros(20);
  old.U32(2);
  old.U16(0);
  EXPECT_EQ(ReasonIdFrom(EventLog::Parse(old.bytes())), "EVENT_LOG_UNSUPPORTED");
  EXPECT_EQ(ReasonIdFrom(EventLog::Parse(LogWriter({{kAlgSha1, 20}}).bytes())), "EVENT_LOG_UNSUPPORTED");
}

TEST(EventLog, RefusesBanksThatDoNotAddUp) {
  EXPECT_EQ(ReasonIdFrom(EventLog::Parse(LogWriter({{kAlgSha256, 20}}).bytes())), "EVENT_LOG_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(EventLog::Parse(LogWriter({{kAlgSha256, 32}, {kAlgSha256, 32}}).bytes())),
            "EVENT_LOG_MALFORMED");
  EXPECT_EQ(ReasonIdFrom(EventLog::Parse(LogWriter(LogWriter::Banks()).bytes())), "EVENT_LOG_MALFORMED");
  LogWriter one_digest_for_two_banks({{kAlgSha1, 20}, {kAlgSha256, 32}});
  one_digest_for_two_banks.Event(4, kEvSeparator, std::string(4, '\0'));
  EXPECT_EQ(ReasonIdFrom(EventLog::Parse(one_digest_for_two_banks.bytes())), "EVENT_LOG_MALFORMED");
}

TEST(EventLog, RefusesRegistersThatNoTpmHas) {
  LogWriter writer;
  writer.Event(24, kEvSeparator, "x");
  EXPECT_EQ(ReasonIdFrom(EventLog::Parse(writer.bytes())), "EVENT_LOG_MALFORMED");
}

TEST(EventLog, StartupLocalityChangesTheStartOfPcr0) {
  LogWriter writer;
  writer.Event(0, kEvNoAction, Bytes(32, 0), AsBytes(std::string_view("StartupLocality\0\3", 17)));
  writer.Event(0, kEvCrtmVersion, "v1");
  const auto log = EventLog::Parse(writer.bytes());
  ASSERT_TRUE(log.ok()) << Describe(log.status());
  EXPECT_EQ(log->startup_locality(), 3);
  Sha256Digest start;
  start.bytes.back() = 3;
  EXPECT_EQ(log->Replay().at(0), Extend(start, Sha256(AsBytes("v1"))));
}

TEST(EventLog, NoActionEventsAreNotExtended) {
  LogWriter writer;
  writer.Event(7, kEvNoAction, "remark");
  const auto log = EventLog::Parse(writer.bytes());
  ASSERT_TRUE(log.ok());
  EXPECT_TRUE(log->Replay().empty());
  EXPECT_TRUE(log->EventsOf(7).empty());
}

}  // namespace
}  // namespace sealift::tpm
