#include "controller/attest/quote_clock.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

class MemoryClocks final : public QuoteClockStore {
 public:
  Status Advance(const NodeId&, const SignerClock& clock) override {
    newest = clock;
    return OkStatus();
  }
  Result<std::optional<SignerClock>> Newest(const NodeId&) override { return newest; }
  std::optional<SignerClock> newest;
};

const NodeId kNode = NodeId::Parse("01890000-0000-7000-8000-000000000001").value();

Bytes Quote(std::uint64_t clock, Bytes signer = Bytes(34, 1)) {
  test::AttestFields fields;
  fields.qualified_signer = std::move(signer);
  fields.clock = clock;
  fields.pcrs = {7};
  fields.pcr_digest = Bytes(32, 2);
  return fields.Encode();
}

TEST(QuoteClock, RunsForwardByResetsThenRestartsThenTime) {
  const QuoteClock before{.clock_ms = 1000, .reset_count = 5, .restart_count = 2, .firmware_version = 1};
  const auto backwards = [&](std::uint64_t clock, std::uint32_t reset, std::uint32_t restart) {
    return RunsBackwards({.clock_ms = clock, .reset_count = reset, .restart_count = restart}, before);
  };
  EXPECT_FALSE(backwards(1000, 5, 2));
  EXPECT_FALSE(backwards(1001, 5, 2));
  EXPECT_TRUE(backwards(999, 5, 2));
  EXPECT_FALSE(backwards(1, 5, 3));
  EXPECT_TRUE(backwards(2000, 5, 1));
  EXPECT_FALSE(backwards(1, 6, 0));
  EXPECT_TRUE(backwards(2000, 4, 9));
}

TEST(QuoteClock, WhatAnyQuoteLeftIsBeforeTheNextOne) {
  MemoryClocks clocks;
  EXPECT_EQ(ClockBefore(kNode, Quote(10), clocks).value(), std::nullopt);
  // As an enrolment leaves it, and as a running node's quote does.
  ASSERT_TRUE(AdvanceQuoteClock(kNode, Quote(10), clocks).ok());
  const auto before = ClockBefore(kNode, Quote(20), clocks).value();
  ASSERT_TRUE(before);
  EXPECT_EQ(*before, (QuoteClock{.clock_ms = 10,
                                 .reset_count = 7,
                                 .restart_count = 0,
                                 .firmware_version = test::AttestFields().firmware_version}));
}

TEST(QuoteClock, AnotherTpmStartsAnewAndUnknownFirmwareIsNoChangeOfIt) {
  MemoryClocks clocks;
  ASSERT_TRUE(AdvanceQuoteClock(kNode, Quote(10), clocks).ok());
  EXPECT_EQ(ClockBefore(kNode, Quote(20, Bytes(34, 9)), clocks).value(), std::nullopt);
  clocks.newest->clock.firmware_version = 0;
  EXPECT_EQ(ClockBefore(kNode, Quote(20), clocks).value()->firmware_version,
            test::AttestFields().firmware_version);
  // What is no quote is told by its verdict, and moves nothing.
  EXPECT_EQ(ClockBefore(kNode, Bytes{1, 2, 3}, clocks).value(), std::nullopt);
  EXPECT_FALSE(AdvanceQuoteClock(kNode, Bytes{1, 2, 3}, clocks).ok());
}

}  // namespace
}  // namespace sealift::controller
