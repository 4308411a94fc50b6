#include "controller/attest/epoch.h"

#include <fmt/format.h>

#include "controller/fleet/epoch_base.h"
#include "shared/tpm/counter.h"
#include "shared/tpm/structures.h"

namespace sealift::controller {
namespace {

EpochJudgement Unusable(const Node& node, std::string_view why) {
  return {.problem = MakeError(Code::kFailedPrecondition, Reason::kEpochUnusable,
                               fmt::format("judge epoch of node {}: {}", node.id.text(), why)),
          .epoch = std::nullopt};
}

}  // namespace

bool IsAboutEpoch(std::string_view reason) {
  return reason.starts_with("EPOCH_") || reason.starts_with("CERTIFY_");
}

EpochJudgement JudgeEpoch(const Node& node, const std::optional<CounterEvidence>& evidence, ByteView nonce,
                          UnixMillis now) {
  const std::optional<CertifiedEpoch>& before = node.certified_epoch;
  if (!evidence) return before ? Unusable(node, "its counter is not certified any more") : EpochJudgement{};
  const auto attestation_key = tpm::ParsePublic(node.ak_public);
  if (!attestation_key.ok()) return {.problem = attestation_key.status(), .epoch = std::nullopt};
  const auto counter =
      tpm::VerifyCounter(evidence->attest, evidence->signature, *attestation_key, nonce, kEpochCounterHandle);
  if (!counter.ok()) return {.problem = counter.status(), .epoch = std::nullopt};
  if (*counter < evidence->base) return Unusable(node, "its counter is below its base");
  const CertifiedEpoch certified{.lowest = *counter - evidence->base, .base = evidence->base, .at = now};
  if (before && before->base != certified.base && before->base != kAnyEpochBase)
    return Unusable(node, fmt::format("base {} became {}", before->base, certified.base));
  if (before && certified.lowest < before->lowest)
    return Unusable(node, fmt::format("epoch {} became {}", before->lowest, certified.lowest));
  // What it runs it says itself; an image that lies here is none of ours, and its quote says so.
  if (node.status.epoch && node.status.epoch->image < certified.lowest) {
    return {.problem = MakeError(Code::kFailedPrecondition, Reason::kEpochTooLow,
                                 fmt::format("judge epoch of node {}: its image is of epoch {}, below {}",
                                             node.id.text(), node.status.epoch->image, certified.lowest)),
            .epoch = certified};
  }
  return {.problem = OkStatus(), .epoch = certified};
}

}  // namespace sealift::controller
