// Content from neighbours of the same site, as the controller hints, before mirrors and the controller.
//
// While one of the site fetches an object the others wait for it, so that a thin line carries it about once.
// Nobody trusts a neighbour: what it sends is hashed by content::Download. One that fails, stalls or is slow
// is left out for a while, which doubles; one that sent something wrong, for a day. Used by one thread, as
// every ContentSource.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>

#include "node-agent/mirror/mirror_source.h"
#include "node-agent/mirror/site_hints.h"
#include "shared/content/download.h"

namespace sealift::agent {

struct NeighbourOptions {
  // This node's certificate as it stands.
  std::function<NodeTls()> own;
  // Bytes a second, over `rate_window`. More than of a mirror: it is on the same LAN.
  std::uint64_t minimum_rate = 64u << 10;
  std::chrono::milliseconds rate_window = std::chrono::seconds(15);
  std::chrono::milliseconds connect_timeout = std::chrono::seconds(10);
  // How long one Fetch waits before it returns to have its caller do other things.
  std::chrono::milliseconds wait_at_once = std::chrono::seconds(3);
  // How long this node waits in all without an object from a neighbour. Then nobody is waited for while
  // `impatience` lasts.
  std::chrono::milliseconds patience = std::chrono::minutes(30);
  std::chrono::milliseconds impatience = std::chrono::hours(1);
  // How often the controller is told that a transfer still goes on.
  std::chrono::milliseconds renew_after = std::chrono::seconds(10);
  // How long a neighbour that failed is left out: the first time, and at most.
  std::chrono::milliseconds first_pause = std::chrono::minutes(1);
  std::chrono::milliseconds longest_pause = std::chrono::hours(1);
  std::chrono::milliseconds liar_pause = std::chrono::hours(24);
  std::stop_token stop = {};
};

class NeighbourSource final : public content::ContentSource {
 public:
  // Borrows hints and inner.
  NeighbourSource(NeighbourOptions options, SiteHints& hints, content::ContentSource& inner)
      : options_(std::move(options)), hints_(hints), inner_(inner) {}

  // Errors: UNAVAILABLE/TIMEOUT while a neighbour is waited for (see waits()); those of the sink and of the
  // inner source.
  Status Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) override;

  // The last Fetch ended because a neighbour is still fetching or busy: that is no failure, ask again.
  bool waits() const { return waits_; }

  // The object came out wrong: neighbours that sent a part of it are left out. Whether there was one.
  bool Blame(const Sha256Digest& digest);
  // It came out right.
  void Absolve(const Sha256Digest& digest) { senders_.erase(digest); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Pause {
    std::uint32_t failures = 0;
    Clock::time_point until{};
  };
  // One object from one neighbour, which goes on where the sink had enough for now.
  struct Current {
    SiteNeighbour from;
    Sha256Digest digest;
    std::unique_ptr<MirrorSource> source;
    Clock::time_point paused{};
  };
  Status Open(const SiteNeighbour& neighbour, const Sha256Digest& digest);
  Status FetchFrom(const SiteNeighbour& neighbour, const Sha256Digest& digest, std::uint64_t& offset,
                   const content::Sink& sink, Status& refused);
  Status FetchInner(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink);
  // Tells the controller now and then that `digest` is still coming.
  content::Sink Renewing(const Sha256Digest& digest, const content::Sink& sink);
  // False: not longer in this call.
  bool Wait(std::chrono::milliseconds advised, Clock::time_point until);
  void LeaveOut(const std::string& node_id, const Status& why);
  std::set<std::string> LeftOut() const;
  Result<std::string> NodeCas();

  const NeighbourOptions options_;
  SiteHints& hints_;
  content::ContentSource& inner_;
  std::string node_cas_;
  Clock::time_point node_cas_since_{};
  std::optional<Current> current_;
  bool waits_ = false;
  std::uint32_t waits_in_a_row_ = 0;
  std::chrono::milliseconds waited_{};
  Clock::time_point impatient_until_{};
  std::map<std::string, Pause> pauses_;
  // Who sent parts of an object, for as long as it is not known to be right.
  std::map<Sha256Digest, std::set<std::string>> senders_;
};

}  // namespace sealift::agent
