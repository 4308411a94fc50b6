// From parts to a signed unified kernel image whose measurements are known.
//
// Thread-safe functions over plain values; signers are borrowed for the call.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/crypto/signer.h"
#include "shared/efi/authenticode.h"
#include "shared/release/manifest.h"

namespace sealift::build {

// What a whole OS passes: nothing, sysinit, ready. The last is what a running node shows.
inline constexpr std::string_view kPhases[] = {"", "sysinit", "sysinit:ready"};

struct UkiParts {
  ByteView stub;
  ByteView kernel;
  ByteView initrd;
  std::string os_release;
  // One line, without line end.
  std::string command_line;
  // For the journal: "EFI/kairos/norole.efi 1.2.0".
  std::string subject;
  // Phases whose policy is signed: a TPM unseals in these only.
  std::vector<std::string> signed_phases = {""};
};

struct UkiKeys {
  Signer* secure_boot = nullptr;
  ByteView secure_boot_certificate;
  Signer* pcr = nullptr;
};

struct BuiltUki {
  efi::SignedImage image;
  // "252.39-1~deb12u2".
  std::string stub_version;
  std::map<std::string, Sha256Digest> sections;
  // One per kPhases.
  std::vector<PhasePrediction> pcr11;
};

// The same parts and keys give the same bytes. Hashes every measured byte once for PCR 11 and once for
// Authenticode.
// Errors: INVALID_ARGUMENT for a command line of several lines or above 2048 characters, or a phase beyond
// kPhases; those of ReadSystemdMagic, AssembleUki, SignPcrPolicies, SignImage.
Result<BuiltUki> BuildUki(const UkiParts& parts, const UkiKeys& keys);

}  // namespace sealift::build
