// ReleaseCatalog over TUF: from the root measured with the image to one release and its image.
//
// Not thread-safe. Borrows everything given to it.
#pragma once

#include <filesystem>
#include <string>

#include "node-agent/update/content_fetcher.h"
#include "node-agent/update/seams.h"
#include "shared/base/clock.h"
#include "shared/delta/content_list.h"
#include "shared/tuf/client.h"
#include "shared/tuf/journal_watch.h"

namespace sealift::agent {

class TufReleaseCatalog final : public ReleaseCatalog {
 public:
  // `trusted_root`: tuf.root_json of the measured node.toml. `store`: on the state partition, not trusted.
  // `clock`: the agent's, which never runs backwards over a reboot. `manifests` brings the manifest, which is
  // an object like others; its folder is not the image fetcher's, which throws away what it does not know.
  TufReleaseCatalog(std::string trusted_root, tuf::MetadataSource& source, tuf::TrustedMetadataStore& store,
                    const Clock& clock, ImageFetcher& manifests)
      : client_(std::move(trusted_root), source, store, clock), journals_(store), manifests_(manifests) {}

  Result<ReleaseVerdict> Resolve(const DesiredRelease& desired) override;
  UnixMillis ProvenTime() override { return client_.ProvenTime(); }
  // What signed metadata named beside this image, when it was last resolved (shared/delta/content_list.h).
  std::optional<delta::ContentName> ContentListOf(const Sha256Digest& image) const;

 private:
  // Errors: those of ReleaseVerdict::unusable.
  static Result<TrustedRelease> Judge(const DesiredRelease& desired, const tuf::VerifiedTargets& targets,
                                      std::string_view manifest_text);
  Result<std::string> FetchManifest(const tuf::Target& target);

  tuf::TufClient client_;
  tuf::JournalWatch journals_;
  ImageFetcher& manifests_;
  Sha256Digest listed_image_;
  std::optional<delta::ContentName> content_list_;
};

}  // namespace sealift::agent
