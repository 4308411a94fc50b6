// Will it unlock? Proves, before an image is armed, that it opens this machine's volumes.
//
// Computed from the image's own bytes, not from what the release says of itself. Thread-safe, pure but for
// reading the file.
#pragma once

#include <filesystem>
#include <vector>

#include "node-agent/volume/volume_keeper.h"
#include "shared/uki/pcr_prediction.h"

namespace sealift::agent {

// What the next boot's registers will be beside what the image itself decides.
struct NextBoot {
  // PCR 12 and 13 for the image's options and extensions; zeros where it has none.
  Sha256Digest pcr12;
  Sha256Digest pcr13;
  // PCR 7: of now, unless the firmware's keys or the image's signer change.
  Sha256Digest pcr7;
};

// Evidence that VerifyWillUnlock succeeded.
struct UnlockProof {
  Sha256Digest pcr11;
  Sha256Digest policy;
};

// `image`: the UKI as staged. `volumes`: headers of every volume that must open.
// Errors, all FAILED_PRECONDITION/VOLUME_WOULD_STAY_LOCKED naming volume and cause: another PCR policy key,
// no signature for the phase before sysinit, a signature that does not verify, another PCR 7; those of
// PeImage::Parse.
Result<UnlockProof> VerifyWillUnlock(const std::filesystem::path& image, const NextBoot& next,
                                     const std::vector<VolumeHeader>& volumes);

}  // namespace sealift::agent
