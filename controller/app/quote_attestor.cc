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
  JudgedMachine judged = ExamineMachine(given, attestation_key, nonce, *candidates, PhaseRule::kFinalPhase,
                                        judgement.before, now);
  Verdict& verdict = judgement.verdict;
  verdict = std::move(judged.verdict);
  // Evidence that proves nothing moves no clock.
  if (verdict.findings.empty()) return judgement;
  const Status clock = AdvanceQuoteClock(node.id, evidence.attest, clocks_);
  if (!clock.ok()) {
    if (ReasonOf(clock) != Reason::kQuoteClockBackwards) return clock;
    const std::string reason = ReasonIdOf(clock);
    verdict.trust = Trust::kUntrusted;
    if (std::find(verdict.reasons.begin(), verdict.reasons.end(), reason) == verdict.reasons.end())
      verdict.reasons.push_back(reason);
  }
  if (!judged.firmware) return judgement;
  // Machines that were thrown out have no say in what is right.
  const bool counts = node.admission == Admission::kAdmitted;
  if (counts) SEALIFT_RETURN_IF_ERROR(expectations_.Note(node.id, verdict, judged.firmware->log, now));
  SEALIFT_ASSIGN_OR_RETURN(judgement.baseline, firmware_.Judge(node.id, evidence.hardware, *judged.firmware,
                                                               counts, now, verdict));
  return judgement;
}

}  // namespace sealift::controller
