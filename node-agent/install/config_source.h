// Where an install configuration comes from, and why it is believed.
//
// From the running image, which firmware verified and the TPM measured; or from a folder (the medium, or one
// that a technician names) with a signature beside it by a key that the image names. Anything else is not
// read. Functions over files, thread-safe.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "shared/base/bytes.h"
#include "shared/crypto/public_key.h"
#include "shared/install/install_config.h"

namespace sealift::agent {

inline constexpr std::string_view kImageInstallConfig = "/usr/lib/sealift/install.yaml";

struct TrustedConfig {
  InstallConfig config;
  // The file, and its SHA-256, which goes into the install record.
  std::string text;
  Sha256Digest digest;
  // "image", or "medium, signed by <key id>".
  std::string source;
};

struct ConfigPlaces {
  std::filesystem::path image = kImageInstallConfig;
  // install.yaml and install.yaml.sig of the medium; empty where there is none.
  std::filesystem::path medium;
  // A file that is named on the command line; its signature is FILE.sig.
  std::filesystem::path named;
};

// The named one, else the medium's, else the image's. One that is there and not signed well is an error,
// never a reason to take the next. Errors: UNAUTHENTICATED/INSTALL_CONFIG_UNSIGNED;
// INVALID_ARGUMENT/INSTALL_CONFIG_INVALID; NOT_FOUND/FILE_UNREADABLE where there is none at all.
Result<TrustedConfig> LoadTrustedConfig(const ConfigPlaces& places, std::span<const PublicKey> keys);

// For --dry-run, which does nothing: whoever wrote it. Errors: INSTALL_CONFIG_INVALID; those of ReadTextFile.
Result<TrustedConfig> LoadAnyConfig(const std::filesystem::path& file);

}  // namespace sealift::agent
