#include "tests/integration/controller/app/controller_fixture.h"

namespace sealift::controller {

void ControllerTest::Publish(const std::vector<std::string>& versions) {
  const auto stub = FleetStub("operator");
  tuf::Targets targets{.version = published_ + 1, .expires = SystemClock().Now() + std::chrono::hours(1000)};
  std::map<Sha256Digest, std::string> objects;
  for (const std::string& version : versions) {
    Manifest manifest{.channel = "stable",
                      .version = version,
                      .minimum_agent_version = "0.1",
                      .hardware_class = "generic-x86_64"};
    manifest.stub_version = "252.39";
    const std::string image = "image of " + version;
    manifest.files.push_back({.path = "EFI/kairos/norole.efi",
                              .role = FileRole::kUki,
                              .digest = Sha256(AsBytes(image)),
                              .size = image.size(),
                              .authenticode = Sha256(AsBytes(image))});
    manifest.pcr11.push_back({.phase = "", .pcr11 = Sha256(AsBytes(version))});
    const std::string json = SerializeManifest(manifest);
    objects[Sha256(AsBytes(image))] = image;
    objects[Sha256(AsBytes(json))] = json;
    for (auto& [name, target] : TargetsOfRelease(manifest, json, FromUnixMs(1'700'000'000'000))) {
      targets.targets.emplace(name, target);
    }
  }
  const auto context = Context();
  v1::UploadContentResponse uploaded;
  const auto stream = stub->UploadContent(context.get(), &uploaded);
  for (const auto& [digest, bytes] : objects) {
    v1::UploadContentRequest part;
    part.mutable_start()->set_digest(wire::ToWire(digest));
    part.mutable_start()->set_size(bytes.size());
    stream->Write(part);
    part.set_data(bytes);
    stream->Write(part);
  }
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  ASSERT_TRUE(status.ok()) << status.error_message();

  tuf::Envelope envelope = tuf::MakeEnvelope(targets);
  ASSERT_TRUE(tuf::SignMetadata(tuf::Role::kTargets, envelope, *tuf_targets_, "test").ok());
  v1::PublishTargetsRequest request;
  request.set_targets(envelope.Serialize());
  v1::PublishTargetsResponse response;
  const grpc::Status published = stub->PublishTargets(Context().get(), request, &response);
  ASSERT_TRUE(published.ok()) << published.error_message();
  ++published_;
}

}  // namespace sealift::controller
