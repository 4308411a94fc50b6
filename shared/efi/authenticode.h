// Authenticode: the digest of a PE image, its signature, and the decision that firmware makes about it
// (UEFI 2.10 section 32.5.3).
//
// Thread-safe functions over plain values. Only SHA-256 exists here.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "shared/crypto/signer.h"
#include "shared/efi/pe_image.h"
#include "shared/efi/signature_list.h"

namespace sealift::efi {

// What signatures cover and PCR 4 measures: the file without checksum, security directory entry and
// certificate table. An unsigned image whose length is not a multiple of 8 is hashed with the zeros that
// signing will add; firmware measures such a file without them, so do not let one be measured.
Sha256Digest AuthenticodeDigest(const PeImage& image);

// A stretch of a file.
struct FileRange {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  bool operator==(const FileRange&) const = default;
};

// What the digest covers, in its order, without the padding: for hashing with another algorithm, or an image
// that is not in memory.
std::vector<FileRange> AuthenticodeRanges(const PeImage& image);

// One signature, ready for the certificate table: a WIN_CERTIFICATE padded with zeros to a multiple of 8.
// Errors: those of BuildSignedData.
Result<Bytes> BuildImageSignature(const Sha256Digest& digest, Signer& signer, ByteView certificate_der,
                                  std::string intent);

struct SignedImage {
  Bytes bytes;
  Sha256Digest digest;
};

// Appends a signature (and padding to 8 before it), keeps earlier ones, sets the checksum. The output depends
// on input, key and certificate only. The journal sees `intent`.
// Errors: those of PeImage::Parse and BuildSignedData; INVALID_ARGUMENT/IMAGE_MALFORMED above 4 GiB.
Result<SignedImage> SignImage(Bytes image, Signer& signer, ByteView certificate_der, std::string intent);

// Evidence that firmware with this db and dbx starts the image.
struct AuthorisedImage {
  Sha256Digest digest;
  // The entry of db that let it pass, which PCR 7 records: a certificate, or the image's own digest.
  Guid authority_type;
  SignatureEntry authority;
  // DER of the certificate that signed; empty when the digest itself is in db.
  Bytes signer_certificate;
};

// Decides as firmware does; a little stricter where firmwares differ: a revoked certificate anywhere in a
// valid signature refuses the image at once, revocation times are not looked at, and signatures that are not
// SHA-256 count as invalid. Errors: INVALID_ARGUMENT with IMAGE_MALFORMED or IMAGE_TRUNCATED; UNAUTHENTICATED
// with IMAGE_UNSIGNED (no signature at all), IMAGE_SIGNATURE_INVALID (none fits the image),
// IMAGE_SIGNER_UNKNOWN (fits, but db does not vouch for the signer), IMAGE_REVOKED (digest or certificate in
// dbx).
Result<AuthorisedImage> VerifyImage(ByteView image, std::span<const SignatureList> db,
                                    std::span<const SignatureList> dbx);

}  // namespace sealift::efi
