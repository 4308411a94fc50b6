// One WIN_CERTIFICATE: an entry of a PE image's certificate table, or a signature on its own (UEFI 2.10
// section 32.2.4). Read to be looked at; nothing is verified here.
//
// Plain values; thread-safe function over foreign bytes.
#pragma once

#include <string>
#include <vector>

#include "shared/base/bytes.h"

namespace sealift::efi {

enum class WinCertificateType { kAuthenticode, kPkcs7Guid };
// "authenticode", "pkcs7-guid".
std::string_view WinCertificateTypeName(WinCertificateType type);

struct WinCertificate {
  WinCertificateType type = WinCertificateType::kAuthenticode;
  // DER of every certificate inside.
  std::vector<Bytes> certificates;
  // Authenticode only: the image digest that the signature speaks of, and its algorithm: "sha1", "sha256",
  // "sha384", "sha512", or the OID's text.
  std::string digest_algorithm;
  Bytes digest;
};

// The PKCS#7 entries of an image's certificate table, each whole with its header of
// kWinCertificateHeaderBytes. Entries of other types are passed over, as firmware does; those of an unknown
// revision are not, and whoever checks them refuses them. The result borrows the table. Errors:
// INVALID_ARGUMENT/IMAGE_MALFORMED: lengths that do not fit, or more than 16 signatures.
inline constexpr std::size_t kWinCertificateHeaderBytes = 8;
Result<std::vector<ByteView>> ImageCertificates(ByteView table);

// Exactly one certificate; up to seven zero bytes may follow it, as in a table of entries padded to eight.
// Errors: INVALID_ARGUMENT/MALFORMED.
Result<WinCertificate> ParseWinCertificate(ByteView bytes);

}  // namespace sealift::efi
