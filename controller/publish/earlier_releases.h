// Earlier releases of a channel as folders that deltas start from, fetched from the controller's content
// store: a publication needs no folders of old builds.
//
// Used by one thread.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"
#include "shared/content/download.h"
#include "shared/tuf/metadata.h"

namespace sealift::controller {

// One that no delta is made from, and why. Nodes that run it fetch parts or the whole image.
struct LeftOutRelease {
  std::string version;
  Status because;
};

struct EarlierReleases {
  // As build-uki's, with release.json, the image and the index of its frames alone. Newest first.
  std::vector<std::filesystem::path> folders;
  std::vector<std::string> versions;
  std::vector<LeftOutRelease> left_out;
};

// The newest `count` releases of `channel` that are not withdrawn, below `work_folder`. `targets` proved
// themselves; every file is checked against them. `but`: images that are at hand already.
EarlierReleases FetchEarlierReleases(const tuf::Targets& targets, std::string_view channel, std::size_t count,
                                     const std::set<Sha256Digest>& but, content::ContentSource& source,
                                     const std::filesystem::path& work_folder);

}  // namespace sealift::controller
