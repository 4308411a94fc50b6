// What one bootable image of a release will be measured as, so that a release may carry several: the main one
// and one for each further command line or profile.
//
// Plain values. The text form is a member of the release manifest's "images".
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/crypto/sha384.h"

namespace sealift {

// PCR 11 (SHA-256 bank) once the phase words, colon-separated, were extended: "", "sysinit", "sysinit:ready".
struct PhasePrediction {
  std::string phase;
  Sha256Digest pcr11;
};

// What PCR 4 is extended with after the boot option and the separator, as Authenticode digests in this order.
struct StartedImages {
  Sha256Digest boot_loader;
  Sha256Digest uki;
  // The kernel inside, where the stub hands it to the firmware to start (252 to 257). Firmware measures it
  // while Secure Boot is off; some, which lacks EFI_SECURITY2_ARCH_PROTOCOL, always.
  std::optional<Sha256Digest> kernel;
};

// One event of PCR 12 or 13: a command line that the boot entry passes, an addon, a profile number; the
// system extensions beside the image.
struct ParameterEvent {
  std::string description;
  Sha256Digest digest;
};

struct ImageMeasurements {
  // The manifest's file with role "uki".
  std::string path;
  // Of a multi-profile image, the number of the profile; several entries then have one path.
  std::uint32_t profile = 0;
  // As the signed image carries it.
  std::string command_line;
  // SHA-256 over the bytes of each measured section, by name with its dot.
  std::map<std::string, Sha256Digest> sections;
  // In the order the OS passes them; the last one is what a running node shows.
  std::vector<PhasePrediction> pcr11;
  // The SHA-384 bank's PCR 11 by phase; empty unless the build was asked for it.
  std::map<std::string, Sha384Digest> pcr11_sha384;
  StartedImages pcr4;
  // In order; none: PCR 12 stays zero.
  std::vector<ParameterEvent> pcr12;
  // The same of PCR 13.
  std::vector<ParameterEvent> pcr13;
};

}  // namespace sealift
