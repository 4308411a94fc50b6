// Our replay of an event log against that of tpm2_eventlog.
#include <gtest/gtest.h>

#include <regex>

#include "shared/base/files.h"
#include "shared/tpm/event_log.h"
#include "tests/support/places.h"
#include "tests/support/swtpm.h"

namespace sealift::tpm {
namespace {

TEST(EventLogTools, ReplayEqualsTpm2Eventlog) {
  SEALIFT_NEED_TOOLS("tpm2_eventlog");
  const std::string path = SEALIFT_SOURCE_DIR "/tests/data/tpm/ovmf-secureboot.eventlog.bin";
  const auto log = EventLog::Parse(ReadFile(path).value());
  ASSERT_TRUE(log.ok()) << Describe(log.status());
  const auto tool = RunCommandChecked({.argv = {"tpm2_eventlog", path}, .timeout = std::chrono::seconds(30)});
  ASSERT_TRUE(tool.ok()) << Describe(tool.status());
  // "  4  : 0x1d19..." below "pcrs:".
  const std::string pcrs = tool->out.substr(tool->out.find("\npcrs:"));
  const std::regex line(R"((\d+)\s*: 0x([0-9a-f]{64}))");
  PcrValues theirs;
  for (std::sregex_iterator at(pcrs.begin(), pcrs.end(), line), end; at != end; ++at) {
    theirs[static_cast<std::uint32_t>(std::stoul((*at)[1]))] = Sha256Digest::FromHex((*at)[2].str()).value();
  }
  EXPECT_EQ(theirs.size(), 10u);
  EXPECT_EQ(log->Replay(), theirs);
}

}  // namespace
}  // namespace sealift::tpm
