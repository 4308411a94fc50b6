// What a reader of metadata notices of a signing journal that does not go on where it was seen.
#include "shared/tuf/journal_watch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "shared/crypto/hash.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/shared/tuf/test_repository.h"

namespace sealift::tuf {
namespace {

using test::ReasonIdFrom;

constexpr char kOne[] = "0123456789abcdef0123456789abcdef";
constexpr char kOther[] = "ffffffffffffffffffffffffffffffff";

std::string Checkpoint(std::string_view journal, std::uint64_t sequence, std::string_view line = "line") {
  return fmt::format(R"({{"journal":"{}","sequence":{},"head":"{}","at":1,"signature":"00"}})", journal,
                     sequence, Sha256(AsBytes(fmt::format("{} {}", line, sequence))).hex());
}

class Watch : public testing::Test {
 protected:
  // As another process would, later.
  std::string See(const std::string& checkpoint) {
    return ReasonIdFrom(JournalWatch(store_).See(checkpoint));
  }
  MemoryStore store_;
};

TEST_F(Watch, AJournalThatGrowsIsInOrder) {
  EXPECT_EQ(See(""), "NONE");
  EXPECT_EQ(See(Checkpoint(kOne, 7)), "NONE");
  EXPECT_EQ(See(Checkpoint(kOne, 7)), "NONE");
  EXPECT_EQ(See(Checkpoint(kOne, 9)), "NONE");
}

TEST_F(Watch, AShorterOneIsFoundEachTime) {
  ASSERT_EQ(See(Checkpoint(kOne, 9)), "NONE");
  EXPECT_EQ(See(Checkpoint(kOne, 8)), "JOURNAL_SHORT");
  EXPECT_EQ(See(Checkpoint(kOne, 8)), "JOURNAL_SHORT");
  // Nor is the furthest place forgotten for it.
  EXPECT_EQ(See(Checkpoint(kOne, 9)), "NONE");
}

TEST_F(Watch, AnotherLineAtTheSamePlaceIsAFork) {
  ASSERT_EQ(See(Checkpoint(kOne, 9)), "NONE");
  EXPECT_EQ(See(Checkpoint(kOne, 9, "rewritten")), "JOURNAL_FORKED");
  EXPECT_EQ(See(Checkpoint(kOne, 9)), "NONE");
}

TEST_F(Watch, AnotherJournalInItsPlaceIsAForkAtEachChange) {
  ASSERT_EQ(See(Checkpoint(kOne, 9)), "NONE");
  EXPECT_EQ(See(Checkpoint(kOther, 1)), "JOURNAL_FORKED");
  EXPECT_EQ(See(Checkpoint(kOther, 2)), "NONE");
  EXPECT_EQ(See(Checkpoint(kOne, 9)), "JOURNAL_FORKED");
  EXPECT_EQ(See(Checkpoint(kOne, 3)), "JOURNAL_SHORT");
}

TEST_F(Watch, MemoryIsBoundedAndDamageBeginsAnew) {
  for (int i = 0; i < 40; ++i) See(Checkpoint(fmt::format("{:032x}", i), 5));
  EXPECT_LT(store_.files.at("journals.json").size(), 4096u);
  for (const char* damaged : {"", "{", "[]", R"({"journals":[{"journal":"zz"}]})", R"({"journals":3})"}) {
    store_.files["journals.json"] = damaged;
    EXPECT_EQ(See(Checkpoint(kOne, 1)), "NONE") << damaged;
    EXPECT_EQ(See(Checkpoint(kOne, 1, "rewritten")), "JOURNAL_FORKED") << damaged;
  }
}

TEST_F(Watch, WhatIsNoCheckpointIsRefusedAndForgetsNothing) {
  ASSERT_EQ(See(Checkpoint(kOne, 9)), "NONE");
  for (const std::string& bad :
       {std::string("{"), std::string("[]"), Checkpoint("short", 1), Checkpoint(kOne, 0),
        fmt::format(R"({{"journal":"{}","sequence":1,"head":"00"}})", kOne),
        fmt::format(R"({{"journal":"{}","sequence":-1,"head":"{}"}})", kOne, Sha256({}).hex()),
        std::string(17u << 10, ' ')}) {
    EXPECT_EQ(See(bad), "MALFORMED") << bad.substr(0, 100);
  }
  EXPECT_EQ(See(Checkpoint(kOne, 8)), "JOURNAL_SHORT");
}

TEST_F(Watch, AStoreThatCannotBeWrittenIsNoFinding) {
  store_.writes_left = 0;
  const Status status = JournalWatch(store_).See(Checkpoint(kOne, 9));
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(IsJournalFinding(status));
}

}  // namespace
}  // namespace sealift::tuf
