// Our replay of event logs against that of tpm2_eventlog: a real log, and the shapes that firmware has.
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <regex>

#include "shared/base/files.h"
#include "shared/tpm/event_log.h"
#include "tests/support/event_log_shapes.h"
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift::tpm {
namespace {

using Registers = std::map<std::string, std::map<std::uint32_t, Bytes>>;

class EventLogTools : public ::testing::Test {
 protected:
  // By bank; nothing where the tool refuses the log.
  std::optional<Registers> Theirs(ByteView log) const {
    const auto path = folder_.path() / "log";
    EXPECT_TRUE(WriteFileAtomically(path, log).ok());
    const CommandOutput tool = test::RunTool({"tpm2_eventlog", path.string()});
    if (tool.exit_code != 0) return std::nullopt;
    Registers registers;
    // "  sha256:" and below "    4  : 0x1d19...", after "pcrs:".
    const std::size_t begin = tool.out.find("\npcrs:");
    EXPECT_NE(begin, std::string::npos) << tool.out;
    const std::string pcrs = tool.out.substr(begin);
    const std::regex line(R"(  (\w+):\n|(\d+)\s*: 0x([0-9a-f]+))");
    std::string bank;
    for (std::sregex_iterator at(pcrs.begin(), pcrs.end(), line), end; at != end; ++at) {
      if ((*at)[1].matched) {
        bank = (*at)[1].str();
      } else {
        registers[bank][static_cast<std::uint32_t>(std::stoul((*at)[2]))] = HexDecode((*at)[3].str()).value();
      }
    }
    return registers;
  }
  static std::optional<Registers> Ours(ByteView bytes) {
    const auto log = EventLog::Read(bytes);
    if (!log.ok()) return std::nullopt;
    Registers registers;
    for (const std::uint16_t bank : log->bank_order()) {
      auto values = log->ReplayBank(bank);
      if (!values.empty()) registers[AlgorithmName(bank)] = std::move(values);
    }
    return registers;
  }
  const TempDir folder_ = TempDir::Create("event-log-tools").value();
};

TEST_F(EventLogTools, ReplayOfARealLogEqualsTpm2Eventlog) {
  SEALIFT_NEED_TOOL("tpm2_eventlog");
  const Bytes log = ReadFile(SEALIFT_SOURCE_DIR "/tests/data/tpm/ovmf-secureboot.eventlog.bin").value();
  const auto ours = Ours(log);
  ASSERT_TRUE(ours);
  EXPECT_EQ(ours->at("sha256").size(), 10u);
  EXPECT_EQ(ours, Theirs(log));
}

TEST_F(EventLogTools, EveryShapeLeadsToTheSameRegisters) {
  SEALIFT_NEED_TOOL("tpm2_eventlog");
  for (const test::LogShape& shape : test::EventLogShapes()) {
    SCOPED_TRACE(shape.name);
    const Bytes log = shape.bytes();
    const auto ours = Ours(log);
    ASSERT_TRUE(ours) << Describe(EventLog::Read(log).status());
    EXPECT_EQ(ours->size(), shape.events.empty() ? 0 : std::max<std::size_t>(shape.banks.size(), 1));
    // Version 5.4 extends the digests of events that say that they were not measured.
    test::LogShape measured = shape;
    std::erase_if(measured.events, [](const auto& event) { return event.type == kEvNoAction; });
    EXPECT_TRUE(Theirs(log));
    const auto theirs = Theirs(measured.bytes());
    ASSERT_TRUE(theirs);
    EXPECT_EQ(*ours, *theirs);
    // What nodes may send.
    const auto believed = EventLog::Parse(log);
    if (shape.banks.empty()) {
      EXPECT_EQ(ReasonIdOf(believed.status()), "EVENT_LOG_UNSUPPORTED");
    } else {
      EXPECT_TRUE(believed.ok()) << Describe(believed.status());
    }
  }
}

// Cut short in an event both refuse it; between two events both take it.
TEST_F(EventLogTools, WhatIsCutShortIsTakenOrRefusedByBoth) {
  SEALIFT_NEED_TOOL("tpm2_eventlog");
  for (const test::LogShape& shape : test::EventLogShapes()) {
    SCOPED_TRACE(shape.name);
    if (shape.events.empty()) continue;
    test::LogShape shorter = shape;
    shorter.events.pop_back();
    const std::size_t last = shorter.bytes().size();
    const Bytes log = shape.bytes();
    for (const std::size_t size : {last, last + 1, last + 9, (last + log.size()) / 2, log.size() - 1}) {
      const ByteView cut = ByteView(log).first(size);
      EXPECT_EQ(Ours(cut).has_value(), size == last && size != 0) << size;
      if (size == 0) continue;
      EXPECT_EQ(Theirs(cut).has_value(), size == last) << size;
    }
  }
}

}  // namespace
}  // namespace sealift::tpm
