// An agent that starts anew on an ESP, without its daemon: what it would do next about one release.
//
//   e2e_stage ESP EFIVARS RUNTIME RUNNING_VERSION RELEASE
//
// ESP, EFIVARS: folders as the kernel would mount them. RELEASE: the OUT of `sealift build-uki`. Where its
// version runs the trial is ended and what is of no use removed; otherwise it is found staged, or staged, and
// armed with three tries. Prints what it did; exit code 0 when all of it worked.
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "node-agent/esp/esp_stager.h"
#include "node-agent/update/seams.h"
#include "shared/base/files.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

Status Run(char** arguments) {
  PosixFileSystem esp(arguments[1]);
  EfivarfsVariables variables{std::filesystem::path(arguments[2])};
  EspStager stager(&esp, &variables,
                   {.running_version = arguments[4], .boot_id = "e2e", .runtime_directory = arguments[3]});
  const std::filesystem::path tree = arguments[5];
  SEALIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(tree / "release.json", 1u << 20));
  SEALIFT_ASSIGN_OR_RETURN(const Manifest manifest, ParseManifest(text));
  SEALIFT_ASSIGN_OR_RETURN(const ReleaseFile image, manifest.OnlyFile(FileRole::kUki));
  SEALIFT_ASSIGN_OR_RETURN(const BootInventory now, stager.Inspect());
  if (now.running_version == manifest.version) {
    if (now.running_on_trial) SEALIFT_RETURN_IF_ERROR(stager.Bless());
    SEALIFT_RETURN_IF_ERROR(stager.CollectGarbage().status());
    std::puts("blessed");
    return OkStatus();
  }
  ImageExpectations expected{.version = manifest.version,
                             .digest = image.digest,
                             .size = image.size,
                             .authenticode = image.authenticode,
                             .allowed_pcr_keys = manifest.pcr_keys};
  SEALIFT_ASSIGN_OR_RETURN(expected.companions, CompanionsOf(manifest, image));
  auto staged = stager.FindStaged(expected);
  const bool found = staged.ok();
  if (!found) {
    if (ReasonOf(staged.status()) != Reason::kImageNotStaged) return staged.status();
    LocalImage local{.file = tree / image.path};
    for (const Companion& one : expected.companions)
      local.companions.push_back(tree / (image.path + std::string(kCompanionSuffix)) / one.name);
    SEALIFT_ASSIGN_OR_RETURN(const VerifiedImage verified, stager.VerifyImage(local, expected));
    staged = stager.Stage(verified);
    SEALIFT_RETURN_IF_ERROR(staged.status());
  }
  SEALIFT_RETURN_IF_ERROR(stager.Activate(*staged, 3));
  std::puts(found ? "found and armed" : "staged and armed");
  return OkStatus();
}

}  // namespace
}  // namespace sealift::agent

int main(int argc, char** argv) {
  sealift::log::SetLevel(sealift::log::Level::kError);
  if (argc != 6) {
    std::fputs("usage: e2e_stage ESP EFIVARS RUNTIME RUNNING_VERSION RELEASE\n", stderr);
    return 2;
  }
  const sealift::Status status = sealift::agent::Run(argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "e2e_stage: %s\n", sealift::Describe(status).c_str());
  return 1;
}
