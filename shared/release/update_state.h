// Where a node stands on its way to another release: the one list of states that node and controller share.
//
// The node's state machine (node-agent/update/state_table.h) says what follows from what.
#pragma once

#include <cstdint>

namespace sealift {

// Stored on both sides and on the wire (proto UpdateState); do not renumber.
enum class UpdateState : std::uint8_t {
  // Never said or stored by a node: the controller has not heard of it.
  kUnknown = 0,
  kIdle = 1,
  kFetching = 2,
  kVerified = 3,
  kStaged = 4,
  kArmed = 5,
  kRebooting = 6,
  kAssessing = 7,
  kBlessed = 8,
  kFellBack = 9,
  // A condition of the node, never stored there: the state partition is not mounted.
  kStateMissing = 10,
};

// Versions that failed on a node, as many as it remembers and as a check-in carries; the oldest is forgotten
// first.
inline constexpr int kMaxFailures = 32;

}  // namespace sealift
