// NodeAttestor over controller/attest: a running node's quote against every published release. Thread-safe.
#pragma once

#include "controller/api/ports.h"
#include "controller/attest/expectation.h"

namespace sealift::controller {

class QuoteAttestor final : public NodeAttestor {
 public:
  // Borrows it.
  explicit QuoteAttestor(ExpectationSource& expectations) : expectations_(expectations) {}
  Result<Verdict> Attest(const Node& node, const AttestationEvidence& evidence, ByteView nonce,
                         UnixMillis now) override;

 private:
  ExpectationSource& expectations_;
};

}  // namespace sealift::controller
