#include "controller/app/alert_hook.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

using nlohmann::json;
using test::ReasonIdFrom;

PolicyAct Act(int number) {
  return {.act = "alert",
          .node = NodeId::Parse("01890000-0000-7000-8000-00000000000" + std::to_string(number)).value(),
          .trust = Trust::kUntrusted,
          .reasons = {"QUOTE_PCR_MISMATCH", "EVENT_NOT_ALLOWED"},
          .rollout = {},
          .at = FromUnixMs(1'800'000'000'000)};
}

class AlertHookTest : public ::testing::Test {
 protected:
  void SetUp() override { log::SetLevel(log::Level::kError); }
  void TearDown() override { log::SetLevel(log::Level::kInfo); }
  // A program that does `lines` of shell; $1 is the test's folder.
  std::vector<std::string> Program(const std::string& lines) {
    const auto path = folder_.path() / "program";
    EXPECT_TRUE(WriteFileAtomically(path, AsBytes("#!/bin/sh\n" + lines + "\n"), 0700).ok());
    return {path.string(), folder_.path().string()};
  }
  std::unique_ptr<AlertHook> Hook(AlertOptions options) {
    return std::make_unique<AlertHook>(std::move(options), clock_, [this](std::string_view what) {
      const std::lock_guard lock(mutex_);
      counted_.emplace_back(what);
    });
  }
  std::vector<std::string> Counted() {
    const std::lock_guard lock(mutex_);
    return counted_;
  }
  void WaitForCounts(std::size_t count) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (Counted().size() < count && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    EXPECT_EQ(Counted().size(), count);
  }
  std::vector<json> Told() {
    std::vector<json> told;
    const std::string text = ReadTextFile(folder_.path() / "told").value_or("");
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      told.push_back(json::parse(text.substr(at, end - at)));
      at = end + 1;
    }
    return told;
  }

  const TempDir folder_ = TempDir::Create("alert-hook").value();
  FakeClock clock_{FromUnixMs(1'800'000'000'500)};
  std::mutex mutex_;
  std::vector<std::string> counted_;
};

TEST_F(AlertHookTest, TheProgramGetsEachActOnItsStandardInput) {
  const auto hook = Hook({.command = Program("cat >> \"$1/told\"")});
  std::jthread runner([&](std::stop_token stop) { hook->Run(stop); });
  hook->Send(Act(1));
  PolicyAct paused = Act(2);
  paused.act = "pause-rollout";
  paused.rollout = "r1";
  hook->Send(paused);
  WaitForCounts(2);
  const auto told = Told();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0], json({{"version", 1},
                           {"at_unix_ms", 1'800'000'000'000},
                           {"act", "alert"},
                           {"node", "01890000-0000-7000-8000-000000000001"},
                           {"trust", "untrusted"},
                           {"reasons", {"QUOTE_PCR_MISMATCH", "EVENT_NOT_ALLOWED"}},
                           {"suppressed", 0}}));
  EXPECT_EQ(told[1]["rollout"], "r1");
  EXPECT_EQ(Counted(), (std::vector<std::string>{"alert-sent", "alert-sent"}));
}

TEST_F(AlertHookTest, WhatIsTooMuchIsCountedAndToldTogether) {
  const auto hook = Hook({.command = Program("cat >> \"$1/told\""), .per_minute = 2});
  for (int i = 0; i < 9; ++i) hook->Send(Act(i));
  std::jthread runner([&](std::stop_token stop) { hook->Run(stop); });
  WaitForCounts(9);
  EXPECT_EQ(std::ranges::count(Counted(), "alert-suppressed"), 7);
  EXPECT_EQ(Told().size(), 2u);
  // Once there is room again it is told by itself.
  clock_.Advance(std::chrono::seconds(30));
  WaitForCounts(10);
  ASSERT_EQ(Told().size(), 3u);
  EXPECT_EQ(
      Told()[2],
      json({{"version", 1}, {"at_unix_ms", 1'800'000'030'500}, {"act", "suppressed"}, {"suppressed", 7}}));
}

TEST_F(AlertHookTest, WhoeverJudgesNeverWaits) {
  // Nobody runs it: what does not fit is left out at once.
  const auto hook = Hook({.command = Program("true")});
  for (std::size_t i = 0; i < kMaxWaitingAlerts + 3; ++i) hook->Send(Act(1));
  EXPECT_EQ(Counted(), std::vector<std::string>(3, "alert-suppressed"));
  const auto nobody = Hook({});
  for (int i = 0; i < 1000; ++i) nobody->Send(Act(1));
  nobody->Run({});
  EXPECT_EQ(Counted().size(), 3u);
}

TEST_F(AlertHookTest, AProgramThatFailsOrHangsIsCountedAndTheNextActIsTold) {
  const auto hook = Hook({.command = Program("if [ -e \"$1/failed\" ]; then exec cat >> \"$1/told\"; fi\n"
                                             "if [ -e \"$1/hung\" ]; then touch \"$1/failed\"; exit 1; fi\n"
                                             "touch \"$1/hung\"; exec sleep 600"),
                          .timeout = std::chrono::milliseconds(500)});
  std::jthread runner([&](std::stop_token stop) { hook->Run(stop); });
  for (int i = 0; i < 3; ++i) hook->Send(Act(i));
  WaitForCounts(3);
  EXPECT_EQ(Counted(), (std::vector<std::string>{"alert-failed", "alert-failed", "alert-sent"}));
  EXPECT_EQ(Told().size(), 1u);
}

TEST_F(AlertHookTest, ACommandThatCannotRunIsNotLoaded) {
  EXPECT_TRUE(CheckAlertCommand({}).ok());
  EXPECT_TRUE(CheckAlertCommand(Program("true")).ok());
  const auto plain = folder_.path() / "plain";
  ASSERT_TRUE(WriteFileAtomically(plain, AsBytes("text"), 0600).ok());
  for (const std::string& bad :
       {std::string(""), std::string("cat"), std::string("./cat"), folder_.path().string(),
        (folder_.path() / "none").string(), plain.string()}) {
    EXPECT_EQ(ReasonIdFrom(CheckAlertCommand({bad})), "POLICY_UNENFORCEABLE") << bad;
  }
}

}  // namespace
}  // namespace sealift::controller
