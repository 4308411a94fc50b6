// What the firmware of a hardware model measures, as the fleet shows it: PCR 0, 2 and 3 by value, PCR 1 event
// by event.
//
// No release predicts these registers. Machines propose a baseline by what they measure, more than half of
// the machines of a model and firmware version confirm it, an operator approves it. Plain values;
// thread-safe.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "controller/fleet/node.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/base/status.h"

namespace sealift::controller {

// As a machine's SMBIOS has it: its word. Printable ASCII, at most kMaxHardwareText bytes each.
inline constexpr std::size_t kMaxHardwareText = 64;
struct HardwareModel {
  std::string vendor;
  std::string product;
  auto operator<=>(const HardwareModel&) const = default;
};
struct Hardware {
  HardwareModel model;
  std::string firmware_version;
  bool operator==(const Hardware&) const = default;
};

struct BaselineEvent {
  std::uint32_t pcr = 0;
  // Nothing: differs from machine to machine, and is not compared.
  std::optional<Sha256Digest> digest;
  // In words, printable.
  std::string text;
  bool operator==(const BaselineEvent&) const = default;
};

struct Baseline {
  // SHA-256 over model, registers and PCR 1's events: what an approval is of.
  Sha256Digest id;
  HardwareModel model;
  // Of the first machine that showed it.
  std::string firmware_version;
  // 0, 2, 3.
  std::map<std::uint32_t, Sha256Digest> registers;
  // Of PCR 0 to 3, in order; of PCR 1 without boot variables.
  std::vector<BaselineEvent> events;
  bool operator==(const Baseline&) const = default;
};

struct BaselineRecord {
  Baseline baseline;
  UnixMillis first_seen;
  // Operator's name; empty while it is only proposed.
  std::string approved_by;
  UnixMillis approved;
  // Machines whose last trusted quote shows it.
  std::uint64_t nodes = 0;
  bool confirmed = false;
  bool approved_now() const { return !approved_by.empty(); }
};

// What is remembered of one machine.
struct NodeHardware {
  Hardware hardware;
  Sha256Digest baseline;
  bool operator==(const NodeHardware&) const = default;
};

// Thread-safe; a write that returned OK survives a power cut. A baseline is a row and its machines are
// counted as they come and go, so that nothing here costs what the fleet has machines. `machines`: how many
// of a model and firmware version have to show a baseline, besides being more than half, to confirm it.
// Errors besides those named: UNAVAILABLE/STORE_FAILED.
class BaselineStore {
 public:
  virtual ~BaselineStore() = default;
  virtual Result<std::optional<NodeHardware>> HardwareOf(const NodeId& node) = 0;
  // The node's last trusted quote shows this; proposes it where it is new. A proposal that no machine shows
  // any more goes.
  virtual Status Record(const NodeId& node, const Hardware& hardware, const Baseline& baseline,
                        UnixMillis now) = 0;
  // Newest approval first.
  virtual Result<std::vector<Baseline>> Approved(const HardwareModel& model) = 0;
  virtual Result<bool> Confirmed(const Sha256Digest& id, std::uint32_t machines) = 0;
  // By model, then approved ones first, then by machines. Nothing: every model. At most `limit`.
  virtual Result<std::vector<BaselineRecord>> List(const std::optional<HardwareModel>& model,
                                                   std::uint32_t machines, std::size_t limit) = 0;
  // `prefix`: the beginning of the id in hex. Errors: NOT_FOUND/BASELINE_UNKNOWN where none or several start
  // so.
  virtual Result<BaselineRecord> Find(const std::string& prefix, std::uint32_t machines) = 0;
  virtual Result<std::vector<NodeId>> NodesOf(const Sha256Digest& id, std::size_t limit) = 0;
  // Again is fine; the first approval stays. Errors: NOT_FOUND/BASELINE_UNKNOWN.
  virtual Status Approve(const Sha256Digest& id, const std::string& by, UnixMillis now) = 0;
  // It is a proposal again, or gone where no machine shows it. Errors: NOT_FOUND/BASELINE_UNKNOWN.
  virtual Status Withdraw(const Sha256Digest& id) = 0;
};

}  // namespace sealift::controller
