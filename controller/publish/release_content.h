// What a publication adds so that nodes fetch little more than what changed: deltas from earlier releases,
// objects for the parts that those lack, and the list that names them.
//
// Thread-safe functions. Memory: that of BuildDelta.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "controller/publish/earlier_releases.h"
#include "shared/base/status.h"
#include "shared/delta/content_list.h"
#include "shared/release/manifest.h"

namespace sealift::controller {

// What deltas start from: a folder that build-uki wrote, or what FetchEarlierReleases fetched of one.
struct EarlierBuild {
  std::filesystem::path folder;
  // Nobody named it: where no delta can be made from it the publication goes on without.
  bool optional = false;
  // For LeftOutRelease.
  std::string version = {};
};

struct ReleaseContent {
  struct Object {
    delta::ContentName name;
    // In the work folder.
    std::filesystem::path file;
  };
  std::vector<Object> objects;
  // The list itself is an object too: the TUF target "<channel>/<version>/content.json".
  std::string list_json;
  delta::ContentName list;
  // Bytes of the deltas, in the order of the earlier builds; 0 where there is none, since it gains nothing.
  std::vector<std::uint64_t> delta_bytes;
  // Optional ones. They have no place in delta_bytes.
  std::vector<LeftOutRelease> left_out;
};

// For the main image of the build in `directory`. `earlier`: nodes are expected to run one of these.
// `work_folder` holds the objects until they are uploaded. Errors: RELEASE_MANIFEST_INVALID,
// RELEASE_FILE_MISSING, RELEASE_CHANGED (an image is not what its release.json says); those of BuildDelta and
// BuildImageObjects.
Result<ReleaseContent> MakeReleaseContent(const Manifest& manifest, const std::filesystem::path& directory,
                                          const std::vector<EarlierBuild>& earlier,
                                          const std::filesystem::path& work_folder);

}  // namespace sealift::controller
