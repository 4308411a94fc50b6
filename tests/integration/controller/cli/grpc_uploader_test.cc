// A publication over the wire: the uploader against a service that is a repository and a store.
#include "controller/cli/grpc_uploader.h"

#include <grpcpp/server_builder.h>

#include "shared/wire/convert.h"
#include "shared/wire/grpc_status.h"
#include "tests/unit/controller/publish/publish_fixture.h"

namespace sealift::cli {
namespace {

class RepositoryService final : public v1::FleetService::Service {
 public:
  RepositoryService(controller::TufRepository& repository, controller::ContentStore& content)
      : repository_(repository), content_(content) {}

  grpc::Status UploadContent(grpc::ServerContext*, grpc::ServerReader<v1::UploadContentRequest>* reader,
                             v1::UploadContentResponse* response) override {
    return ToGrpcStatus(Receive(*reader, *response));
  }
  grpc::Status PublishTargets(grpc::ServerContext*, const v1::PublishTargetsRequest* request,
                              v1::PublishTargetsResponse* response) override {
    const auto versions = repository_.PublishTargets(request->targets());
    if (!versions.ok()) return ToGrpcStatus(versions.status());
    response->set_targets_version(versions->targets);
    response->set_snapshot_version(versions->snapshot);
    response->set_timestamp_version(versions->timestamp);
    return grpc::Status::OK;
  }
  grpc::Status GetMetadata(grpc::ServerContext*, const v1::GetMetadataRequest* request,
                           v1::GetMetadataResponse* response) override {
    const auto text = repository_.ReadMetadata(request->name());
    if (!text.ok()) return ToGrpcStatus(text.status());
    response->set_content(*text);
    return grpc::Status::OK;
  }
  grpc::Status ListReleases(grpc::ServerContext*, const v1::ListReleasesRequest*,
                            v1::ListReleasesResponse* response) override {
    for (const ListedRelease& listed : repository_.Releases()) {
      response->add_releases()->set_version(listed.version);
    }
    return grpc::Status::OK;
  }

  std::uint64_t refuse_above = UINT64_MAX;
  std::size_t largest_piece = 0;

 private:
  Status Receive(grpc::ServerReader<v1::UploadContentRequest>& reader, v1::UploadContentResponse& response) {
    std::optional<controller::ContentStore::Writer> writer;
    v1::UploadContentRequest request;
    const auto finish = [&]() -> Status {
      if (!writer.has_value()) return OkStatus();
      SEALIFT_RETURN_IF_ERROR(writer->Commit());
      writer.reset();
      response.set_objects_stored(response.objects_stored() + 1);
      return OkStatus();
    };
    while (reader.Read(&request)) {
      if (request.has_start()) {
        SEALIFT_RETURN_IF_ERROR(finish());
        if (request.start().size() > refuse_above) {
          return MakeError(Code::kResourceExhausted, Reason::kDiskFull, "store is full");
        }
        SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest,
                                 wire::DigestFromWire("digest", request.start().digest()));
        SEALIFT_ASSIGN_OR_RETURN(controller::ContentStore::Writer begun,
                                 content_.Begin(digest, request.start().size()));
        writer.emplace(std::move(begun));
      } else {
        largest_piece = std::max(largest_piece, request.data().size());
        SEALIFT_RETURN_IF_ERROR(writer->Write(AsBytes(request.data())));
      }
    }
    return finish();
  }

  controller::TufRepository& repository_;
  controller::ContentStore& content_;
};

class GrpcUploaderTest : public controller::PublishTest {
 protected:
  GrpcUploaderTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    uploader_ = std::make_unique<GrpcUploader>(server_->InProcessChannel({}));
  }
  ~GrpcUploaderTest() override { server_->Shutdown(); }
  Result<controller::PublishOutcome> PublishOverTheWire(const std::filesystem::path& out) {
    return controller::PublishRelease({.build_directory = out, .channel = "stable", .progress = {}},
                                      root_json_, state_, *signers_[tuf::Role::kTargets], *uploader_, clock_);
  }

  RepositoryService service_{*repository_, *content_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<GrpcUploader> uploader_;
};

TEST_F(GrpcUploaderTest, PublishesARelease) {
  const auto outcome = PublishOverTheWire(Build("1.0"));
  ASSERT_TRUE(outcome.ok()) << Describe(outcome.status());
  EXPECT_EQ(outcome->upload.stored, 3u);
  EXPECT_EQ(outcome->versions.timestamp, 1u);
  EXPECT_EQ(uploader_->ListReleases("")->at(0).version(), "1.0");
  EXPECT_EQ(ReasonOf(PublishOverTheWire(Build("1.0")).status()), Reason::kReleaseExists);
  ASSERT_TRUE(PublishOverTheWire(Build("1.1")).ok());
  EXPECT_TRUE(Refresh()->Find("stable/1.1/EFI/kairos/norole.efi").ok());
}

TEST_F(GrpcUploaderTest, LargeObjectTravelsInBoundedPieces) {
  const std::string large(3u << 20, 'x');
  std::uint64_t last = 0;
  const auto result = uploader_->Upload(
      {{.digest = Sha256(AsBytes(large)), .size = large.size(), .file = {}, .bytes = large}},
      [&](std::uint64_t done) { last = done; });
  ASSERT_TRUE(result.ok()) << Describe(result.status());
  EXPECT_EQ(last, large.size());
  EXPECT_LE(service_.largest_piece, 256u << 10);
  EXPECT_TRUE(content_->Has(Sha256(AsBytes(large))));
}

TEST_F(GrpcUploaderTest, RefusalOfTheOtherSideKeepsItsReason) {
  service_.refuse_above = 100;
  const std::string large(3u << 20, 'x');
  const auto result = uploader_->Upload(
      {{.digest = Sha256(AsBytes(large)), .size = large.size(), .file = {}, .bytes = large}}, {});
  EXPECT_EQ(ReasonOf(result.status()), Reason::kDiskFull) << Describe(result.status());
}

TEST_F(GrpcUploaderTest, FileThatChangedWhileItWasSentIsOurError) {
  const auto path = folder_.path() / "shrinking";
  ASSERT_TRUE(WriteFileAtomically(path, AsBytes("short")).ok());
  const auto result = uploader_->Upload({{.digest = {}, .size = 50, .file = path, .bytes = {}}}, {});
  EXPECT_EQ(ReasonOf(result.status()), Reason::kReleaseChanged) << Describe(result.status());
}

TEST_F(GrpcUploaderTest, MissingMetadataIsNotFound) {
  EXPECT_EQ(uploader_->metadata().Fetch("timestamp.json", 1000).status().code(), Code::kNotFound);
}

}  // namespace
}  // namespace sealift::cli
