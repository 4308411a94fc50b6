// Writes a signed unified kernel image in one pass: each byte is read once and hashed while it is copied; the
// signature and the two header fields that speak of it are put in place afterwards.
//
// Thread-safe functions, but two calls must not write one place. Memory stays below a megabyte, whatever the
// image's size, where contents and output are files.
#pragma once

#include <filesystem>
#include <string>

#include "shared/crypto/signer.h"
#include "shared/efi/authenticode.h"
#include "shared/uki/uki_layout.h"

namespace sealift::uki {

struct ImageSigner {
  Signer* signer = nullptr;
  // DER.
  ByteView certificate;
  // What the journal sees.
  std::string intent;
};

struct WrittenImage {
  // Authenticode: what the signature covers and PCR 4 measures.
  Sha256Digest digest;
  std::uint64_t size = 0;
};

// Replaces `path`, which appears whole, signed and flushed to disk, or not at all; mode 0644. Errors:
// UNAVAILABLE with FILE_UNWRITABLE or DISK_FULL; FILE_UNREADABLE for contents; INVALID_ARGUMENT with
// UKI_LAYOUT_INVALID when the signature would end beyond 4 GiB; those of BuildImageSignature.
Result<WrittenImage> WriteUkiFile(const UkiLayout& layout, const ImageSigner& signer,
                                  const std::filesystem::path& path);

// The same bytes in memory. Errors: as above.
Result<efi::SignedImage> WriteUki(const UkiLayout& layout, const ImageSigner& signer);

}  // namespace sealift::uki
