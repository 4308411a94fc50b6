// Who of a site has which object, who fetches it, and who takes it from whom: hints for nodes that pass
// objects on to each other.
//
// Nobody trusts a hint: objects are proven by digest, peers by their certificates. What a node claims here
// costs its neighbours time at most. Kept in memory, bounded; what is forgotten is fetched from the
// controller once more. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/ids.h"

namespace sealift::controller {

struct SiteHolder {
  NodeId node;
  std::string address;
};

// A holder to ask; or how long to wait; or neither: fetch it as if there were no neighbours.
struct SiteAdvice {
  std::optional<SiteHolder> holder;
  std::chrono::milliseconds wait{};
};

class SiteDirectory {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // Takes a turn at a holder, or the turn to fetch, for half a minute; asking again renews it. At most four
  // have a turn at one holder at once. `failed`: holders that did not give it to `who`; one that failed two
  // nodes is forgotten for this object.
  SiteAdvice Locate(const NodeId& who, const std::string& site, const Sha256Digest& object,
                    const std::set<std::string>& failed, Time now);
  // Holds for an hour, and ends the turn of `who`.
  void Offer(const NodeId& who, const std::string& site, const Sha256Digest& object,
             const std::string& address, Time now);
  // Ends the turn of `who`, and what it offered of this object.
  void Withdraw(const NodeId& who, const std::string& site, const Sha256Digest& object);

 private:
  struct Holder {
    NodeId node;
    std::string address;
    Time until;
    std::uint64_t named = 0;
    // Whom it failed.
    std::set<NodeId> failed;
  };
  struct Turn {
    // Null: fetches it from elsewhere.
    std::optional<NodeId> holder;
    Time until;
  };
  struct Entry {
    std::vector<Holder> holders;
    std::map<NodeId, Turn> turns;
    Time touched;
  };
  using Key = std::pair<std::string, Sha256Digest>;

  Entry& Find(const Key& key, Time now);
  static void DropStale(Entry& entry, Time now);
  static std::size_t TurnsAt(const Entry& entry, const NodeId& holder);

  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<Key, Entry> entries_;
};

}  // namespace sealift::controller
