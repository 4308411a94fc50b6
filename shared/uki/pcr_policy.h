// Signed PCR policies: the .pcrsig section, as systemd-measure writes it and systemd-cryptsetup reads it
// (UAPI.5; TPM 2.0 part 3, TPM2_PolicyPCR and TPM2_PolicyAuthorize).
//
// Thread-safe functions over plain values. RSA keys; the SHA-256 bank and, where asked for, the SHA-384 one.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/crypto/sha384.h"
#include "shared/crypto/signer.h"

namespace sealift::uki {

// The policy digest of a fresh session after TPM2_PolicyPCR over these PCRs (index 0 to 23) of the SHA-256
// bank.
Sha256Digest PcrPolicyDigest(const std::map<unsigned, Sha256Digest>& pcrs);

// One entry of .pcrsig.
struct PcrSignature {
  std::vector<unsigned> pcrs;
  // SHA-256 of the key's PKCS#1 form ("pkfp"), not of its SubjectPublicKeyInfo.
  Sha256Digest key_fingerprint;
  Sha256Digest policy;
  // RSASSA-PKCS1-v1_5 with SHA-256 over the 32 bytes of `policy`.
  Bytes signature;
  bool operator==(const PcrSignature&) const = default;
};

// Entries by bank ("sha256", "sha384"), in order.
using PcrSignatures = std::map<std::string, std::vector<PcrSignature>>;

struct PhasePolicy {
  // "", "sysinit", "sysinit:ready".
  std::string phase;
  Sha256Digest pcr11;
  // Of the SHA-384 bank; adds an entry for it. Its policy is hashed and signed with SHA-256 all the same,
  // since that is how systemd verifies every bank.
  std::optional<Sha384Digest> pcr11_sha384 = std::nullopt;
  // PCRs beside 11 (12: options and credentials beside the image; 13: extensions): where there are any, adds
  // an entry of the SHA-256 bank for PCR 11 together with them. systemd passes over it.
  std::map<unsigned, Sha256Digest> companions = {};
};

// Signs one policy per phase and bank. The journal sees "PCR policy of <subject> phase '<phase>'", with
// " bank sha384" or " with what lies beside it" where it is that.
// Errors: FAILED_PRECONDITION/KEY_MISMATCH for a key that is not RSA; the signer's own.
Result<PcrSignatures> SignPcrPolicies(std::span<const PhasePolicy> phases, std::string_view subject,
                                      Signer& signer);

// Byte for byte what systemd-measure prints.
std::string FormatPcrSignatures(const PcrSignatures& signatures);

// Bounded (256 KiB, 8 banks, 1024 entries); unknown members are skipped, as systemd does; a terminating NUL
// and white space may follow. Errors: INVALID_ARGUMENT/PCR_SIGNATURE_MALFORMED.
Result<PcrSignatures> ParsePcrSignatures(std::string_view text);

// Evidence that a TPM whose PCR 11 holds a value will accept a session for a secret sealed to `key`.
struct VerifiedPcrPolicy {
  Sha256Digest policy;
  Sha256Digest key_id;
};

// Looks for an entry of the SHA-256 bank that is for PCR 11 alone, for `key`, and for the policy of `pcr11`,
// and checks its signature. Errors: NOT_FOUND/PCR_SIGNATURE_MISSING; UNAUTHENTICATED/SIGNATURE_INVALID.
Result<VerifiedPcrPolicy> VerifyPcrPolicy(const PcrSignatures& signatures, const PublicKey& key,
                                          const Sha256Digest& pcr11);

// Whether an entry is signed by `key` and carries its fingerprint. For banks other than sha256 a signature by
// the bank's own hash is taken too, as systemd 252 to 257 write them, although no systemd verifies those.
// Errors: UNAUTHENTICATED/SIGNATURE_INVALID; FAILED_PRECONDITION/KEY_MISMATCH for a key that is not RSA.
Status CheckPcrSignature(std::string_view bank, const PcrSignature& entry, const PublicKey& key);

}  // namespace sealift::uki
