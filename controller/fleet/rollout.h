// A rollout: one release, a frozen set of nodes in waves, and the rule by which it goes on or stops.
//
// A node counts as done when it is *attested* on the release in its present boot and healthy, whatever it
// claims; once done it stays so across a reboot, unless it fails. A failed node
// halts the rollout: nodes already updating finish, the next wave does not start until an operator resumes.
// Everything here is a pure function over plain values.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "controller/fleet/node.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/base/status.h"

namespace sealift::controller {

// Stored and on the wire; do not renumber (proto Rollout.State).
enum class RolloutState { kRunning = 1, kPaused = 2, kHalted = 3, kDone = 4, kAborted = 5 };
// Stored and on the wire; do not renumber (proto RolloutNode.Progress).
enum class Progress { kWaiting = 1, kUpdating = 2, kDone = 3, kFailed = 4 };

std::string_view RolloutStateName(RolloutState state);
std::string_view ProgressName(Progress progress);

struct RolloutNode {
  NodeId node_id;
  Progress progress = Progress::kWaiting;
  // Of kFailed: reason id and sentence.
  std::string reason;
  std::string message;
  // An operator resumed in spite of this failure: it halts no more.
  bool acknowledged = false;
  // When it was told to update.
  UnixMillis started;
  bool operator==(const RolloutNode&) const = default;
};

struct Wave {
  // As asked: "1", "50%", "100%".
  std::string size;
  std::vector<RolloutNode> nodes;
  bool operator==(const Wave&) const = default;
};

// How many nodes of a wave are how far.
struct WaveCounts {
  std::uint32_t waiting = 0;
  std::uint32_t updating = 0;
  std::uint32_t done = 0;
  std::uint32_t failed = 0;
  bool operator==(const WaveCounts&) const = default;

  void Add(Progress progress, std::uint32_t nodes);
};

struct Rollout {
  std::string id;
  std::string channel;
  std::string version;
  ReleaseId release_id;
  std::string selector;
  RolloutState state = RolloutState::kRunning;
  std::vector<Wave> waves;
  std::uint32_t current_wave = 0;
  UnixMillis created;
  std::string created_by;
  std::string request_key;
  std::string halted_reason;
  // Counts writes: the store refuses one that is based on an older revision.
  std::uint64_t revision = 0;
  bool operator==(const Rollout&) const = default;

  bool ended() const { return state == RolloutState::kDone || state == RolloutState::kAborted; }
};

// A rollout without its nodes: there may be tens of thousands.
struct RolloutSummary {
  // Its waves are empty.
  Rollout rollout;
  // One for each wave.
  std::vector<WaveCounts> counts;
};
RolloutSummary Summarize(Rollout rollout);

inline constexpr std::size_t kMaxWaves = 32;

// Cumulative sizes: a count or a percentage of the nodes, rounded up so that "1%" of three is one. A wave may
// be empty (a later one already covered). Order: by node id, so that two controllers cut the same waves.
// Errors: INVALID_ARGUMENT/WAVES_INVALID for malformed or shrinking sizes, and unless the last covers every
// node.
Result<std::vector<Wave>> CutWaves(const std::vector<std::string>& sizes, std::vector<NodeId> nodes);

// A node's desired release changes with its progress; the store writes both in one transaction.
struct DesiredChange {
  NodeId node_id;
  std::optional<Desired> desired;
  bool operator==(const DesiredChange&) const = default;
};

struct Evaluation {
  Rollout next;
  std::vector<DesiredChange> desired;
  // One sentence per change, for the log.
  std::vector<std::string> transitions;
  bool changed() const { return !transitions.empty(); }
};

// How far one node is, looked at alone.
struct NodeProgress {
  Progress progress = Progress::kUpdating;
  std::string reason;
  std::string message;
};
// `started`: when it was told to update; failures and verdicts before that do not count against it, except a
// failure of this very version, which the node will not try again. `node` null: it is gone.
NodeProgress ProgressOf(const Rollout& rollout, UnixMillis started, const Node* node);

// The record of a node, until the next call; null: it is gone. Asked only of nodes in waves that have
// started, so that a rollout over a large fleet costs what is under way.
using NodeLookup = std::function<const Node*(const NodeId&)>;

// Moves the rollout as far as the nodes' records allow. Idempotent: evaluating the result again changes
// nothing.
Evaluation Evaluate(const Rollout& rollout, const NodeLookup& node_of, UnixMillis now);

// What an operator may do. PAUSED, RUNNING (resumes PAUSED, and HALTED with its failures acknowledged) or
// ABORTED. Errors: FAILED_PRECONDITION/ROLLOUT_STATE_WRONG; INVALID_ARGUMENT for another target state.
Result<Evaluation> SetState(const Rollout& rollout, RolloutState target);

}  // namespace sealift::controller
