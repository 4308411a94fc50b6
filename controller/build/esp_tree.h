// The release as files: what lies on an install medium's EFI system partition, and release.json beside it.
//
// Thread-safe over plain values, but two calls must not write the same folder.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "controller/build/uki_builder.h"
#include "shared/efi/boot_entry.h"

namespace sealift::build {

inline constexpr char kBootLoaderFile[] = "EFI/BOOT/BOOTX64.EFI";
inline constexpr char kUkiFile[] = "EFI/kairos/norole.efi";
inline constexpr char kManifestFile[] = "release.json";
// Beside the manifest, not on any ESP.
inline constexpr char kFrameIndexFile[] = "frames.json";

struct EspContents {
  std::string version;
  // In the boot menu.
  std::string title;
  UnixMillis built;
  efi::SignedImage boot_loader;
  BuiltUki uki;
  efi::LoaderConf loader_conf;
  // PK.auth, KEK.auth and db.auth; all or none.
  Bytes pk_auth;
  Bytes kek_auth;
  Bytes db_auth;
  Bytes dbx_auth;
  // Of the image's initrd: content::SerializeFrameIndex.
  std::string frame_index;
  // DER.
  Bytes secure_boot_certificate;
  // Of every PCR key generation the release accepts.
  std::vector<Sha256Digest> pcr_keys;
};

// Writes the files and, last, release.json: a folder without it is no release. Returns the manifest; its
// channel is empty until the release is published. Errors: FAILED_PRECONDITION/OUTPUT_NOT_EMPTY for a folder
// with other things in it; FILE_UNWRITABLE.
Result<Manifest> WriteEspTree(const std::filesystem::path& out, const EspContents& contents);

// Whether `out` may be written to. Called before the long work starts. Errors: as above.
Status CheckOutputFolder(const std::filesystem::path& out);

}  // namespace sealift::build
