#include "node-agent/update/seams.h"

namespace sealift::agent {

TrustedRelease ReleaseCatalog::Vouch(const ReleaseId& id, Manifest manifest, ReleaseFile image,
                                     UnixMillis not_before, UnixMillis expires) {
  TrustedRelease release;
  release.id_ = id;
  release.manifest_ = std::move(manifest);
  release.image_ = std::move(image);
  release.not_before_ = not_before;
  release.expires_ = expires;
  return release;
}

}  // namespace sealift::agent
