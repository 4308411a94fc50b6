// Makes a signed system or configuration extension of a folder: a squashfs, its verity hashes and a signature
// by the `extensions` key, in one image that systemd-dissect reads (docs/extensions.md).
//
// Debian 12's systemd-repart cannot make one, so mksquashfs, veritysetup and sfdisk make the parts. Equal
// folders, versions and times give equal bytes up to the signature, which ECDSA randomises. Nothing of the
// folder is executed. Thread-safe over different output files; the signer is borrowed.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "shared/base/clock.h"
#include "shared/crypto/signer.h"
#include "shared/release/extension_list.h"

namespace sealift::extension {

struct ExtensionOptions {
  ExtensionKind kind = ExtensionKind::kSystem;
  // Holds usr/ and opt/ and nothing else; of a configuration extension etc/.
  std::filesystem::path source;
  std::string name;
  std::string version;
  // What it may be laid over. Empty: the folder has its own extension-release file, which says so.
  std::string os_id;
  std::string os_version_id;
  // The image; not overwritten.
  std::filesystem::path out;
  // Of every file in it.
  UnixMillis built;
};

// Writes the image whole or not at all, and returns what a list says of it. Errors: INVALID_ARGUMENT or
// FAILED_PRECONDITION with EXTENSION_INVALID: names, a folder with other things, an os-release that an
// extension may not have, no extension-release; OUTPUT_NOT_EMPTY; TOOL_MISSING, TOOL_FAILED; FILE_UNREADABLE,
// FILE_UNWRITABLE, DISK_FULL; those of BuildSignedData.
Result<ListedExtension> BuildExtension(const ExtensionOptions& options, Signer& signer,
                                       ByteView certificate_der);

// What a list says of an image that lies in a file, as its signature and its own extension-release have it.
// Errors: those of ExtensionImage; FAILED_PRECONDITION/EXTENSION_INVALID without an extension-release of its
// name; TOOL_MISSING, TOOL_FAILED.
Result<ListedExtension> DescribeExtension(const std::filesystem::path& image,
                                          std::span<const Bytes> certificates);

}  // namespace sealift::extension
