#include "controller/app/quote_attestor.h"

#include <algorithm>
#include <string>

#include "controller/attest/quote_clock.h"

namespace sealift::controller {

Result<Judgement> QuoteAttestor::Attest(const Node& node, const AttestationEvidence& evidence, ByteView nonce,
                                        UnixMillis now) {
  // Ours: it passed its checks at enrolment. That it does not parse now is a damaged record.
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea attestation_key, tpm::ParsePublic(node.ak_public));
  SEALIFT_ASSIGN_OR_RETURN(const auto candidates, expectations_.Candidates());
  const Evidence given{
      .quote = {.attest = evidence.attest, .signature = evidence.signature, .pcrs = evidence.pcrs},
      .event_log = evidence.event_log};
  Judgement judgement{.verdict = {}, .before = std::nullopt, .expected = expectations_.Encoded(candidates)};
  SEALIFT_ASSIGN_OR_RETURN(judgement.before, ClockBefore(node.id, evidence.attest, clocks_));
  judgement.verdict =
      JudgeMachine(given, attestation_key, nonce, *candidates, PhaseRule::kFinalPhase, judgement.before, now);
  // Evidence that proves nothing moves no clock.
  if (judgement.verdict.findings.empty()) return judgement;
  const Status clock = AdvanceQuoteClock(node.id, evidence.attest, clocks_);
  if (clock.ok()) return judgement;
  const std::string reason = ReasonIdOf(clock);
  if (ReasonOf(clock) != Reason::kQuoteClockBackwards) return clock;
  Verdict& verdict = judgement.verdict;
  verdict.trust = Trust::kUntrusted;
  if (std::find(verdict.reasons.begin(), verdict.reasons.end(), reason) == verdict.reasons.end())
    verdict.reasons.push_back(reason);
  return judgement;
}

}  // namespace sealift::controller
