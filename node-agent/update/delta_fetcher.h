// ImageFetcher that moves little more than what changed: a delta from an image on this machine, else the
// parts that no image here has, else the whole object.
//
// What it fetches beside the image lies in a folder of its own and goes when the image is there. Each object
// is checked against a signed digest before it is parsed, and the image it makes against its own; whatever
// does not fit, however it came about, leads to the next way, and the last one is the whole object. What
// unpacks and patches runs confined (confined.h). Not thread-safe. Borrows both fetchers and what the
// functions need.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "node-agent/update/confined.h"
#include "node-agent/update/seams.h"
#include "shared/delta/assemble_image.h"
#include "shared/delta/content_list.h"

namespace sealift::agent {

struct DeltaFetcherOptions {
  // Where `whole` puts its objects, each under its digest.
  std::filesystem::path directory;
  // The content list that signed metadata has for the release of this image; nothing when there is none.
  std::function<std::optional<delta::ContentName>(const Sha256Digest& image)> content_list;
  // Images on this machine, of whatever release: those on the ESP.
  std::function<std::vector<std::filesystem::path>()> seeds;
};

class DeltaFetcher final : public ImageFetcher {
 public:
  // `parts`: for what the image is made of, in a folder of its own.
  DeltaFetcher(ImageFetcher& whole, ImageFetcher& parts, DeltaFetcherOptions options);
  ~DeltaFetcher() override;

  // Progress counts the bytes of the way taken: of the delta, or of the objects that are missing.
  Result<FetchProgress> FetchSome(const Sha256Digest& digest, std::uint64_t size) override;
  Status Discard(const Sha256Digest* keep) override;

 private:
  enum class Way { kChoose, kDelta, kIndex, kObjects, kWhole };
  struct Plan;

  Result<FetchProgress> Step(Plan& plan);
  Result<FetchProgress> Choose(Plan& plan);
  Result<FetchProgress> FetchDelta(Plan& plan);
  Result<FetchProgress> FetchIndex(Plan& plan);
  Result<FetchProgress> FetchObjects(Plan& plan);
  // One call of `parts`. Nothing: the object cannot be had or is not what it should be, and `plan` has gone
  // on to the next way.
  Result<std::optional<FetchProgress>> FetchPart(Plan& plan, const delta::ContentName& name);
  // Writes what `make` hands out, running confined after `prepare`, to the image's place. An image that
  // cannot be made leads to the next way.
  Status Make(Plan& plan, const Confinement& limits, const std::function<Status()>& prepare,
              const std::function<Status(const delta::Sink&)>& make);
  void NextWay(Plan& plan, const Status& why) const;
  static FetchProgress Underway(const Plan& plan);

  ImageFetcher& whole_;
  ImageFetcher& parts_;
  const DeltaFetcherOptions options_;
  std::unique_ptr<Plan> plan_;
};

}  // namespace sealift::agent
