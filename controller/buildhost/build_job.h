// A build from request to result: keys, builder, medium. What `sealift build-uki` and the build service
// share.
//
// Not thread-safe.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "controller/buildhost/build_request.h"
#include "hsm/key_ring.h"

namespace sealift::controller {

// Signers and public files of a key set. The signers hold their sessions.
struct BuildKeys {
  // Whose PK.auth, KEK.auth, db.auth and, on media, other files go with the release.
  std::filesystem::path folder;
  std::shared_ptr<Signer> db;
  std::shared_ptr<Signer> pcr;
  // Borrows both.
  build::ReleaseKeys release;
};

// `with_extensions`: certificates of the extensions key are needed. `on_behalf`: goes behind every record of
// the signing journal, as in "authenticode EFI/kairos/norole.efi 1.2.0 for anna, build 0190..."; empty:
// nothing. Errors: those of hsm::KeyRing; FILE_UNREADABLE for a file of the set.
Result<BuildKeys> OpenBuildKeys(hsm::KeyRing& ring, bool with_extensions, const std::string& on_behalf);
// `signer` with that text behind each record; `signer` itself where it is empty.
std::shared_ptr<Signer> OnBehalf(std::shared_ptr<Signer> signer, const std::string& on_behalf);

struct BuildOutcome {
  std::string type;
  // The folder of a release tree, or the file of a medium.
  std::filesystem::path path;
  build::BuiltRelease built;
};

// `request.out` is the folder: the tree itself, or where the medium's file goes. Appears whole or not at all.
// Errors: those of CheckBuildRequest, CheckMediumOptions, build::BuildRelease and MakeMedium.
Result<BuildOutcome> RunBuild(const BuildRequest& request, const BuildKeys& keys,
                              const build::Progress& progress);
// The findings, without keys. Errors: those of CheckBuildRequest and build::CheckRelease.
Result<std::vector<build::Finding>> RunPreflight(const BuildRequest& request);
// None of them stops a build.
bool MayBeBuilt(const std::vector<build::Finding>& findings);
// "error", "warning", "allowed".
std::string_view SeverityName(const build::Finding& finding);

}  // namespace sealift::controller
