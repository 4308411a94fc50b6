// NodeAttestor over controller/attest: a running node's quote against every published release. Thread-safe.
#pragma once

#include "controller/api/ports.h"
#include "controller/attest/expectation.h"
#include "controller/attest/firmware_judge.h"
#include "controller/attest/revocations.h"
#include "controller/fleet/admission.h"

namespace sealift::controller {

class QuoteAttestor final : public NodeAttestor {
 public:
  // Borrows all.
  QuoteAttestor(RevocationExpectations& expectations, QuoteClockStore& clocks, FirmwareJudge& firmware)
      : expectations_(expectations), clocks_(clocks), firmware_(firmware) {}
  Result<Judgement> Attest(const Node& node, const AttestationEvidence& evidence, ByteView nonce,
                           UnixMillis now) override;

 private:
  RevocationExpectations& expectations_;
  QuoteClockStore& clocks_;
  FirmwareJudge& firmware_;
};

}  // namespace sealift::controller
