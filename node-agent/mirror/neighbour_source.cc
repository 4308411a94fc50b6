#include "node-agent/mirror/neighbour_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "node-agent/mirror/connection.h"
#include "shared/base/log.h"

namespace sealift::agent {
namespace {

// Neighbours that one Fetch asks.
constexpr int kMaxAsked = 4;
constexpr std::size_t kMaxFailed = 16;
constexpr std::size_t kMaxSenders = 4096;
constexpr std::size_t kMaxPauses = 256;
constexpr std::chrono::milliseconds kLongestStep = std::chrono::seconds(5);
// Shorter than a neighbour's patience with one that takes nothing.
constexpr auto kLongestPause = std::chrono::seconds(5);
constexpr auto kNodeCasLife = std::chrono::minutes(10);

// Where a neighbour that does not have it sends us.
class Nowhere final : public content::ContentSource {
 public:
  Status Fetch(const Sha256Digest& digest, std::uint64_t, const content::Sink&) override {
    return MakeError(Code::kNotFound, Reason::kContentUnknown,
                     fmt::format("fetch {} from a neighbour: it did not give it", digest.hex()));
  }
};

}  // namespace

Result<std::string> NeighbourSource::NodeCas() {
  if (node_cas_.empty() || Clock::now() - node_cas_since_ > kNodeCasLife) {
    SEALIFT_ASSIGN_OR_RETURN(node_cas_, hints_.NodeCas());
    node_cas_since_ = Clock::now();
  }
  return node_cas_;
}

content::Sink NeighbourSource::Renewing(const Sha256Digest& digest, const content::Sink& sink) {
  return [this, digest, &sink, told = Clock::now()](ByteView piece) mutable {
    if (Clock::now() - told > options_.renew_after) {
      told = Clock::now();
      static_cast<void>(hints_.Locate(digest, LeftOut()));
    }
    return sink(piece);
  };
}

Status NeighbourSource::Open(const SiteNeighbour& neighbour, const Sha256Digest& digest) {
  if (current_ && current_->from == neighbour && current_->digest == digest &&
      Clock::now() - current_->paused < kLongestPause)
    return OkStatus();
  current_.reset();
  SEALIFT_ASSIGN_OR_RETURN(const HttpUrl url, ParseHttpUrl("https://" + neighbour.address));
  SEALIFT_ASSIGN_OR_RETURN(const std::string cas, NodeCas());
  MirrorOptions options{.mirrors = {url},
                        .minimum_rate = options_.minimum_rate,
                        .rate_window = options_.rate_window,
                        .connect_timeout = options_.connect_timeout,
                        .max_redirects = 0};
  // Called by a thread of the source's.
  options.connect = [own = options_.own, cas, id = neighbour.node_id](const HttpUrl& to,
                                                                      Connection::Deadline deadline) {
    return ConnectToNode(to, own(), cas, id, deadline);
  };
  static Nowhere nowhere;
  current_ = Current{.from = neighbour, .digest = digest};
  current_->source = std::make_unique<MirrorSource>(std::move(options), nowhere, [] { return 0.0; });
  return OkStatus();
}

Status NeighbourSource::FetchFrom(const SiteNeighbour& neighbour, const Sha256Digest& digest,
                                  std::uint64_t& offset, const content::Sink& sink, Status& refused) {
  SEALIFT_RETURN_IF_ERROR(Open(neighbour, digest));
  const Status status = current_->source->Fetch(digest, offset, [&](ByteView piece) {
    refused = sink(piece);
    if (refused.ok()) offset += piece.size();
    return refused;
  });
  current_->paused = Clock::now();
  if (ReasonOf(refused) != Reason::kCancelled) current_.reset();
  return status;
}

// A turn to fetch that came to nothing is given to the next one at once. Not so where the sink has enough for
// now.
Status NeighbourSource::FetchInner(const Sha256Digest& digest, std::uint64_t offset,
                                   const content::Sink& sink) {
  Status refused;
  const Status status = inner_.Fetch(digest, offset, Renewing(digest, [&](ByteView piece) {
                                       refused = sink(piece);
                                       return refused;
                                     }));
  if (!status.ok() && refused.ok()) static_cast<void>(hints_.Offer({digest}, ""));
  return status;
}

bool NeighbourSource::Wait(std::chrono::milliseconds advised, Clock::time_point until) {
  // Longer and longer, so that many who wait do not ask all the time.
  const auto longer = advised + advised * std::min(waits_in_a_row_++, 100u) / 4;
  const auto began = Clock::now();
  std::mutex mutex;
  std::condition_variable_any nothing;
  std::unique_lock lock(mutex);
  const auto end = std::min(until, began + std::min(longer, kLongestStep));
  nothing.wait_until(lock, options_.stop, end, [] { return false; });
  waited_ += std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - began);
  if (waited_ >= options_.patience) {
    log::Warning("no neighbour is waited for", {{"seconds", std::to_string(waited_.count() / 1000)}});
    waited_ = {};
    impatient_until_ = Clock::now() + options_.impatience;
  }
  return Clock::now() < until && !options_.stop.stop_requested();
}

Status NeighbourSource::Fetch(const Sha256Digest& digest, std::uint64_t offset, const content::Sink& sink) {
  waits_ = false;
  const auto until = Clock::now() + options_.wait_at_once;
  for (int asked = 0; asked < kMaxAsked;) {
    const Result<SiteAdvice> advice = hints_.Locate(digest, LeftOut());
    if (!advice.ok()) {
      log::Debug("no hints for this site", {{"error", Describe(advice.status())}});
      return inner_.Fetch(digest, offset, sink);
    }
    if (!advice->holder && advice->wait.count() > 0) {
      if (Clock::now() < impatient_until_) return inner_.Fetch(digest, offset, sink);
      if (Wait(advice->wait, until)) continue;
      waits_ = true;
      return MakeError(Code::kUnavailable, Reason::kTimeout,
                       fmt::format("fetch {}: a neighbour is waited for", digest.hex()));
    }
    waits_in_a_row_ = 0;
    if (!advice->holder) return FetchInner(digest, offset, sink);
    ++asked;
    const SiteNeighbour& neighbour = *advice->holder;
    const std::uint64_t before = offset;
    Status refused;
    const Status status = FetchFrom(neighbour, digest, offset, Renewing(digest, sink), refused);
    if (offset > before || !refused.ok()) {
      if (senders_.size() >= kMaxSenders) senders_.clear();
      senders_[digest].insert(neighbour.node_id);
    }
    if (!refused.ok()) return refused;
    if (status.ok()) {
      pauses_.erase(neighbour.node_id);
      waited_ = {};
      log::Info("object came from a neighbour",
                {{"node", neighbour.node_id}, {"bytes", std::to_string(offset)}});
      return status;
    }
    LeaveOut(neighbour.node_id, status);
  }
  return FetchInner(digest, offset, sink);
}

void NeighbourSource::LeaveOut(const std::string& node_id, const Status& why) {
  if (pauses_.size() >= kMaxPauses) pauses_.clear();
  Pause& pause = pauses_[node_id];
  const std::uint32_t doublings = std::min(pause.failures++, 16u);
  pause.until = Clock::now() + std::min(options_.longest_pause, options_.first_pause * (1u << doublings));
  log::Info("a neighbour did not give an object", {{"node", node_id}, {"error", Describe(why)}});
}

std::set<std::string> NeighbourSource::LeftOut() const {
  std::set<std::string> left_out;
  for (const auto& [node_id, pause] : pauses_)
    if (Clock::now() < pause.until && left_out.size() < kMaxFailed) left_out.insert(node_id);
  return left_out;
}

bool NeighbourSource::Blame(const Sha256Digest& digest) {
  const auto found = senders_.find(digest);
  if (found == senders_.end()) return false;
  for (const std::string& sender : found->second) {
    log::Warning("neighbour passed over",
                 {{"node", sender}, {"error", "an object it sent is not " + digest.hex()}});
    pauses_[sender].until = Clock::now() + options_.liar_pause;
  }
  senders_.erase(found);
  return true;
}

}  // namespace sealift::agent
