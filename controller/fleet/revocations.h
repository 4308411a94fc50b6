// Which list of revoked images (dbx) the fleet's firmware holds, beside the key set's own.
//
// Firmware updates and operating systems renew dbx, signed under a key of KEK; what a machine holds shows in
// PCR 7 as the digest of one event. Machines propose a list by what they measure, enough of them confirm it,
// an operator approves it. Plain values; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "controller/fleet/node.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/base/status.h"

namespace sealift::controller {

// Named by the digest of the event that measures it.
struct RevocationsRecord {
  Sha256Digest event;
  UnixMillis first_seen;
  // Operator's name; empty while it is only proposed.
  std::string approved_by;
  UnixMillis approved;
  // Machines whose last quote shows it.
  std::uint64_t nodes = 0;
  bool confirmed = false;
  bool approved_now() const { return !approved_by.empty(); }
};

// Of machines that show another list than the key set's. Thread-safe; a write that returned OK survives a
// power cut. `machines`: how many have to show a list, besides being more than half of those whose list is
// not approved, to confirm it. Errors besides those named: UNAVAILABLE/STORE_FAILED.
class RevocationsStore {
 public:
  virtual ~RevocationsStore() = default;
  virtual Result<std::optional<Sha256Digest>> ShownBy(const NodeId& node) = 0;
  // The node's last quote shows this one. A proposal that no machine shows any more goes.
  virtual Status Record(const NodeId& node, const Sha256Digest& event, UnixMillis now) = 0;
  // It shows the key set's again.
  virtual Status Forget(const NodeId& node) = 0;
  // Approved or confirmed, in the order of the digests.
  virtual Result<std::vector<Sha256Digest>> Accepted(std::uint32_t machines) = 0;
  // Approved ones first, then by machines.
  virtual Result<std::vector<RevocationsRecord>> List(std::uint32_t machines, std::size_t limit) = 0;
  virtual Result<std::vector<NodeId>> NodesOf(const Sha256Digest& event, std::size_t limit) = 0;
  // Again is fine; the first approval stays. Errors: NOT_FOUND/BASELINE_UNKNOWN.
  virtual Status Approve(const Sha256Digest& event, const std::string& by, UnixMillis now) = 0;
  virtual Status Withdraw(const Sha256Digest& event) = 0;
};

}  // namespace sealift::controller
