// Microsoft's certificates for KEK and db: which there are, and finding them in what the custodian has at
// hand.
//
// This project ships none of them. Constants and functions over files; thread-safe.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/crypto/certificate.h"
#include "shared/efi/guid.h"

namespace sealift::hsm {

// Owner of Microsoft's entries in every machine's variables.
inline constexpr efi::Guid kMicrosoftOwner =
    efi::Guid::Make(0x77fa9abd, 0x0359, 0x4d32, {0xbd, 0x60, 0x28, 0xf4, 0xe7, 0x8f, 0x78, 0x4b});

struct MicrosoftCertificate {
  // What --microsoft-certs calls it: "uefi2011".
  std::string_view name;
  // "KEK" or "db".
  std::string_view variable;
  std::string_view common_name;
  // SHA-256 of the DER as Microsoft published it.
  std::string_view sha256;
  // Vouches for Windows, which our machines do not run: taken only by name.
  bool windows = false;
};
std::span<const MicrosoftCertificate> MicrosoftCertificates();

struct FoundMicrosoftCertificate {
  const MicrosoftCertificate* which = nullptr;
  Certificate certificate;
};

struct MicrosoftSelection {
  std::vector<FoundMicrosoftCertificate> found;
  // One line each: a known one that the source lacks, one under a known name but of another fingerprint, a
  // file that was passed over.
  std::vector<std::string> warnings;
};

// The source that Debian's ovmf package brings; empty when none is installed.
std::filesystem::path DefaultMicrosoftSource();

// `source`: a folder of certificates, signature lists and .auth files, or one variable store of OVMF.
// `names`: exactly these; empty: every one in the source that is not for Windows, at least one.
// Errors: INVALID_ARGUMENT for an unknown name; NOT_FOUND/VENDOR_CERTIFICATE_MISSING; FILE_UNREADABLE;
// INVALID_ARGUMENT/MALFORMED for a damaged variable store.
Result<MicrosoftSelection> SelectMicrosoftCertificates(const std::filesystem::path& source,
                                                       const std::vector<std::string>& names);

}  // namespace sealift::hsm
