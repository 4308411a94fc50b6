// Secrets that this machine's TPM gives back only to the software it was sealed for.
//
// A seam of plain values; EsysVault (esys_tpm.h) stands behind it. Thread-safe, as Tpm. A sealed object is
// a KEYEDHASH under the owner's storage key, with a policy and no password:
//   PolicyAuthorize(policy key, over PCRs that move with each image) and then PolicyPCR(those that may not).
// Such a policy is public, so anybody can seal a secret of his own to it. Hence an object carries what the
// TPM says of its making (TPM 2.0 part 1, 28.3: creation data and ticket), and Unseal believes neither
// without asking the TPM.
//
// Errors everywhere: UNAVAILABLE/TPM_UNAVAILABLE, FAILED_PRECONDITION/TPM_COMMAND_FAILED with the TPM's own
// code.
#pragma once

#include <cstdint>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/secret.h"
#include "shared/base/status.h"
#include "shared/crypto/public_key.h"
#include "shared/tpm/quote.h"

namespace sealift::agent {

// Register whose value at the making of an object is recorded: the state of Secure Boot.
inline constexpr std::uint32_t kSecureBootPcr = 7;
inline constexpr std::size_t kMaxSealedBytes = 128;

struct SealPolicy {
  // RSA; signs what the registers `signed_pcrs` hold, for each image anew (.pcrsig).
  PublicKey policy_key;
  // Ascending. {11}, or {11, 12, 13} where the images' signatures cover what came beside them, too.
  std::vector<std::uint32_t> signed_pcrs;
  // Values that no signature changes; PCR 7 unless somebody asked to leave it out.
  tpm::PcrValues literal;
};

// All of it public. Foreign bytes when read from a disk.
struct SealedObject {
  // TPM2B_PUBLIC, TPM2B_PRIVATE.
  Bytes public_area;
  Bytes private_area;
  // TPMS_CREATION_DATA and TPMT_TK_CREATION.
  Bytes creation_data;
  Bytes creation_ticket;
};

// The registers' policy as an image brings it: an entry of .pcrsig.
struct SignedPcrs {
  // TPM2_PolicyPCR of a fresh session over `signed_pcrs`.
  Sha256Digest policy;
  // RSASSA-PKCS1-v1_5 with SHA-256 over `policy`.
  Bytes signature;
};

struct Unsealed {
  SecretBytes secret;
  // PCR 7 when the object was made, by this TPM (the digest of its value: SHA-256 of the 32 bytes).
  Sha256Digest made_at;
};

class TpmVault {
 public:
  virtual ~TpmVault() = default;

  // SHA-256 bank.
  virtual Result<tpm::PcrValues> ReadPcrs(std::span<const std::uint32_t> pcrs) = 0;
  // Seals at most kMaxSealedBytes to `policy`. PCR 7 as it is now becomes part of the creation data, under
  // the label `purpose` (outside info, at most 32 bytes).
  virtual Result<SealedObject> Seal(const SecretBytes& secret, const SealPolicy& policy,
                                    std::string_view purpose) = 0;
  // Gives the secret when the TPM made the object for `purpose`, its policy is exactly `policy`, the
  // registers hold what `approval` approves and what `policy` names. The secret does not cross the bus in
  // clear text. Errors: INVALID_ARGUMENT/VOLUME_FOREIGN: another TPM's object, another policy or purpose, or
  // a ticket the TPM did not give; FAILED_PRECONDITION/VOLUME_LOCKED: registers or signature do not satisfy
  // the policy, naming the first register that differs where it can be told.
  virtual Result<Unsealed> Unseal(const SealedObject& object, const SealPolicy& policy,
                                  const SignedPcrs& approval, std::string_view purpose) = 0;
};

// The policy digest that objects of this policy carry, computed in software.
Result<Sha256Digest> SealPolicyDigest(const SealPolicy& policy);

}  // namespace sealift::agent
