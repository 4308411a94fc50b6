// Files that hold Secure Boot keys as firmware setups, efivarfs and vendors write them.
//
// Thread-safe function over foreign bytes.
#pragma once

#include "shared/efi/signature_list.h"

namespace sealift::hsm {

// What kind of file it was: "certificate", "certificates (PEM)", "signature lists", "efivarfs dump",
// "authenticated variable", "empty".
struct FirmwareExport {
  std::string_view form;
  // Every entry, of whatever type, in its order. A bare certificate has the owner of all zeros: whoever reads
  // it.
  efi::SignatureLists lists;
};

// One DER certificate, PEM certificates, signature lists, signature lists behind four attribute bytes
// (efivarfs), or an authenticated variable, of which the content is taken and the signature left alone. The
// forms exclude each other; an empty file has no entries.
// Errors: INVALID_ARGUMENT/MALFORMED with what is wrong with the form that the first bytes announce.
Result<FirmwareExport> ParseFirmwareExport(ByteView bytes);

}  // namespace sealift::hsm
