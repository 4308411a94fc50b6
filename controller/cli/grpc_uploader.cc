#include "controller/cli/grpc_uploader.h"

#include <fmt/format.h>

#include "shared/wire/channel.h"
#include "shared/wire/convert.h"
#include "shared/wire/grpc_status.h"

namespace sealift::cli {
namespace {

constexpr std::size_t kPieceBytes = 256u << 10;
constexpr auto kObjectTimeout = std::chrono::hours(1);

std::chrono::milliseconds UploadTimeout(const std::vector<controller::UploadObject>& objects) {
  std::uint64_t bytes = 0;
  for (const controller::UploadObject& object : objects) bytes += object.size;
  return std::chrono::minutes(10) + std::chrono::seconds(bytes >> 20);
}

}  // namespace

GrpcUploader::GrpcUploader(const std::shared_ptr<grpc::ChannelInterface>& channel)
    : stub_(v1::FleetService::NewStub(channel)), content_stub_(v1::ContentService::NewStub(channel)) {}

Result<controller::UploadResult> GrpcUploader::Upload(const std::vector<controller::UploadObject>& objects,
                                                      const std::function<void(std::uint64_t)>& progress) {
  const auto context = wire::MakeContext(UploadTimeout(objects));
  v1::UploadContentResponse response;
  const auto stream = stub_->UploadContent(context.get(), &response);
  std::uint64_t sent = 0;
  // A refused write means that the other side ended the call; Finish tells why.
  bool open = true;
  Status local;
  for (const controller::UploadObject& object : objects) {
    v1::UploadContentRequest start;
    start.mutable_start()->set_digest(wire::ToWire(object.digest));
    start.mutable_start()->set_size(object.size);
    open = stream->Write(start);
    if (!open) break;
    local = ReadObject(object, kPieceBytes, [&](ByteView piece) -> Status {
      v1::UploadContentRequest data;
      data.set_data(piece.data(), piece.size());
      open = open && stream->Write(data);
      if (!open)
        return MakeError(Code::kUnavailable, Reason::kContentIncomplete, "the controller ended the upload");
      sent += piece.size();
      if (progress) progress(sent);
      return OkStatus();
    });
    if (!local.ok()) break;
  }
  if (!local.ok() && open) {
    context->TryCancel();
    static_cast<void>(stream->Finish());  // The local error is the one to tell.
    return local;
  }
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return Annotate(StatusFromGrpc(status), "upload content");
  SEALIFT_RETURN_IF_ERROR(local);
  return controller::UploadResult{.stored = response.objects_stored(), .known = response.objects_known()};
}

Result<controller::PublishedVersions> GrpcUploader::PublishTargets(std::string_view targets_json) {
  const auto context = wire::MakeContext();
  v1::PublishTargetsRequest request;
  request.set_targets(std::string(targets_json));
  v1::PublishTargetsResponse response;
  const grpc::Status status = stub_->PublishTargets(context.get(), request, &response);
  if (!status.ok()) return Annotate(StatusFromGrpc(status), "publish targets");
  return controller::PublishedVersions{.targets = response.targets_version(),
                                       .snapshot = response.snapshot_version(),
                                       .timestamp = response.timestamp_version()};
}

Result<controller::PublishedVersions> GrpcUploader::ImportRelease(const controller::ReleaseImport& release) {
  const auto context = wire::MakeContext();
  v1::ImportReleaseRequest request;
  request.set_channel(release.channel);
  request.set_version(release.version);
  for (const std::string& root : release.roots) request.add_roots(root);
  request.set_targets(release.targets_json);
  v1::ImportReleaseResponse response;
  const grpc::Status status = content_stub_->ImportRelease(context.get(), request, &response);
  if (!status.ok()) return Annotate(StatusFromGrpc(status), "import release");
  return controller::PublishedVersions{.targets = response.targets_version(),
                                       .snapshot = response.snapshot_version(),
                                       .timestamp = response.timestamp_version()};
}

Result<std::vector<v1::Release>> GrpcUploader::ListReleases(const std::string& channel) {
  const auto context = wire::MakeContext();
  v1::ListReleasesRequest request;
  request.set_channel(channel);
  v1::ListReleasesResponse response;
  const grpc::Status status = stub_->ListReleases(context.get(), request, &response);
  if (!status.ok()) return Annotate(StatusFromGrpc(status), "list releases");
  return std::vector<v1::Release>(response.releases().begin(), response.releases().end());
}

// The bound on a message is the channel's, far above any metadata file; the client checks the file's own.
Result<std::string> GrpcUploader::Fetch(std::string_view name, std::size_t) {
  const auto context = wire::MakeContext();
  v1::GetMetadataRequest request;
  request.set_name(std::string(name));
  v1::GetMetadataResponse response;
  const grpc::Status status = stub_->GetMetadata(context.get(), request, &response);
  if (!status.ok()) return StatusFromGrpc(status);
  return std::move(*response.mutable_content());
}

Status GrpcUploader::Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) {
  const auto context = wire::MakeContext(kObjectTimeout);
  v1::FetchObjectRequest request;
  request.set_digest(wire::ToWire(digest));
  request.set_offset(offset);
  const auto stream = content_stub_->FetchObject(context.get(), request);
  v1::FetchObjectResponse piece;
  while (stream->Read(&piece)) {
    const Status taken = sink(AsBytes(piece.data()));
    if (taken.ok()) continue;
    context->TryCancel();
    static_cast<void>(stream->Finish());  // The sink's error is the one to tell.
    return taken;
  }
  const grpc::Status status = stream->Finish();
  return status.ok() ? OkStatus() : Annotate(StatusFromGrpc(status), "fetch object");
}

}  // namespace sealift::cli
