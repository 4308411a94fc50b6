// What every StateStore does. Include it and instantiate StateStoreContract with a factory:
//
//   INSTANTIATE_TEST_SUITE_P(Memory, StateStoreContract, testing::Values(MakeMemoryStates));
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "node-agent/update/state_store.h"

namespace sealift::agent {

// One place where a store lies; opening it again finds what was committed. At most one store is open.
struct StateUnderTest {
  std::function<std::unique_ptr<StateStore>()> open;
};

class StateStoreContract : public testing::TestWithParam<StateUnderTest (*)()> {
 protected:
  StateUnderTest place_ = GetParam()();

  static UpdateRecord FullRecord() {
    UpdateRecord record;
    record.state = UpdateState::kAssessing;
    record.channel = "stable";
    record.version = "1.2.0~rc1+b7";
    for (std::size_t i = 0; i < 32; ++i) {
      record.release_id.bytes[i] = static_cast<std::uint8_t>(i);
      record.image_digest.bytes[i] = static_cast<std::uint8_t>(255 - i);
    }
    record.image_size = 123'456'789'012;
    record.from_version = "1.1.9";
    record.boot_id = "2b1c8f8e-9d5e-4c39-8e7a-6b1f7f7c9a10";
    record.since_ms = 86'400'000;
    record.attempts = 2;
    record.report_due = true;
    record.report_accepted = true;
    record.reason = "HEALTH_FAILED";
    record.message = "assess 1.2.0: unit 'caf\xc3\xa9.service' failed\nsecond line";
    return record;
  }
  static VersionFailure Failure(const std::string& version) {
    return {.version = version, .reason = "FELL_BACK", .message = "why", .at = FromUnixMs(1'900'000'000'123)};
  }
};

TEST_P(StateStoreContract, BeginsFreshIdleAndEmpty) {
  const auto state = place_.open()->Load();
  ASSERT_TRUE(state.ok()) << state.status();
  NodeState expected;
  expected.fresh = true;
  EXPECT_EQ(*state, expected);
  // Looking is no commit.
  EXPECT_TRUE(place_.open()->Load()->fresh);
}

TEST_P(StateStoreContract, KeepsEveryFieldAcrossOpening) {
  NodeState expected;
  {
    auto store = place_.open();
    StateChange change;
    change.record = FullRecord();
    change.remember = Failure("1.2.0");
    change.remember->while_running = "1.1.9";
    change.time_floor = FromUnixMs(1'900'000'000'000);
    change.permitted_rollback = "1.0.0";
    change.blessed_boots = BlessedBoots{.image = Sha256Digest(), .count = 7, .boot_id = "boot-7"};
    change.blessed_boots->image.bytes[3] = 9;
    ASSERT_TRUE(store->Commit(change).ok());
    ApplyChange(change, expected);
    EXPECT_EQ(*store->Load(), expected);
  }
  const auto again = place_.open()->Load();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, expected);
  EXPECT_FALSE(again->fresh);
}

TEST_P(StateStoreContract, LeavesWhatAChangeDoesNotName) {
  auto store = place_.open();
  StateChange first;
  first.record = FullRecord();
  first.time_floor = FromUnixMs(1000);
  ASSERT_TRUE(store->Commit(first).ok());
  StateChange second;
  second.remember = Failure("2.0");
  ASSERT_TRUE(store->Commit(second).ok());
  const NodeState state = *store->Load();
  EXPECT_EQ(state.record, FullRecord());
  EXPECT_EQ(state.time_floor, FromUnixMs(1000));
  EXPECT_EQ(state.failures.size(), 1u);
}

TEST_P(StateStoreContract, NeverLowersTheTimeFloor) {
  auto store = place_.open();
  for (const int ms : {500, 2000, 1000}) {
    StateChange change;
    change.time_floor = FromUnixMs(ms);
    ASSERT_TRUE(store->Commit(change).ok());
  }
  EXPECT_EQ(store->Load()->time_floor, FromUnixMs(2000));
}

TEST_P(StateStoreContract, RemembersAVersionOnceInTheOrderOfItsLastFailure) {
  auto store = place_.open();
  for (const char* version : {"1", "2", "3", "1"}) {
    StateChange change;
    change.remember = Failure(version);
    ASSERT_TRUE(store->Commit(change).ok());
  }
  const NodeState state = *store->Load();
  ASSERT_EQ(state.failures.size(), 3u);
  EXPECT_EQ(state.failures[0].version, "2");
  EXPECT_EQ(state.failures[2].version, "1");
}

TEST_P(StateStoreContract, ForgetsOneVersionAndKnowsNoOtherWell) {
  auto store = place_.open();
  for (const char* version : {"1", "2"}) {
    StateChange change;
    change.remember = Failure(version);
    ASSERT_TRUE(store->Commit(change).ok());
  }
  for (const char* version : {"1", "1", "never-seen'; DROP TABLE version_failure; --"}) {
    StateChange change;
    change.forget = version;
    ASSERT_TRUE(store->Commit(change).ok());
  }
  const NodeState state = *store->Load();
  ASSERT_EQ(state.failures.size(), 1u);
  EXPECT_EQ(state.failures[0].version, "2");
}

TEST_P(StateStoreContract, MakesRoomForNewFailures) {
  auto store = place_.open();
  for (std::size_t i = 0; i < kMaxFailures + 5; ++i) {
    StateChange change;
    change.remember = Failure("1." + std::to_string(i));
    ASSERT_TRUE(store->Commit(change).ok());
  }
  const NodeState state = *store->Load();
  ASSERT_EQ(state.failures.size(), kMaxFailures);
  EXPECT_EQ(state.failures.front().version, "1.5");
}

TEST_P(StateStoreContract, RefusesWhatItCouldNotReadBackAndChangesNothing) {
  auto store = place_.open();
  StateChange good;
  good.record = FullRecord();
  ASSERT_TRUE(store->Commit(good).ok());
  std::vector<StateChange> bad(9);
  for (StateChange& change : bad) change.record = FullRecord();
  bad[0].record->state = UpdateState::kStateMissing;
  bad[1].record->version = "";
  bad[2].record->version = "../../etc/passwd";
  bad[3].record->message = std::string(kMaxMessageBytes + 1, 'x');
  bad[4].record->since_ms = -1;
  bad[5].remember = Failure("");
  bad[6].permitted_rollback = "a b";
  bad[7].blessed_boots = BlessedBoots{.count = kMaxBlessedBoots + 1};
  bad[8].blessed_boots = BlessedBoots{.boot_id = std::string(kMaxBootIdBytes + 1, 'x')};
  for (std::size_t i = 0; i < bad.size(); ++i) {
    bad[i].time_floor = FromUnixMs(77);
    const Status status = store->Commit(bad[i]);
    EXPECT_EQ(status.code(), Code::kInvalidArgument) << i;
  }
  const NodeState state = *store->Load();
  EXPECT_EQ(state.record, FullRecord());
  EXPECT_EQ(state.time_floor, UnixMillis{});
  EXPECT_TRUE(state.failures.empty());
}

}  // namespace sealift::agent
