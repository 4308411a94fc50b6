// `sealift build-uki`: a root file system in, a signed release out.
#include <memory>

#include "controller/buildhost/build_job.h"
#include "controller/buildhost/node_trust.h"
#include "controller/cli/build_options.h"
#include "controller/cli/build_progress.h"
#include "controller/cli/build_report.h"
#include "controller/cli/build_time.h"
#include "controller/cli/key_material.h"
#include "controller/cli/remote_build.h"
#include "controller/cli/verbs.h"
#include "hsm/key_ring.h"
#include "shared/base/files.h"

namespace sealift::cli {
namespace {

// The ring holds the sessions.
struct OpenKeys {
  std::unique_ptr<hsm::KeyRing> ring;
  controller::BuildKeys keys;
};

Result<OpenKeys> OpenKeySet(const BuildArguments& arguments) {
  OpenKeys open;
  SEALIFT_ASSIGN_OR_RETURN(open.ring, hsm::KeyRing::Open(arguments.keys_folder, arguments.tokens,
                                                         arguments.journal, arguments.generations));
  SEALIFT_RETURN_IF_ERROR(CheckCertificates(*open.ring, {"db"}, arguments.allow_expired));
  SEALIFT_ASSIGN_OR_RETURN(
      open.keys,
      controller::OpenBuildKeys(*open.ring, !arguments.request.release.extensions.empty(), /*on_behalf=*/{}));
  return open;
}

Status Build(Session& session, BuildArguments& arguments) {
  controller::BuildRequest& request = arguments.request;
  SEALIFT_ASSIGN_OR_RETURN(request.release.built, BuildTime());
  if (!arguments.install_config_file.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(request.release.install_config,
                             ReadTextFile(arguments.install_config_file, controller::kMaxNodeConfigBytes));
  }
  if (!arguments.node_config_file.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(request.release.node_config,
                             ReadTextFile(arguments.node_config_file, controller::kMaxNodeConfigBytes));
  }
  if (arguments.at_controller) return BuildAtController(session, arguments);
  if (request.preflight_only) {
    SEALIFT_ASSIGN_OR_RETURN(const std::vector<build::Finding> findings, controller::RunPreflight(request));
    PrintPreflight(session, findings);
    return OkStatus();
  }
  if (request.out.empty() || arguments.keys_folder.empty() || arguments.tokens.empty()) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "build release: --output-dir, --keys and --token are needed");
  }
  SEALIFT_RETURN_IF_ERROR(controller::CheckBuildRequest(request));
  SEALIFT_ASSIGN_OR_RETURN(const OpenKeys open, OpenKeySet(arguments));
  if (request.release.node_config) {
    SEALIFT_ASSIGN_OR_RETURN(
        request.release.node_config,
        controller::WithKeySetTrust(*std::move(request.release.node_config), *open.ring));
  }
  const build::Progress progress = ShowBuildProgress(session);
  const auto outcome = controller::RunBuild(request, open.keys, progress);
  if (progress) progress({}, 0, 0);
  if (!outcome.ok()) return outcome.status();
  PrintBuild(session, {.type = outcome->type, .path = outcome->path.string(), .built = outcome->built});
  return OkStatus();
}

}  // namespace

void AddBuildVerbs(CLI::App& app, Session& session) {
  const auto arguments = std::make_shared<BuildArguments>();
  CLI::App* verb =
      AddVerb(app, session, "build-uki", "Build a signed release from a root file system",
              "sealift build-uki dir:rootfs -t uki -d out/1.0 --keys keys --token "
              "release=pkcs11:token=release?pin-source=...\n"
              "  sealift build-uki dir:/srv/images/rootfs --at-controller -d 1.0 --publish stable",
              [&session, arguments] { return Build(session, *arguments); });
  AddBuildOptions(*verb, *arguments);
}

}  // namespace sealift::cli
