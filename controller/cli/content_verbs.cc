// sealift content collect: the controller's content store.
#include <fmt/format.h>

#include <memory>

#include "controller/cli/fleet_call.h"
#include "controller/cli/fleet_verbs.h"
#include "controller/cli/words.h"
#include "sealift/v1/content.grpc.pb.h"

namespace sealift::cli {
namespace {

struct Arguments {
  std::string profile;
  bool dry_run = false;
};

Status Collect(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::CollectRequest request;
  request.set_dry_run(arguments.dry_run);
  v1::CollectResponse response;
  // It reads every content list and looks at every object.
  const auto context = wire::MakeContext(std::chrono::minutes(30));
  const grpc::Status status =
      v1::ContentService::NewStub(client.channel())->Collect(context.get(), request, &response);
  if (!status.ok()) return StatusFromGrpc(status);
  if (session.json()) {
    PrintJson({{"objects", response.objects()},
               {"bytes", response.bytes()},
               {"kept", response.kept()},
               {"dry_run", arguments.dry_run}});
  } else {
    Print(fmt::format("{} {} objects, {:.1f} MiB; {} unused ones stay for now\n",
                      arguments.dry_run ? "would remove" : "removed", response.objects(),
                      static_cast<double>(response.bytes()) / (1u << 20), response.kept()));
  }
  return OkStatus();
}

}  // namespace

void AddContentVerbs(CLI::App& app, Session& session) {
  CLI::App* content = app.add_subcommand("content", "The controller's content store");
  content->require_subcommand(1);
  const auto arguments = std::make_shared<Arguments>();
  AddCall<Arguments>(
      *content, session, "collect",
      "Remove content that no published release refers to; the controller does so daily by itself",
      "sealift content collect --dry-run", arguments, Collect)
      ->add_flag("--dry-run", arguments->dry_run, "only say how much would go");
}

}  // namespace sealift::cli
