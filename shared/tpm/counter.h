// Verifies TPM2_NV_Certify of a counter: the attestation key vouches for what an NV counter of its TPM holds.
//
// Thread-safe, pure.
#pragma once

#include <cstdint>

#include "shared/tpm/structures.h"

namespace sealift::tpm {

// TPMA_NV of the agent's counters once they have counted (TPM 2.0 part 2, 13.4): type counter, owner and
// password authorisation, no dictionary attack protection.
inline constexpr std::uint32_t kCounterAttributes =
    0x00000010 | 0x00000002 | 0x00000004 | 0x00020000 | 0x00040000 | 0x02000000 | 0x20000000;

// The Name of such an index: what a certification names. An index of another type, policy or size, defined in
// its place, has another.
Bytes CounterName(std::uint32_t handle);

// The counter's value. Accepts when `attest` (TPMS_ATTEST) carries `nonce`, names exactly the counter at
// `handle` and is signed by `attestation_key`, which must have passed CheckAttestationKey. Errors:
// INVALID_ARGUMENT with CERTIFY_MALFORMED, CERTIFY_NONCE_STALE, CERTIFY_NAME_MISMATCH;
// UNAUTHENTICATED/CERTIFY_SIGNATURE_INVALID.
Result<std::uint64_t> VerifyCounter(ByteView attest, ByteView signature, const PublicArea& attestation_key,
                                    ByteView nonce, std::uint32_t handle);

}  // namespace sealift::tpm
