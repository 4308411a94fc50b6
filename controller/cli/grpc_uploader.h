// A controller as the build host reaches it over FleetService and ContentService.
#pragma once

#include <memory>

#include "controller/publish/release_publisher.h"
#include "sealift/v1/content.grpc.pb.h"
#include "sealift/v1/fleet.grpc.pb.h"

namespace sealift::cli {

// Used by one thread. Every call has a deadline; that of an upload grows with its size (1 MiB/s and ten
// minutes).
class GrpcUploader final : public controller::Uploader,
                           private tuf::MetadataSource,
                           private content::ContentSource {
 public:
  explicit GrpcUploader(const std::shared_ptr<grpc::ChannelInterface>& channel);
  Result<controller::UploadResult> Upload(const std::vector<controller::UploadObject>& objects,
                                          const std::function<void(std::uint64_t)>& progress) override;
  Result<controller::PublishedVersions> PublishTargets(std::string_view targets_json) override;
  Result<controller::PublishedVersions> ImportRelease(const controller::ReleaseImport& release) override;
  tuf::MetadataSource& metadata() override { return *this; }
  content::ContentSource& content() override { return *this; }

  // The releases the controller lists, of all channels where `channel` is empty.
  Result<std::vector<v1::Release>> ListReleases(const std::string& channel);

 private:
  Result<std::string> Fetch(std::string_view name, std::size_t max_bytes) override;
  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override;
  std::unique_ptr<v1::FleetService::StubInterface> stub_;
  std::unique_ptr<v1::ContentService::StubInterface> content_stub_;
};

}  // namespace sealift::cli
