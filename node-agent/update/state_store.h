// What the update machine remembers across power cuts, and the seam to where it lies.
//
// The real store is SqliteStateStore (state_store_sqlite.h); every implementation passes
// tests/contract/state_store_contract.h. Not thread-safe: one thread owns the update machine.
//
// The state partition is not trusted: a store checks every value it reads and hands out well-formed records
// only, and the engine takes nothing from a record as proof of what may boot: a process that finds a staged
// image makes every check of it again before it arms it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "node-agent/update/state_table.h"
#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::agent {

inline constexpr std::size_t kMaxReasonBytes = 64;
inline constexpr std::size_t kMaxMessageBytes = 1024;
inline constexpr std::size_t kMaxBootIdBytes = 64;
inline constexpr std::size_t kMaxChannelBytes = 64;

struct UpdateRecord {
  UpdateState state = UpdateState::kIdle;
  // What is being updated to. In kIdle: what failed last and is still to be reported, or empty.
  std::string channel;
  std::string version;
  Sha256Digest release_id;
  Sha256Digest image_digest;
  std::uint64_t image_size = 0;
  // What ran when the update was armed.
  std::string from_version;
  // /proc/sys/kernel/random/boot_id of the boot in which the state was entered: tells a restarted process
  // from a restarted machine.
  std::string boot_id;
  // Monotonic time of that boot at which the state was entered.
  std::int64_t since_ms = 0;
  // Failed tries of the state's work that count towards giving up.
  std::uint32_t attempts = 0;
  // The controller has not accepted a report of this state yet.
  bool report_due = false;
  // kAssessing: the controller accepted a report of this healthy boot.
  bool report_accepted = false;
  // Reason id and sentence of a failure or a fallback; of a reboot asked for by a failed health check.
  std::string reason;
  std::string message;

  bool operator==(const UpdateRecord&) const = default;
};

// A version that is not tried again here unless ordered.
struct VersionFailure {
  std::string version;
  std::string reason;
  std::string message;
  UnixMillis at;
  // Empty: always. Otherwise the refusal depends on what runs (agent too old, rollback) and lapses as soon as
  // another version runs.
  std::string while_running;

  bool operator==(const VersionFailure&) const = default;
};

inline constexpr std::uint32_t kMaxBlessedBoots = 1000;

// How often the running image booted well since it was blessed.
struct BlessedBoots {
  Sha256Digest image;
  std::uint32_t count = 0;
  // The boot counted last.
  std::string boot_id;

  bool operator==(const BlessedBoots&) const = default;
};

struct NodeState {
  // kIdle and empty in a fresh store.
  UpdateRecord record;
  // In the order they were remembered.
  std::vector<VersionFailure> failures;
  // Agent time at which metadata was last verified. Believed no further than stored metadata proves it.
  UnixMillis time_floor{};
  // An order allowed this version although it is older than what runs; empty: none.
  std::string permitted_rollback;
  BlessedBoots blessed_boots;
  // Nothing was ever committed: a first boot, or the state was lost.
  bool fresh = false;

  bool operator==(const NodeState&) const = default;
};

// One transaction: all of it is durable or none.
struct StateChange {
  std::optional<UpdateRecord> record;
  // Replaces an earlier failure of the same version.
  std::optional<VersionFailure> remember;
  std::optional<std::string> forget;
  // Never lowers the floor.
  std::optional<UnixMillis> time_floor;
  // Empty takes the permission back.
  std::optional<std::string> permitted_rollback;
  std::optional<BlessedBoots> blessed_boots;
};

class StateStore {
 public:
  virtual ~StateStore() = default;
  // Errors: DATA_LOSS/STATE_CORRUPT when a value is not well formed; UNAVAILABLE/STATE_IO.
  virtual Result<NodeState> Load() = 0;
  // Durable when it returns. Errors: RESOURCE_EXHAUSTED/DISK_FULL, UNAVAILABLE/STATE_IO;
  // DATA_LOSS/STATE_CORRUPT; INVALID_ARGUMENT/INTERNAL for a change that Load would refuse. After any of them
  // nothing has changed.
  virtual Status Commit(const StateChange& change) = 0;
};

// Whether a record or a failure is one that a store may hold. Errors: INVALID_ARGUMENT/MALFORMED with what.
Status CheckRecord(const UpdateRecord& record);
Status CheckFailure(const VersionFailure& failure);
Status CheckChange(const StateChange& change);
// What a store holds after the change: the model that every implementation follows.
void ApplyChange(const StateChange& change, NodeState& state);

}  // namespace sealift::agent
