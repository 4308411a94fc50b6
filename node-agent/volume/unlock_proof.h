// Will it unlock? Proves, before an image is armed, that it opens this machine's volumes.
//
// Computed from the image's own bytes and this machine's event log, not from what the release says of itself.
// Thread-safe, pure.
#pragma once

#include <optional>
#include <vector>

#include "node-agent/volume/volume_keeper.h"
#include "shared/tpm/event_log.h"

namespace sealift::agent {

// What the firmware's variables hold now, which is what the next boot measures; empty where there is none.
struct SecureBootNow {
  Bytes pk;
  Bytes kek;
  Bytes db;
  Bytes dbx;
};

// PCR 7 of the next boot: the log of this one with the variables of now in the place of those of then.
// `signer`: SHA-256 of the entry of db (a certificate's DER) that lets the next image pass; it must be one
// that let something pass in this boot, else the next boot measures another authority.
// Errors: FAILED_PRECONDITION/VOLUME_WOULD_STAY_LOCKED for another signer; when the log does not lead to
// `pcr7`, and so cannot be believed.
Result<Sha256Digest> PredictNextSecureBoot(const tpm::EventLog& log, const Sha256Digest& pcr7,
                                           const SecureBootNow& now, const Sha256Digest& signer);

// What the next boot's registers will be beside what the image itself decides.
struct NextBoot {
  // PCR 12 and 13 for the image's options and extensions; zeros where it has none.
  Sha256Digest pcr12;
  Sha256Digest pcr13;
  Sha256Digest pcr7;
};

// Evidence that VerifyWillUnlock succeeded.
struct UnlockProof {
  Sha256Digest pcr11;
  // What the TPM's session will hold before it is authorised.
  Sha256Digest policy;
};

// `image`: the UKI as staged. `volumes`: headers of every volume that must open.
// Errors: FAILED_PRECONDITION/VOLUME_WOULD_STAY_LOCKED naming volume and cause: another PCR policy key, no
// signature for these registers before sysinit, a signature that does not verify, another PCR 7; those of
// PeImage::Parse, ReadSystemdMagic, ParsePcrSignatures.
Result<UnlockProof> VerifyWillUnlock(ByteView image, const NextBoot& next,
                                     const std::vector<VolumeHeader>& volumes);

}  // namespace sealift::agent
