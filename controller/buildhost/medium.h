// From a release tree to one file: an install ISO or a container archive.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "controller/build/release_builder.h"

namespace sealift::controller {

struct MediumOptions {
  // "iso" or "container".
  std::string type;
  // Without extension; empty: kairos_VERSION or kairos_uki_VERSION.
  std::string name;
  // Files for the root of the ISO; empty: none.
  std::filesystem::path overlay;
  // Whose .der, .esl and .auth files go onto an ISO.
  std::filesystem::path keys_folder;
  UnixMillis built;
};

// Files of a key set that an ISO has copies of, where the set has them: "keys/KEK.auth", ...
std::vector<std::string> KeyFileNames();

// Before the long work: names in the overlay. Errors: INVALID_ARGUMENT, FILE_NAME_CLASH.
Status CheckMediumOptions(const MediumOptions& options);

// Makes the medium of the release tree `folder`/tree and puts it into `folder` under the returned name.
// Errors: those of media::WriteInstallIso and WriteOciArchive.
Result<std::string> MakeMedium(const MediumOptions& options, const std::filesystem::path& folder,
                               const Manifest& manifest);

}  // namespace sealift::controller
