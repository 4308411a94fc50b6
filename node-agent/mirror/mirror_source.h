// Content from HTTP(S) mirrors in order, then from where it always comes: the controller.
//
// A mirror serves the folder of a content store (controller/publish/content_store.h) as static files:
// "<url>/objects/<2 hex>/<64 hex>". Nobody trusts it: whatever it sends is hashed by content::Download. One
// that fails, lies, stalls or is slow is passed over for a while, which doubles with each failure. Used by
// one thread, as every ContentSource; has threads of its own (mirror_transfer.h).
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "node-agent/mirror/connection.h"
#include "node-agent/mirror/http_message.h"
#include "node-agent/mirror/rate_limit.h"
#include "shared/content/download.h"

namespace sealift::agent {

struct MirrorOptions {
  // In order of preference; paths end without a slash.
  std::vector<HttpUrl> mirrors;
  // PEM file with the CAs of https mirrors; empty: the system's.
  std::string ca_file;
  // To one mirror at a time, each for other stretches of the object. With one it is asked for the whole
  // rest at once.
  std::uint32_t connections = 1;
  // What a connection is asked for at a time where there are several; the `slice` of caches.
  std::uint64_t stripe_bytes = 1u << 20;
  // Bytes a second. A source that sends less over `rate_window`, over all connections, is left
  // (TRANSFER_TOO_SLOW).
  std::uint64_t minimum_rate = 1024;
  // Bytes a second that all transfers together take, those from the fallback, too; 0: as many as come.
  std::uint64_t maximum_rate = 0;
  std::chrono::milliseconds rate_window = std::chrono::seconds(15);
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(10);
  // How long a mirror that failed is passed over: the first time, and at most. Spread by up to a half.
  std::chrono::milliseconds first_pause = std::chrono::seconds(30);
  std::chrono::milliseconds longest_pause = std::chrono::hours(1);
  int max_redirects = 5;
  // Connects instead of Connect, where it is given.
  std::function<Result<std::unique_ptr<Connection>>(const HttpUrl&, Connection::Deadline)> connect = {};
};

class MirrorTransfer;

class MirrorSource final : public content::ContentSource {
 public:
  // `random`: from 0 to 1, for the spread. Borrows `fallback`.
  MirrorSource(MirrorOptions options, content::ContentSource& fallback, std::function<double()> random);
  ~MirrorSource() override;

  // Goes through the mirrors until one brings the object to its end, going on where the last one stopped;
  // then to the fallback. Errors: those of the sink and of the fallback.
  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override;

  // The object came out wrong: every mirror that sent a part of it is passed over. Whether there was one.
  bool Blame(const Sha256Digest& digest);

 private:
  struct Mirror {
    HttpUrl url;
    // As many as it is known to allow.
    std::uint32_t connections = 1;
    std::uint32_t failures = 0;
    std::chrono::steady_clock::time_point not_before{};
  };
  // Moves `offset` on by what the sink took.
  Status FetchFrom(Mirror& mirror, const Sha256Digest& digest, std::uint64_t& offset,
                   const content::Sink& sink, Status& refused);
  void PassOver(Mirror& mirror, const Status& why);

  const MirrorOptions options_;
  content::ContentSource& fallback_;
  const std::function<double()> random_;
  std::vector<Mirror> mirrors_;
  // Who sent parts of an object, for as long as it is not known to be right.
  std::map<Sha256Digest, std::set<std::size_t>> senders_;
  RateLimit limit_;
  // Of an object whose sink wanted a pause, for as long as it may go on.
  std::unique_ptr<MirrorTransfer> transfer_;
  std::chrono::steady_clock::time_point paused_{};
  // To the mirror of the last whole object, for the next one.
  std::unique_ptr<Connection> idle_;
  HttpUrl idle_at_;
};

}  // namespace sealift::agent
