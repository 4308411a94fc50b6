// ImageFetcher over shared/content: objects land in a folder of the state partition, named by their digest.
//
// Not thread-safe. Borrows the source.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>

#include "node-agent/update/seams.h"
#include "shared/content/download.h"

namespace sealift::agent {

struct ContentFetcherOptions {
  // Bytes a call moves at most, give or take one piece of the source, unless a resumed part was wrong and the
  // object is fetched whole. What is there already is hashed anew by
  // each call, so that smaller slices cost more.
  std::uint64_t slice_bytes = 32u << 20;
  // After so long a call ends with the next piece: over a slow line the agent is to be heard meanwhile.
  std::chrono::milliseconds slice_time = std::chrono::seconds(60);
  // A transfer that breaks off after at least so many got on all the same: a slow link is no failure. What
  // moves less is waited for, as each call costs a hash of what is there.
  std::uint64_t least_bytes = 64u << 10;
  // Left free on the state partition beyond the object.
  std::uint64_t reserve_bytes = 16u << 20;
  // Asked when an object came out wrong: whether someone was found who sent it and will not be asked again
  // for a while (MirrorSource::Blame). Then the object is begun anew instead of an error.
  std::function<bool(const Sha256Digest&)> blame = {};
  // Told of each object that is there, proven, and where.
  std::function<void(const Sha256Digest&, const std::filesystem::path&)> complete = {};
  // Asked when the source gave out: whether it only waits for somebody, which is no failure.
  std::function<bool()> waits = {};
  // Asked for space before DISK_FULL is the answer.
  std::function<void()> make_room = {};
};

class ContentFetcher final : public ImageFetcher {
 public:
  ContentFetcher(content::ContentSource& source, std::filesystem::path directory,
                 ContentFetcherOptions options = {})
      : source_(source), directory_(std::move(directory)), options_(std::move(options)) {}

  Result<FetchProgress> FetchSome(const Sha256Digest& digest, std::uint64_t size) override;
  Status Discard(const Sha256Digest* keep) override;

 private:
  Status CheckSpace(const std::filesystem::path& file, std::uint64_t size) const;

  content::ContentSource& source_;
  std::filesystem::path directory_;
  ContentFetcherOptions options_;
};

}  // namespace sealift::agent
