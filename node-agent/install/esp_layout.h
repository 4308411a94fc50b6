// The release on the medium, and the first EFI system partition of a machine made of it.
//
// Nothing on a medium is believed: images and boot loader must be signed for this firmware's db, be of the
// version that runs, and carry the PCR policy key of the running image. What lies beside them is checked at
// each boot. Not thread-safe.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "node-agent/esp/efi_variables.h"
#include "node-agent/esp/file_system.h"
#include "node-agent/install/install_plan.h"
#include "shared/crypto/public_key.h"
#include "shared/release/manifest.h"

namespace sealift::agent {

struct MediumRelease {
  std::filesystem::path root;
  Manifest manifest;
  ReleaseFile image;
  ReleaseFile boot_loader;
  // System extensions that lie beside the image.
  std::vector<ReleaseFile> extensions;
  // Of the medium's main entry.
  std::string title;
  // How long its boot menu shows.
  std::uint32_t menu_seconds = 5;
  ReleaseSizes sizes;
};

// Reads release.json and finds the files it names. Errors: FAILED_PRECONDITION/MEDIUM_UNUSABLE.
Result<MediumRelease> ReadMediumRelease(const std::filesystem::path& root);

struct RunningSystem {
  // Of os-release.
  std::string version;
  // .pcrpkey, as the stub left it.
  PublicKey pcr_key;
};

// Reads every file that will go to the ESP whole. Errors: FAILED_PRECONDITION/MEDIUM_UNUSABLE: a file is
// missing or not what the manifest says, or the release is not the running one; IMAGE_* as
// Stager::VerifyImage.
Status VerifyMediumRelease(const MediumRelease& release, EfiVariables& variables,
                           const RunningSystem& running);

// Fills an empty ESP: boot loader twice, loader.conf without `default`, the image once under its name, and
// last the entries active, passive and recovery, which all name it. Each file is synced, read back and
// compared. Errors: RESOURCE_EXHAUSTED/ESP_FULL; UNAVAILABLE/ESP_IO; DATA_LOSS/ESP_READBACK_MISMATCH;
// MEDIUM_UNUSABLE when the medium gives other bytes than it did, or none.
Status FillEsp(const MediumRelease& release, FileSystem& esp);

}  // namespace sealift::agent
