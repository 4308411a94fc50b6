// A release manifest of foreign origin: what is accepted has one form, and that form is stable.
#include "shared/release/manifest.h"
#include "shared/release/release_targets.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Result<Manifest> manifest = ParseManifest(AsText(ByteView(data, size)));
  if (!manifest.ok()) return 0;
  const std::string text = SerializeManifest(*manifest);
  const Result<Manifest> again = ParseManifest(text);
  SEALIFT_CHECK(again.ok() && SerializeManifest(*again) == text);
  if (manifest->channel.empty()) return 0;
  tuf::Targets targets{
      .version = 1, .expires = {}, .targets = TargetsOfRelease(*manifest, text, manifest->built)};
  const Result<ListedRelease> listed = FindRelease(targets, manifest->channel, manifest->version);
  SEALIFT_CHECK(listed.ok() && listed->id == ReleaseIdOf(text));
  SEALIFT_CHECK(CheckManifestListed(*manifest, *listed, targets).ok());
  return 0;
}
