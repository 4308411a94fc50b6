// Policies of sealed objects, satisfied in a session. Included by esys_*.cc only; called with the device's
// mutex held.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "node-agent/tpm/esys_commands.h"
#include "node-agent/tpm/vault.h"

namespace sealift::agent {

template <typename T>
Status Fill(T& to, ByteView bytes, std::string_view what) {
  if (bytes.size() > sizeof to.buffer) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     fmt::format("use {}: {} bytes", what, bytes.size()));
  }
  to.size = static_cast<UINT16>(bytes.size());
  std::ranges::copy(bytes, to.buffer);
  return OkStatus();
}

// The TPM's answer "a parameter, handle or session is not right" (TPM 2.0 part 2, 6.6.2: format one), as
// against being busy, full or locked out.
inline bool IsAboutParameters(TSS2_RC rc) {
  return ((rc & TSS2_RC_LAYER_MASK) == TSS2_TPM_RC_LAYER ||
          (rc & TSS2_RC_LAYER_MASK) == TSS2_RESMGR_TPM_RC_LAYER) &&
         (rc & TPM2_RC_FMT1) != 0;
}

// The key as a TPM is given it to verify with. Errors: FAILED_PRECONDITION/KEY_MISMATCH.
Result<TPM2B_PUBLIC> PolicyKeyArea(const PublicKey& key);
// Part 1, 16: nameAlg || H(TPMT_PUBLIC).
Result<Bytes> NameOf(const TPM2B_PUBLIC& area);
std::vector<std::uint32_t> IndexesOf(const tpm::PcrValues& values);

// PolicyPCR over the signed registers, PolicyAuthorize, PolicyPCR over the literal ones.
Status SatisfySigned(ESYS_CONTEXT* context, const Transient& session, const SealPolicy& policy,
                     const SignedPcrs& approval);
// `session` encrypts the answer.
Result<SecretBytes> UnsealWith(ESYS_CONTEXT* context, const Transient& loaded, const Transient& session);

// Any register moved, also one that the policy does not name, between the session's look at them and its
// use. Under Secure Boot the kernel measures each module it loads into PCR 10 (IMA), and in early boot it
// loads many.
bool RegistersMoved(const Status& status);
template <typename Attempt>
Result<SecretBytes> WhileRegistersMove(Attempt attempt) {
  constexpr int kMaxAttempts = 100;
  constexpr std::chrono::milliseconds kPause{50};
  Result<SecretBytes> secret = attempt();
  for (int again = 0; again < kMaxAttempts && RegistersMoved(secret.status()); ++again) {
    std::this_thread::sleep_for(kPause);
    secret = attempt();
  }
  return secret;
}

}  // namespace sealift::agent
