// Whether a TPM's time runs forward from quote to quote: an old state of it, such as a copied virtual TPM or
// a snapshot, gives itself away.
#pragma once

#include <optional>

#include "controller/fleet/admission.h"
#include "shared/base/bytes.h"

namespace sealift::controller {

// The reset counter never falls, within one reset neither does the restart counter, and within one restart
// not the clock (TPM 2.0 Library Part 1, 36). The counters wrap, as TPMs add a constant of their own for keys
// outside the endorsement hierarchy (36.7). Pure.
bool RunsBackwards(const QuoteClock& now, const QuoteClock& before);

// How far the TPM that signed `quote` (TPMS_ATTEST, not verified yet) had come at the node's last quote;
// nothing where that one was another TPM's, or there was none. Errors: those of the store.
Result<std::optional<QuoteClock>> ClockBefore(const NodeId& node, ByteView quote, QuoteClockStore& clocks);

// `quote`: TPMS_ATTEST of a verified quote of this node. Remembers its clock. Errors:
// INVALID_ARGUMENT/QUOTE_CLOCK_BACKWARDS; those of the store.
Status AdvanceQuoteClock(const NodeId& node, ByteView quote, QuoteClockStore& clocks);

}  // namespace sealift::controller
