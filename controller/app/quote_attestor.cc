#include "controller/app/quote_attestor.h"

#include "controller/attest/quote_clock.h"

namespace sealift::controller {

Result<Verdict> QuoteAttestor::Attest(const Node& node, const AttestationEvidence& evidence, ByteView nonce,
                                      UnixMillis now) {
  // Ours: it passed its checks at enrolment. That it does not parse now is a damaged record.
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea attestation_key, tpm::ParsePublic(node.ak_public));
  SEALIFT_ASSIGN_OR_RETURN(const auto candidates, expectations_.Candidates());
  const Evidence given{
      .quote = {.attest = evidence.attest, .signature = evidence.signature, .pcrs = evidence.pcrs},
      .event_log = evidence.event_log};
  const auto verdict = JudgeEvidence(given, attestation_key, nonce, *candidates, PhaseRule::kFinalPhase, now);
  if (!verdict.ok()) return RefusedEvidence(verdict.status(), now);
  const Status clock = AdvanceQuoteClock(node.id, evidence.attest, clocks_);
  if (ReasonOf(clock) == Reason::kQuoteClockBackwards) return RefusedEvidence(clock, now);
  if (!clock.ok()) return clock;
  return *verdict;
}

}  // namespace sealift::controller
