#include "controller/cli/remote_build.h"

#include <fmt/format.h>

#include "controller/cli/build_progress.h"
#include "hsm/key_ring.h"
#include "sealift/v1/build.grpc.pb.h"
#include "shared/crypto/key_reference.h"
#include "shared/wire/channel.h"
#include "shared/wire/grpc_status.h"

namespace sealift::cli {
namespace {

constexpr auto kLongestBuild = std::chrono::hours(24);

Result<std::shared_ptr<grpc::Channel>> Connect(const std::string& profile_path) {
  SEALIFT_ASSIGN_OR_RETURN(const wire::Profile profile,
                           wire::LoadProfile(profile_path.empty() ? wire::DefaultProfilePath()
                                                                  : std::filesystem::path(profile_path)));
  // The profile's key may be a reference to one in a token.
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  hsm::RegisterPkcs11Resolver();
  return wire::OpenChannel(profile);
}

build::Finding FindingOf(const v1::BuildFinding& wire) {
  return {.name = wire.name(),
          .severity = wire.severity() == "warning" ? build::Severity::kWarning : build::Severity::kError,
          .text = wire.text(),
          .allowed = wire.severity() == "allowed"};
}

// What arrives until the result.
struct Answer {
  std::vector<build::Finding> findings;
  std::vector<std::string> remarks;
  std::optional<v1::BuildResult> result;
};

void Take(const v1::BuildEvent& event, const build::Progress& progress, Answer& answer) {
  if (event.has_waiting() && progress) {
    progress(fmt::format("wait for {} other builds", event.waiting().ahead()), 0, 0);
  } else if (event.has_progress() && progress) {
    progress(event.progress().stage(), event.progress().done(), event.progress().total());
  } else if (event.has_finding()) {
    answer.findings.push_back(FindingOf(event.finding()));
  } else if (event.event_case() == v1::BuildEvent::kRemark) {
    answer.remarks.push_back(event.remark());
  } else if (event.has_result()) {
    answer.result = event.result();
  }
}

Result<ShownBuild> Shown(Answer answer) {
  const v1::BuildResult& result = *answer.result;
  ShownBuild shown{.type = result.output_type(), .path = result.path(), .build_id = result.build_id()};
  SEALIFT_ASSIGN_OR_RETURN(shown.built.manifest, ParseManifest(result.manifest()));
  shown.built.findings = std::move(answer.findings);
  shown.built.remarks = std::move(answer.remarks);
  shown.built.packages = result.packages();
  shown.built.initrd_bytes = result.initrd_bytes();
  shown.built.unpacked_bytes = result.unpacked_bytes();
  shown.built.frames = result.frames();
  if (result.has_published()) shown.published = result.published();
  return shown;
}

}  // namespace

Status BuildAtController(Session& session, const BuildArguments& arguments) {
  SEALIFT_RETURN_IF_ERROR(controller::CheckBuildRequest(arguments.request));
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, Connect(arguments.profile));
  const auto stub = v1::BuildService::NewStub(channel);
  const auto context = wire::MakeContext(kLongestBuild);
  const auto stream = stub->Build(context.get(), ToWire(arguments.request));
  const build::Progress progress = ShowBuildProgress(session);
  Answer answer;
  v1::BuildEvent event;
  while (stream->Read(&event)) Take(event, progress, answer);
  const grpc::Status status = stream->Finish();
  if (progress) progress({}, 0, 0);
  SEALIFT_RETURN_IF_ERROR(StatusFromGrpc(status));
  if (!answer.result.has_value()) {
    return MakeError(Code::kUnavailable, Reason::kMalformed,
                     "build at the controller: it ended the call without a result");
  }
  if (arguments.request.preflight_only) {
    PrintPreflight(session, answer.findings);
    return OkStatus();
  }
  SEALIFT_ASSIGN_OR_RETURN(const ShownBuild shown, Shown(std::move(answer)));
  PrintBuild(session, shown);
  return OkStatus();
}

}  // namespace sealift::cli
