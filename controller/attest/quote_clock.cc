#include "controller/attest/quote_clock.h"

#include "shared/tpm/structures.h"

namespace sealift::controller {

Status AdvanceQuoteClock(const NodeId& node, ByteView quote, QuoteClockStore& clocks) {
  SEALIFT_ASSIGN_OR_RETURN(const tpm::Attest attest,
                           tpm::ParseAttest(quote, tpm::kStAttestQuote, tpm::kQuoteReasons));
  return clocks.Advance(node, {.signer = attest.qualified_signer,
                               .clock_ms = attest.clock.clock_ms,
                               .reset_count = attest.clock.reset_count,
                               .restart_count = attest.clock.restart_count});
}

}  // namespace sealift::controller
