#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/config.h"
#include "shared/base/files.h"
#include "shared/base/ids.h"
#include "shared/base/secret.h"
#include "shared/base/subprocess.h"
#include "tests/support/golden_page.h"

namespace sealift {
namespace {

TEST(Status, KeepsReasonAndNativeCodeThroughAnnotation) {
  const Status status = Annotate(
      MakeError(Code::kNotFound, Reason::kFileUnreadable, "read 'x'", {"open", 2, "ENOENT"}), "load keys");
  EXPECT_EQ(ReasonOf(status), Reason::kFileUnreadable);
  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_EQ(MessageOf(status), "load keys: read 'x' (open: ENOENT 0x2)");
}

TEST(Status, ReasonIdsAreUniqueUpperCaseAndHaveAdvice) {
  std::set<std::string> seen;
  for (const Reason reason : AllReasons()) {
    const std::string id(ReasonId(reason));
    EXPECT_TRUE(seen.insert(id).second) << id;
    EXPECT_EQ(id.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"), std::string::npos) << id;
    EXPECT_GE(ReasonAdvice(reason).size(), 10u) << id;
    EXPECT_EQ(ReasonFromId(id), reason);
  }
}

TEST(Status, ReasonsAreThoseThatTheDocumentationShows) {
  std::string page =
      "# Reasons\n\n"
      "Every error names one of these ids, which do not change, and `sealift` prints the advice with it. "
      "Generated from\n"
      "`shared/base/reasons.inc`; a unit test compares it. Run that test with `SEALIFT_UPDATE_GOLDEN=1` to "
      "write it\n"
      "anew.\n\n"
      "| reason | what to do |\n|---|---|\n";
  for (const Reason reason : AllReasons()) {
    page += fmt::format("| `{}` | {} |\n", ReasonId(reason), ReasonAdvice(reason));
  }
  test::CompareWithPage("reasons.md", page);
}

TEST(Bytes, ReaderStaysFailedAfterAShortRead) {
  const Bytes bytes{1, 2, 3};
  ByteReader reader(bytes, ByteReader::Endian::kBig);
  EXPECT_EQ(reader.U16(), 0x0102);
  EXPECT_EQ(reader.U32(), 0u);
  EXPECT_FALSE(reader.ok());
  EXPECT_EQ(reader.U8(), 0);
  EXPECT_FALSE(reader.AtEnd());
}

TEST(Bytes, HexAndBase64RoundTripAndRefuseRubbish) {
  for (std::size_t size = 0; size < 9; ++size) {
    Bytes bytes;
    for (std::size_t i = 0; i < size; ++i) bytes.push_back(static_cast<std::uint8_t>(i * 41));
    EXPECT_EQ(HexDecode(HexEncode(bytes)).value(), bytes);
    EXPECT_EQ(Base64Decode(Base64Encode(bytes)).value(), bytes);
  }
  EXPECT_FALSE(HexDecode("abc").ok());
  EXPECT_FALSE(HexDecode("zz").ok());
  EXPECT_FALSE(Base64Decode("QUI").ok());
  EXPECT_FALSE(Base64Decode("QUI=x").ok());
  EXPECT_FALSE(Base64Decode("====").ok());
  EXPECT_EQ(Base64Encode(AsBytes("Sealift")), "U2VhbGlmdA==");
}

TEST(Bytes, Utf16RoundTripsAndReplacesLoneSurrogates) {
  EXPECT_EQ(HexEncode(Utf16Le("db\xC3\xA9")), "64006200e900");
  EXPECT_EQ(Utf8FromUtf16Le(Utf16Le("a\xF0\x9F\x98\x80z")), "a\xF0\x9F\x98\x80z");
  EXPECT_EQ(Utf8FromUtf16Le(Bytes{0x00, 0xD8, 0x41, 0x00}),
            "\xEF\xBF\xBD"
            "A");
}

TEST(Clock, FormatsAndParsesTufTimes) {
  const UnixMillis time = FromUnixMs(1763866318000);
  EXPECT_EQ(FormatRfc3339(time), "2025-11-23T02:51:58Z");
  EXPECT_EQ(ParseRfc3339("2025-11-23T02:51:58Z").value(), time);
  for (const char* bad :
       {"2025-02-30T00:00:00Z", "2025-11-23 02:51:58Z", "2025-11-23T24:00:00Z", "", "2025-11-23T02:51:58+"}) {
    EXPECT_FALSE(ParseRfc3339(bad).ok()) << bad;
  }
}

TEST(Clock, FakeClockStopsASleeper) {
  FakeClock clock(FromUnixMs(0));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_FALSE(clock.SleepFor(std::chrono::hours(1), stop.get_token()));
}

TEST(Files, AtomicWriteReplacesAndLeavesNoTemporaryFile) {
  const TempDir dir = TempDir::Create("sealift-test").value();
  const auto path = dir.path() / "state";
  ASSERT_TRUE(WriteFileAtomically(path, AsBytes("old")).ok());
  ASSERT_TRUE(WriteFileAtomically(path, AsBytes("new"), 0600).ok());
  EXPECT_EQ(ReadTextFile(path).value(), "new");
  EXPECT_TRUE(CheckSecretFile(path).ok());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(Files, ReadRefusesWhatIsTooLargeMissingOrADirectory) {
  const TempDir dir = TempDir::Create("sealift-test").value();
  ASSERT_TRUE(WriteFileAtomically(dir.path() / "f", Bytes(100)).ok());
  EXPECT_EQ(ReasonOf(ReadFile(dir.path() / "f", 99).status()), Reason::kFileTooLarge);
  EXPECT_EQ(ReadFile(dir.path() / "f", 100).value().size(), 100u);
  EXPECT_EQ(ReadFile(dir.path() / "missing").status().code(), Code::kNotFound);
  EXPECT_EQ(ReasonOf(ReadFile(dir.path()).status()), Reason::kFileUnreadable);
}

TEST(Files, SecretFileWithLoosePermissionsIsRefused) {
  const TempDir dir = TempDir::Create("sealift-test").value();
  ASSERT_TRUE(WriteFileAtomically(dir.path() / "pin", AsBytes("1234"), 0640).ok());
  EXPECT_EQ(ReasonOf(CheckSecretFile(dir.path() / "pin")), Reason::kPermissionsTooLoose);
}

TEST(Subprocess, GivesExitCodeOutputAndInput) {
  const auto output =
      RunCommand({.argv = {"sh", "-c", "cat; echo bad >&2; exit 3"}, .stdin_text = "hello"}).value();
  EXPECT_EQ(output.exit_code, 3);
  EXPECT_EQ(output.out, "hello");
  EXPECT_EQ(output.err, "bad\n");
}

TEST(Subprocess, NamesMissingToolAndTimeout) {
  EXPECT_EQ(ReasonOf(RunCommand({.argv = {"sealift-no-such-tool"}}).status()), Reason::kToolMissing);
  EXPECT_EQ(
      ReasonOf(RunCommand({.argv = {"sleep", "60"}, .timeout = std::chrono::milliseconds(50)}).status()),
      Reason::kTimeout);
  // Closes its output and lives on; and the reverse: ends, and leaves its output to somebody else.
  EXPECT_EQ(ReasonOf(RunCommand({.argv = {"sh", "-c", "exec >&- 2>&-; sleep 60"},
                                 .timeout = std::chrono::milliseconds(100)})
                         .status()),
            Reason::kTimeout);
  const auto left_behind = RunCommand(
      {.argv = {"sh", "-c", "sleep 5 & echo started"}, .timeout = std::chrono::milliseconds(4000)});
  ASSERT_TRUE(left_behind.ok()) << left_behind.status();
  EXPECT_EQ(left_behind->out, "started\n");
  EXPECT_EQ(ReasonOf(RunCommandChecked({.argv = {"false"}}).status()), Reason::kToolFailed);
}

TEST(Versions, FollowTheUapiOrder) {
  // The worked list of UAPI.10, each older than the next.
  const std::vector<std::string> ascending{"122.1",   "123~rc1-1", "123",     "123-a",   "123-a.1", "123-1",
                                           "123-1.1", "123^post1", "123.a-1", "123.1-1", "123a-1",  "124-1"};
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    for (std::size_t j = 0; j < ascending.size(); ++j) {
      const int order = CompareVersions(ascending[i], ascending[j]);
      EXPECT_EQ(order < 0, i < j) << ascending[i] << " against " << ascending[j];
      EXPECT_EQ(order == 0, i == j) << ascending[i] << " against " << ascending[j];
    }
  }
  EXPECT_EQ(CompareVersions("1.01", "1.1"), 0);
  EXPECT_FALSE(IsValidVersion("../x"));
  EXPECT_FALSE(IsValidVersion(""));
  EXPECT_TRUE(IsValidVersion("12.5~rc1"));
}

TEST(Ids, NodeIdIsAUuidV7) {
  const std::string text = MakeUuidV7(FromUnixMs(1763866318000), Bytes(10, 0xFF));
  EXPECT_EQ(text, "019aaea0-14b0-7fff-bfff-ffffffffffff");
  EXPECT_TRUE(NodeId::Parse(text).ok());
  EXPECT_FALSE(NodeId::Parse("019aaea0-14b0-4fff-bfff-ffffffffffff").ok());
  EXPECT_FALSE(NodeId::Parse("019AAEA3-F3B0-7FFF-BFFF-FFFFFFFFFFFF").ok());
}

TEST(Config, TellsEveryProblemAtOnce) {
  ConfigReader config = ConfigReader::Parse("port = 'x'\nextra = 1\n[a]\nb = 5\n", "t.toml");
  config.Integer("port", 1, 1, 65535);
  config.RequiredString("name");
  config.RequiredString("a.b");
  const std::string message = MessageOf(config.Finish());
  for (const char* part : {"port:", "name: required", "a.b:", "extra: unknown"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST(Secret, ComparesAndIsEmptyAfterMove) {
  SecretBytes pin(AsBytes("1234"));
  EXPECT_TRUE(pin.Equals(AsBytes("1234")));
  EXPECT_FALSE(pin.Equals(AsBytes("1235")));
  const SecretBytes other = std::move(pin);
  EXPECT_TRUE(pin.empty());  // NOLINT(bugprone-use-after-move): that it is empty is the point.
  EXPECT_EQ(other.size(), 4u);
}

}  // namespace
}  // namespace sealift
