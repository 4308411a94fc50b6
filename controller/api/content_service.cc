#include "controller/api/content_service.h"

#include <fmt/format.h>

#include "controller/api/fleet_service.h"
#include "shared/crypto/hash.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kPieceBytes = 256u << 10;
// Threads that operators may hold; nodes and everyone else have the others.
constexpr int kMaxStreams = 16;
constexpr int kMaxRoots = 1024;

}  // namespace

grpc::Status ContentServiceImpl::FetchObject(grpc::ServerContext* context,
                                             const v1::FetchObjectRequest* request,
                                             grpc::ServerWriter<v1::FetchObjectResponse>* writer) {
  return parts_.runner.Run(
      *context, "/sealift.v1.ContentService/FetchObject", [] { return std::string(); },
      [&](const Caller&) -> Status {
        const int others = streams_.fetch_add(1);
        const Status status = others < kMaxStreams
                                  ? Send(*request, *writer)
                                  : MakeError(Code::kResourceExhausted, Reason::kServerBusy,
                                              fmt::format("fetch object: {} others are read now", others));
        streams_.fetch_sub(1);
        return status;
      });
}

Status ContentServiceImpl::Send(const v1::FetchObjectRequest& request,
                                grpc::ServerWriter<v1::FetchObjectResponse>& writer) {
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, wire::DigestFromWire("digest", request.digest()));
  SEALIFT_ASSIGN_OR_RETURN(const ContentStore::Reader reader, parts_.content.Read(digest));
  if (request.offset() > reader.size()) {
    return MakeError(
        Code::kOutOfRange, Reason::kInvalidArgument,
        fmt::format("fetch {}: offset {} of {} bytes", digest.hex(), request.offset(), reader.size()));
  }
  v1::FetchObjectResponse piece;
  piece.set_total_size(reader.size());
  std::uint64_t offset = request.offset();
  // An empty object is one empty message, so that the size always arrives.
  do {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, reader.ReadAt(offset, kPieceBytes));
    piece.set_data(bytes.data(), bytes.size());
    if (!writer.Write(piece)) {
      return MakeError(Code::kCancelled, Reason::kCancelled,
                       fmt::format("fetch {}: the caller left", digest.hex()));
    }
    offset += bytes.size();
    piece.Clear();
  } while (offset < reader.size());
  return OkStatus();
}

grpc::Status ContentServiceImpl::ImportRelease(grpc::ServerContext* context,
                                               const v1::ImportReleaseRequest* request,
                                               v1::ImportReleaseResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.ContentService/ImportRelease",
      [&] {
        return fmt::format("channel={} version={} targets_sha256={}", request->channel(), request->version(),
                           Sha256(AsBytes(request->targets())).hex());
      },
      [&](const Caller&) -> Status {
        if (request->roots_size() > kMaxRoots) {
          return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                           fmt::format("import release: {} roots are too many", request->roots_size()));
        }
        SEALIFT_ASSIGN_OR_RETURN(
            const PublishedVersions versions,
            parts_.repository.ImportRelease({.channel = request->channel(),
                                             .version = request->version(),
                                             .roots = {request->roots().begin(), request->roots().end()},
                                             .targets_json = request->targets()}));
        response->set_targets_version(versions.targets);
        response->set_snapshot_version(versions.snapshot);
        response->set_timestamp_version(versions.timestamp);
        // As after PublishTargets: it is public, whatever cannot be recorded is in the log.
        (void)RecordReleases(parts_.repository, parts_.content, parts_.releases);
        return OkStatus();
      });
}

grpc::Status ContentServiceImpl::Collect(grpc::ServerContext* context, const v1::CollectRequest* request,
                                         v1::CollectResponse* response) {
  return parts_.runner.Run(
      *context, "/sealift.v1.ContentService/Collect",
      [&] { return std::string(request->dry_run() ? "dry run" : "collect"); },
      [&](const Caller&) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(const Collected collected, parts_.keeper.Collect(request->dry_run()));
        response->set_objects(collected.objects);
        response->set_bytes(collected.bytes);
        response->set_kept(collected.kept);
        return OkStatus();
      });
}

}  // namespace sealift::controller
