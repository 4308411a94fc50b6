#include "node-agent/mirror/share_gate.h"

#include <algorithm>

#include "shared/base/log.h"
#include "shared/crypto/hash.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kMaxWords = 1024;
constexpr std::size_t kMostOfOneNode = 2;
constexpr auto kNodeCasLife = std::chrono::minutes(10);

}  // namespace

ShareGate::Place::~Place() {
  if (gate_ == nullptr) return;
  const std::lock_guard lock(gate_->mutex_);
  const auto found = taken_->find(name_);
  if (--found->second == 0) taken_->erase(found);
}

ShareGate::Place ShareGate::Take(std::map<std::string, std::size_t>& taken, const std::string& name,
                                 std::size_t most) {
  const std::lock_guard lock(mutex_);
  std::size_t& count = taken[name];
  if (count >= most) return {};
  ++count;
  return {this, &taken, name};
}

ShareGate::Place ShareGate::Greet(const std::string& address) {
  return Take(strangers_, address, std::max<std::size_t>(1, options_.most_connections / 2));
}

ShareGate::Place ShareGate::Seat(const std::string& node_id) {
  return Take(neighbours_, node_id, kMostOfOneNode);
}

bool ShareGate::AwaitHandshake(Clock::time_point deadline, const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  const Clock::time_point now = Clock::now();
  next_handshake_ = std::max(next_handshake_, now - options_.burst * options_.pause);
  if (next_handshake_ > deadline) return false;
  const Clock::time_point mine = std::exchange(next_handshake_, next_handshake_ + options_.pause);
  while (Clock::now() < mine && !stop.stop_requested())
    stopped_.wait_until(lock, stop, mine, [] { return false; });
  return !stop.stop_requested();
}

Result<std::string> ShareGate::NodeCas() {
  {
    const std::lock_guard lock(mutex_);
    if (!node_cas_.empty() && Clock::now() - node_cas_since_ < kNodeCasLife) return node_cas_;
  }
  Result<std::string> found = hints_.NodeCas();
  const std::lock_guard lock(mutex_);
  if (!found.ok() && node_cas_.empty()) return found;
  if (found.ok()) node_cas_ = *std::move(found);
  node_cas_since_ = Clock::now();
  return node_cas_;
}

bool ShareGate::Admits(const NodePeer& peer) {
  const Sha256Digest digest = Sha256(peer.certificate);
  bool known = false;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = words_.find(digest); found != words_.end()) {
      const auto age = Clock::now() - found->second.since;
      if (age < (found->second.admitted ? options_.yes_life : options_.no_life))
        return found->second.admitted;
      known = found->second.admitted && age < options_.unanswered_life;
    }
  }
  const Result<bool> admitted = hints_.Admits(peer.certificate);
  if (!admitted.ok()) {
    log::Debug("the controller does not say who this neighbour is",
               {{"node", peer.node_id}, {"error", Describe(admitted.status())}});
    return known;
  }
  const std::lock_guard lock(mutex_);
  if (words_.size() >= kMaxWords) words_.clear();
  words_[digest] = {.admitted = *admitted, .since = Clock::now()};
  return *admitted;
}

}  // namespace sealift::agent
