#include "node-agent/update/state_table.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/support/golden_page.h"

namespace sealift::agent {
namespace {

std::set<UpdateState> ReachableFrom(UpdateState start) {
  std::set<UpdateState> seen = {start};
  bool grew = true;
  while (grew) {
    grew = false;
    for (const Transition& row : Transitions()) {
      if (seen.count(row.from) != 0 && seen.insert(row.to).second) grew = true;
    }
  }
  return seen;
}

TEST(StateTable, NamesEveryEventOfAStateOnce) {
  std::set<std::pair<UpdateState, UpdateEvent>> seen;
  for (const Transition& row : Transitions()) {
    EXPECT_TRUE(seen.emplace(row.from, row.event).second)
        << UpdateStateName(row.from) << " " << UpdateEventName(row.event);
  }
}

TEST(StateTable, ReachesEveryStateFromIdle) {
  const std::set<UpdateState> reachable = ReachableFrom(UpdateState::kIdle);
  for (const UpdateState state : StoredStates())
    EXPECT_EQ(reachable.count(state), 1u) << UpdateStateName(state);
}

TEST(StateTable, LeadsBackToIdleFromEveryState) {
  for (const UpdateState state : StoredStates()) {
    EXPECT_EQ(ReachableFrom(state).count(UpdateState::kIdle), 1u) << UpdateStateName(state);
  }
}

TEST(StateTable, UsesStoredStatesOnlyAndSaysWhatIsPersisted) {
  for (const Transition& row : Transitions()) {
    EXPECT_TRUE(StoredStateFromNumber(static_cast<int>(row.from)).ok());
    EXPECT_TRUE(StoredStateFromNumber(static_cast<int>(row.to)).ok());
    EXPECT_FALSE(row.persisted.empty());
  }
  EXPECT_FALSE(StoredStateFromNumber(0).ok());
  EXPECT_FALSE(StoredStateFromNumber(10).ok());
  EXPECT_FALSE(StoredStateFromNumber(-1).ok());
}

// What changes the next boot may only follow from states in which everything was verified.
TEST(StateTable, TouchesBootEntriesOnlyOnTheWayFromStagedToArmed) {
  for (const Transition& row : Transitions()) {
    if (row.effect != UpdateEffect::kFlipEntries) continue;
    EXPECT_EQ(row.from, UpdateState::kStaged);
    EXPECT_EQ(row.to, UpdateState::kArmed);
  }
  const Transition* bless = FindTransition(UpdateState::kAssessing, UpdateEvent::kAssessedGood);
  ASSERT_NE(bless, nullptr);
  for (const Transition& row : Transitions()) {
    if (row.effect == UpdateEffect::kBless) {
      EXPECT_EQ(&row, bless);
    }
  }
}

TEST(StateTable, DecidesEveryWishInEveryState) {
  std::set<std::pair<UpdateState, Wish>> seen;
  for (const TakeOver& row : TakeOvers()) {
    EXPECT_TRUE(seen.emplace(row.state, row.wish).second) << UpdateStateName(row.state);
    EXPECT_FALSE(row.why.empty());
  }
  EXPECT_EQ(seen.size(), StoredStates().size() * std::size(kAllWishes));
}

TEST(StateTable, NeverReplacesWhatIsArmedRebootingOrAssessing) {
  for (const UpdateState state : {UpdateState::kArmed, UpdateState::kRebooting, UpdateState::kAssessing}) {
    for (const Wish wish : kAllWishes) {
      const WishOutcome outcome = DecideWish(state, wish);
      EXPECT_TRUE(outcome == WishOutcome::kGoOn || outcome == WishOutcome::kDefer) << UpdateStateName(state);
    }
    EXPECT_EQ(FindTransition(state, UpdateEvent::kSuperseded), nullptr);
    EXPECT_EQ(FindTransition(state, UpdateEvent::kWithdrawn), nullptr);
  }
}

TEST(StateTable, HasATransitionForEveryWishThatReplacesOrDrops) {
  for (const TakeOver& row : TakeOvers()) {
    if (row.outcome == WishOutcome::kReplace) {
      EXPECT_NE(FindTransition(row.state, UpdateEvent::kSuperseded), nullptr) << UpdateStateName(row.state);
    }
    if (row.outcome == WishOutcome::kDrop) {
      EXPECT_NE(FindTransition(row.state, UpdateEvent::kWithdrawn), nullptr) << UpdateStateName(row.state);
    }
  }
}

TEST(StateTable, IsWhatTheDocumentationShows) {
  test::CompareWithPage("update-states.md", UpdateTablesMarkdown());
}

}  // namespace
}  // namespace sealift::agent
