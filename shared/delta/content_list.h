// What a node may fetch instead of a whole image: the release's content list.
//
// The TUF target "<channel>/<version>/content.json", made at publication and signed with the targets. JSON:
//
//   {"format":1,"images":{HEX of the image:{"index":{"digest":HEX,"size":N},
//     "deltas":{HEX of an older image:{"digest":HEX,"size":N},...}},...}}
//
// Unknown members are ignored. Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::delta {

inline constexpr std::string_view kContentListName = "content.json";
inline constexpr std::size_t kMaxContentListBytes = 256u << 10;

struct ContentName {
  Sha256Digest digest;
  std::uint64_t size = 0;
  bool operator==(const ContentName&) const = default;
};

struct ImageContent {
  std::optional<ContentName> index;
  // By the image they start from.
  std::map<Sha256Digest, ContentName> deltas;
  bool operator==(const ImageContent&) const = default;
};

struct ContentList {
  std::map<Sha256Digest, ImageContent> images;
  bool operator==(const ContentList&) const = default;
};

// Deterministic.
std::string SerializeContentList(const ContentList& list);
// Bounded (256 KiB, 64 images of 64 deltas). Errors: INVALID_ARGUMENT/DELTA_INVALID.
Result<ContentList> ParseContentList(std::string_view json);

}  // namespace sealift::delta
