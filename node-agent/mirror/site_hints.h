// What the controller tells nodes of one site about each other.
#pragma once

#include <chrono>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::agent {

struct SiteNeighbour {
  std::string node_id;
  // host:port
  std::string address;
  bool operator==(const SiteNeighbour&) const = default;
};

// A neighbour to ask; or how long to wait; or neither: fetch it as if there were no neighbours.
struct SiteAdvice {
  std::optional<SiteNeighbour> holder;
  std::chrono::milliseconds wait{};
};

// Calls block, each with a deadline. Thread-safe. Errors: those of the controller; UNAVAILABLE while there is
// none.
class SiteHints {
 public:
  virtual ~SiteHints() = default;
  // Asked again every ten seconds while the transfer lasts. `failed`: at most 16.
  virtual Result<SiteAdvice> Locate(const Sha256Digest& object, const std::set<std::string>& failed) = 0;
  // At most 256. `address`: host:port; empty: they are not here and are not being fetched.
  virtual Status Offer(const std::vector<Sha256Digest>& objects, const std::string& address) = 0;
  // PEM: who issues the certificates of nodes.
  virtual Result<std::string> NodeCas() = 0;
  // Whether the node that showed this certificate (DER) is a neighbour in good standing.
  virtual Result<bool> Admits(ByteView certificate) = 0;
};

// PEM texts of this node's certificate chain and of the reference to its key. Empty while it has none.
struct NodeTls {
  std::string chain;
  std::string key;
  bool operator==(const NodeTls&) const = default;
};

}  // namespace sealift::agent
