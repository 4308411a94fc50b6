#include "controller/attest/quote_clock.h"

#include "shared/tpm/structures.h"

namespace sealift::controller {
namespace {

// Counters that wrap: less than half their range ahead is ahead.
bool Behind(std::uint32_t now, std::uint32_t before) { return static_cast<std::int32_t>(now - before) < 0; }

Result<SignerClock> ClockIn(ByteView quote) {
  SEALIFT_ASSIGN_OR_RETURN(const tpm::Attest attest,
                           tpm::ParseAttest(quote, tpm::kStAttestQuote, tpm::kQuoteReasons));
  return SignerClock{.signer = attest.qualified_signer,
                     .clock = {.clock_ms = attest.clock.clock_ms,
                               .reset_count = attest.clock.reset_count,
                               .restart_count = attest.clock.restart_count,
                               .firmware_version = attest.firmware_version}};
}

}  // namespace

bool RunsBackwards(const QuoteClock& now, const QuoteClock& before) {
  if (now.reset_count != before.reset_count) return Behind(now.reset_count, before.reset_count);
  if (now.restart_count != before.restart_count) return Behind(now.restart_count, before.restart_count);
  // Over a reset it may lose what was not saved; within one it never goes back.
  return now.clock_ms < before.clock_ms;
}

Result<std::optional<QuoteClock>> ClockBefore(const NodeId& node, ByteView quote, QuoteClockStore& clocks) {
  const auto now = ClockIn(quote);
  // What is no quote has nothing before it; its verdict says so.
  if (!now.ok()) return std::optional<QuoteClock>();
  SEALIFT_ASSIGN_OR_RETURN(std::optional<SignerClock> newest, clocks.Newest(node));
  if (!newest || newest->signer != now->signer) return std::optional<QuoteClock>();
  if (newest->clock.firmware_version == 0) newest->clock.firmware_version = now->clock.firmware_version;
  return std::optional(newest->clock);
}

Status AdvanceQuoteClock(const NodeId& node, ByteView quote, QuoteClockStore& clocks) {
  SEALIFT_ASSIGN_OR_RETURN(const SignerClock clock, ClockIn(quote));
  return clocks.Advance(node, clock);
}

}  // namespace sealift::controller
