#include "controller/fleet/site_directory.h"

#include <algorithm>

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxEntries = 20'000;
constexpr std::size_t kMaxHolders = 32;
constexpr std::size_t kMostAtOnce = 4;
constexpr std::size_t kMostFailures = 2;
// Who is not heard of for so long has gone.
constexpr auto kTurn = std::chrono::seconds(30);
constexpr auto kHolderLife = std::chrono::hours(1);
constexpr auto kWait = std::chrono::milliseconds(500);

}  // namespace

SiteDirectory::Entry& SiteDirectory::Find(const Key& key, Time now) {
  const auto found = entries_.find(key);
  if (found == entries_.end() && entries_.size() >= kMaxEntries) {
    entries_.erase(std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return a.second.touched < b.second.touched;
    }));
  }
  Entry& entry = found == entries_.end() ? entries_[key] : found->second;
  entry.touched = now;
  return entry;
}

void SiteDirectory::DropStale(Entry& entry, Time now) {
  std::erase_if(entry.holders, [&](const Holder& holder) {
    return now >= holder.until || holder.failed.size() >= kMostFailures;
  });
  std::erase_if(entry.turns, [&](const auto& turn) {
    const std::optional<NodeId>& at = turn.second.holder;
    return now >= turn.second.until ||
           (at && std::none_of(entry.holders.begin(), entry.holders.end(),
                               [&](const Holder& holder) { return holder.node == *at; }));
  });
}

std::size_t SiteDirectory::TurnsAt(const Entry& entry, const NodeId& holder) {
  return static_cast<std::size_t>(
      std::count_if(entry.turns.begin(), entry.turns.end(),
                    [&](const auto& turn) { return turn.second.holder == holder; }));
}

SiteAdvice SiteDirectory::Locate(const NodeId& who, const std::string& site, const Sha256Digest& object,
                                 const std::set<std::string>& failed, Time now) {
  const std::lock_guard lock(mutex_);
  Entry& entry = Find({site, object}, now);
  for (Holder& holder : entry.holders)
    if (failed.contains(holder.node.text())) holder.failed.insert(who);
  DropStale(entry, now);
  const auto turn = entry.turns.find(who);
  const std::optional<NodeId> before = turn == entry.turns.end() ? std::nullopt : turn->second.holder;
  const bool fetches = turn != entry.turns.end() && !before;
  if (turn != entry.turns.end()) entry.turns.erase(turn);

  const Holder* best = nullptr;
  bool all_busy = false;
  for (const Holder& holder : entry.holders) {
    if (holder.node == who || failed.contains(holder.node.text())) continue;
    const std::size_t turns = TurnsAt(entry, holder.node);
    if (turns >= kMostAtOnce) {
      all_busy = true;
      continue;
    }
    // The one that was named already; else the one that was named least.
    if (best == nullptr || holder.node == before || (best->node != before && holder.named < best->named))
      best = &holder;
  }
  if (best != nullptr) {
    Holder& holder = entry.holders[static_cast<std::size_t>(best - entry.holders.data())];
    if (holder.node != before) ++holder.named;
    entry.turns[who] = {.holder = holder.node, .until = now + kTurn};
    return {.holder = SiteHolder{holder.node, holder.address}};
  }
  const bool another_fetches = std::any_of(entry.turns.begin(), entry.turns.end(),
                                           [](const auto& other) { return !other.second.holder; });
  if (!fetches && (all_busy || another_fetches)) return {.wait = kWait};
  entry.turns[who] = {.holder = std::nullopt, .until = now + kTurn};
  return {};
}

void SiteDirectory::Offer(const NodeId& who, const std::string& site, const Sha256Digest& object,
                          const std::string& address, Time now) {
  const std::lock_guard lock(mutex_);
  Entry& entry = Find({site, object}, now);
  DropStale(entry, now);
  entry.turns.erase(who);
  for (Holder& holder : entry.holders) {
    if (holder.node != who) continue;
    holder.address = address;
    holder.until = now + kHolderLife;
    return;
  }
  if (entry.holders.size() >= kMaxHolders) return;
  entry.holders.push_back({.node = who, .address = address, .until = now + kHolderLife});
}

void SiteDirectory::Withdraw(const NodeId& who, const std::string& site, const Sha256Digest& object) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find({site, object});
  if (found == entries_.end()) return;
  found->second.turns.erase(who);
  std::erase_if(found->second.holders, [&](const Holder& holder) { return holder.node == who; });
}

}  // namespace sealift::controller
