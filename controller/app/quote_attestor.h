// NodeAttestor over controller/attest: a running node's quote against every published release. Thread-safe.
#pragma once

#include "controller/api/ports.h"
#include "controller/attest/expectation.h"
#include "controller/fleet/admission.h"

namespace sealift::controller {

class QuoteAttestor final : public NodeAttestor {
 public:
  // Borrows both.
  QuoteAttestor(ExpectationSource& expectations, QuoteClockStore& clocks)
      : expectations_(expectations), clocks_(clocks) {}
  Result<Judgement> Attest(const Node& node, const AttestationEvidence& evidence, ByteView nonce,
                           UnixMillis now) override;

 private:
  ExpectationSource& expectations_;
  QuoteClockStore& clocks_;
};

}  // namespace sealift::controller
