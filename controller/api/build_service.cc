#include "controller/api/build_service.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "shared/base/clock.h"
#include "shared/release/manifest.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

// A client that left, or a server that stops, is noticed after this.
constexpr auto kLookInterval = std::chrono::milliseconds(100);
constexpr auto kProgressInterval = std::chrono::milliseconds(200);

v1::BuildFinding ToWire(const build::Finding& finding) {
  v1::BuildFinding wire;
  wire.set_name(finding.name);
  wire.set_severity(std::string(SeverityName(finding)));
  wire.set_text(finding.text);
  return wire;
}

v1::BuildResult ToWire(const BuildReport& report) {
  v1::BuildResult wire;
  wire.set_build_id(report.id);
  wire.set_passed(report.passed);
  if (report.outcome.has_value()) {
    const build::BuiltRelease& built = report.outcome->built;
    const std::string manifest = SerializeManifest(built.manifest);
    wire.set_output_type(report.outcome->type);
    wire.set_path(report.outcome->path.string());
    wire.set_manifest(manifest);
    wire.set_release_id(wire::ToWire(ReleaseIdOf(manifest).digest));
    wire.set_initrd_bytes(built.initrd_bytes);
    wire.set_unpacked_bytes(built.unpacked_bytes);
    wire.set_frames(built.frames);
    wire.set_packages(built.packages);
  }
  if (report.published.has_value()) {
    v1::BuildResult::Published& published = *wire.mutable_published();
    published.set_channel(report.published->channel);
    published.set_release_id(wire::ToWire(report.published->id.digest));
    published.set_targets_version(report.published->versions.targets);
    published.set_snapshot_version(report.published->versions.snapshot);
    published.set_timestamp_version(report.published->versions.timestamp);
  }
  return wire;
}

// Stages at once, numbers of one stage now and then.
class ProgressWriter {
 public:
  explicit ProgressWriter(grpc::ServerWriter<v1::BuildEvent>& writer) : writer_(writer) {}
  void operator()(std::string_view stage, std::uint64_t done, std::uint64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (stage == stage_ && now - last_ < kProgressInterval) return;
    stage_ = stage;
    last_ = now;
    v1::BuildEvent event;
    event.mutable_progress()->set_stage(stage_);
    event.mutable_progress()->set_done(done);
    event.mutable_progress()->set_total(total);
    writer_.Write(event);
  }

 private:
  grpc::ServerWriter<v1::BuildEvent>& writer_;
  std::string stage_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace

grpc::Status BuildServiceImpl::Build(grpc::ServerContext* context, const v1::BuildRequest* request,
                                     grpc::ServerWriter<v1::BuildEvent>* writer) {
  std::string build_id;
  const auto text = [&] {
    return fmt::format("build={} source={} type={} version={} publish={}", build_id, request->source(),
                       request->output_type(), request->version(), request->publish());
  };
  return runner_.Run(*context, "/sealift.v1.BuildService/Build", text, [&](const Caller& caller) {
    return Run(*request, caller, *context, *writer, build_id);
  });
}

Status BuildServiceImpl::Run(const v1::BuildRequest& wire, const Caller& caller, grpc::ServerContext& context,
                             grpc::ServerWriter<v1::BuildEvent>& writer, std::string& build_id) {
  if (host_ == nullptr) {
    return MakeError(Code::kFailedPrecondition, Reason::kBuildNotOffered,
                     "build release: this controller has no release token");
  }
  SEALIFT_ASSIGN_OR_RETURN(BuildRequest request, BuildRequestFromWire(wire));
  // gRPC tells a synchronous handler that waits for nothing of a client that left only when asked.
  std::stop_source called_off;
  const std::jthread watch([&](const std::stop_token& done) {
    SystemClock clock;
    while (!context.IsCancelled() && !stop_.stop_requested())
      if (!clock.SleepFor(kLookInterval, done)) return;
    called_off.request_stop();
  });
  const BuildEvents events{.waiting =
                               [&](std::size_t ahead) {
                                 v1::BuildEvent event;
                                 event.mutable_waiting()->set_ahead(static_cast<std::uint32_t>(ahead));
                                 writer.Write(event);
                               },
                           .progress = ProgressWriter(writer)};
  build_id = MakeBuildId(SystemClock());
  SEALIFT_ASSIGN_OR_RETURN(
      const BuildReport report,
      host_->Build(build_id, std::move(request), caller.operator_name, events, called_off.get_token()));
  v1::BuildEvent event;
  for (const build::Finding& finding : report.findings) {
    *event.mutable_finding() = ToWire(finding);
    writer.Write(event);
  }
  if (report.outcome.has_value()) {
    for (const std::string& remark : report.outcome->built.remarks) {
      event.set_remark(remark);
      writer.Write(event);
    }
  }
  *event.mutable_result() = ToWire(report);
  writer.Write(event);
  return OkStatus();
}

}  // namespace sealift::controller
