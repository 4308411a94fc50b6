// Whether a TPM's time runs forward from quote to quote: an old state of it, such as a copied virtual TPM or
// a snapshot, gives itself away.
#pragma once

#include "controller/fleet/admission.h"
#include "shared/base/bytes.h"

namespace sealift::controller {

// `quote`: TPMS_ATTEST of a verified quote of this node. Remembers its clock. Errors:
// INVALID_ARGUMENT/QUOTE_CLOCK_BACKWARDS; those of the store.
Status AdvanceQuoteClock(const NodeId& node, ByteView quote, QuoteClockStore& clocks);

}  // namespace sealift::controller
