// The policy of a secret that a machine may open while it runs what a release's key has signed for, computed
// in software (TPM 2.0 Part 3, 23: TPM2_PolicyPCR, TPM2_PolicyAuthorize, TPM2_PolicyOR).
//
// Branch "signed": PolicyAuthorize(policy key) over registers that move with each image, then
// PolicyPCR(registers that may not move). The policy of the encrypted volumes (docs/volumes.md), so images
// open it in the phases they were signed for. Branch "running", where it is given: PolicyPCR of registers as
// they were once proven; it opens in that boot phase of that image alone. Thread-safe, pure.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "shared/crypto/public_key.h"
#include "shared/tpm/quote.h"

namespace sealift::tpm {

struct ReleasePolicy {
  // RSA, of the images' .pcrpkey.
  PublicKey policy_key;
  // Values that no signature changes: PCR 7.
  PcrValues fixed;
  // PCR 7, 11, 12, 13 of the machine as it runs; nothing: there is no such branch.
  std::optional<PcrValues> running;
};

// TPM2_PolicyPCR after `policy` (zeros: of a fresh session), SHA-256 bank.
Sha256Digest ExtendByPcrs(const Sha256Digest& policy, const PcrValues& values);

struct ReleasePolicyDigests {
  Sha256Digest signed_branch;
  std::optional<Sha256Digest> running_branch;
  // Of the object: TPM2_PolicyOR of both, or the one there is.
  Sha256Digest whole;
};
// Errors: FAILED_PRECONDITION/KEY_MISMATCH for a policy key that is not RSA.
Result<ReleasePolicyDigests> DigestReleasePolicy(const ReleasePolicy& policy);

// TPMT_PUBLIC of a policy key as a TPM is given it to verify with, and its Name. Errors: as above.
struct PolicyKeyArea {
  Bytes area;
  Bytes name;
};
Result<PolicyKeyArea> PolicyKeyAreaOf(const PublicKey& key);

}  // namespace sealift::tpm
