// Verifies TPM2_Certify: the attestation key vouches that another key lives in the same TPM.
//
// Thread-safe, pure.
#pragma once

#include "shared/base/bytes.h"
#include "shared/tpm/structures.h"

namespace sealift::tpm {

class CertifiedKey;

// Accepts when `attest` (TPMS_ATTEST) carries `nonce`, names exactly `subject` (its Name is recomputed from
// the public area) and is signed by `attestation_key`, which must have passed CheckAttestationKey. Errors:
// INVALID_ARGUMENT with CERTIFY_MALFORMED (also: no certification), CERTIFY_NONCE_STALE,
// CERTIFY_NAME_MISMATCH; UNAUTHENTICATED/CERTIFY_SIGNATURE_INVALID.
Result<CertifiedKey> VerifyCertify(ByteView attest, ByteView signature, const PublicArea& attestation_key,
                                   ByteView nonce, const PublicArea& subject);

// Evidence that VerifyCertify succeeded: a key in the TPM of the attestation key, with these attributes.
class CertifiedKey {
 public:
  const PublicArea& area() const { return area_; }

 private:
  friend Result<CertifiedKey> VerifyCertify(ByteView, ByteView, const PublicArea&, ByteView,
                                            const PublicArea&);
  explicit CertifiedKey(PublicArea area) : area_(std::move(area)) {}
  PublicArea area_;
};

}  // namespace sealift::tpm
