// What a node's security epoch is, as its TPM certifies it. Pure; thread-safe.
#pragma once

#include <optional>
#include <string_view>

#include "controller/fleet/node.h"
#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::controller {

// Handle of the epoch's counter on every node (node-agent/tpm/counters.h).
inline constexpr std::uint32_t kEpochCounterHandle = 0x01810020;

// TPM2_NV_Certify of the counter, as it came.
struct CounterEvidence {
  Bytes attest;
  Bytes signature;
  // What the counter was when the machine was set up.
  std::uint64_t base = 0;
};

struct EpochJudgement {
  // OK, or why the node is not trusted: EPOCH_UNUSABLE (evidence is missing although there was some before,
  // another base without leave (controller/fleet/epoch_base.h), a counter below what was certified before),
  // EPOCH_TOO_LOW (the running image says a lower epoch than its TPM accepts), those of tpm::VerifyCounter.
  Status problem;
  // What is certified now; nothing when the node never had a counter.
  std::optional<CertifiedEpoch> epoch;
};

// Whether a verdict's reason is about the epoch: it rests on another certification than the quote.
bool IsAboutEpoch(std::string_view reason);

EpochJudgement JudgeEpoch(const Node& node, const std::optional<CounterEvidence>& evidence, ByteView nonce,
                          UnixMillis now);

}  // namespace sealift::controller
