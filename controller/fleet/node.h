// A node as the controller knows it: who it is, what it says of itself, and what was proven of it.
//
// Plain values; copies are independent. No gRPC, no SQL.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/release/update_state.h"

namespace sealift::controller {

// Stored and on the wire; do not renumber (proto Node.Admission).
enum class Admission { kPending = 1, kAdmitted = 2, kQuarantined = 3, kRevoked = 4 };
// Stored and on the wire; do not renumber (proto Verdict.Outcome).
enum class Trust { kUnspecified = 0, kTrusted = 1, kUntrusted = 2, kUnknown = 3 };

std::string_view AdmissionName(Admission admission);
std::string_view UpdateStateName(UpdateState state);
std::string_view TrustName(Trust trust);

// What the node says it runs; nothing of it is proven.
struct RunningImage {
  std::string version;
  std::optional<Sha256Digest> image_digest;
  std::string role;
  std::string boot_id;
  bool operator==(const RunningImage&) const = default;
};

// A version that failed on the node and that it will not try again unless ordered.
struct VersionFailure {
  std::string version;
  std::string reason;
  std::string message;
  UnixMillis at;
  bool operator==(const VersionFailure&) const = default;
};

// Why one register is believed or not.
struct PcrFinding {
  std::uint32_t pcr = 0;
  // "match", "mismatch", "unpredicted"; of the firmware's registers also "unknown": nothing is approved for
  // it.
  std::string outcome;
  std::vector<Sha256Digest> expected;
  std::optional<Sha256Digest> found;
  // Of a mismatch or of "unknown": the first event that differs, in words.
  std::string first_difference;
  bool operator==(const PcrFinding&) const = default;
};

// How far a TPM had come when it quoted (TPMS_CLOCK_INFO), and its firmware.
struct QuoteClock {
  std::uint64_t clock_ms = 0;
  std::uint32_t reset_count = 0;
  std::uint32_t restart_count = 0;
  std::uint64_t firmware_version = 0;
  bool operator==(const QuoteClock&) const = default;
};

// What a quote proved. Of a running node, kTrusted means the release's final phase.
struct Verdict {
  Trust trust = Trust::kUnspecified;
  // Reason ids; empty when trusted.
  std::vector<std::string> reasons;
  std::vector<PcrFinding> findings;
  std::string release_version;
  std::optional<ReleaseId> release_id;
  UnixMillis decided;
  bool degraded_boot = false;
  // Reason ids of what an operator should know and what decides nothing: FIRMWARE_CHANGED, BOOT_DEGRADED,
  // BASELINE_UNAPPROVED.
  std::vector<std::string> notes;
  // Of the quote; where it was refused, of the last one that held: the next has to be ahead of it.
  std::optional<QuoteClock> clock;
  // Boot id the node gave with the check-in whose nonce was quoted: tells whether the machine rebooted since.
  // Empty: from an enrolment, which accepts any phase of the boot.
  std::string boot_id;
  bool operator==(const Verdict&) const = default;
};

struct Desired {
  std::string channel;
  std::string version;
  ReleaseId release_id;
  bool operator==(const Desired&) const = default;
};

// What a node holds against this controller: a reason id and a sentence.
struct NodeFinding {
  std::string reason;
  std::string message;
  bool operator==(const NodeFinding&) const = default;
};

// What the node says of its security epoch.
struct EpochStatus {
  // The lowest it accepts: its TPM's counter minus `base`.
  std::uint64_t lowest = 0;
  std::uint64_t base = 0;
  // Of the image of each role; 0: not known.
  std::uint64_t image = 0;
  std::uint64_t passive = 0;
  std::uint64_t recovery = 0;
  bool operator==(const EpochStatus&) const = default;
};

// As the node's TPM certified it.
struct CertifiedEpoch {
  std::uint64_t lowest = 0;
  std::uint64_t base = 0;
  UnixMillis at;
  bool operator==(const CertifiedEpoch&) const = default;
};

// Stored and on the wire; do not renumber (proto VolumeStatus.State).
enum class VolumeState {
  kUnspecified = 0,
  kOpen = 1,
  kPlain = 2,
  kLocked = 3,
  kRefused = 4,
  kMissing = 5,
  kRecovered = 6
};
std::string_view VolumeStateName(VolumeState state);

// One volume as the node's early boot found it.
struct VolumeStatus {
  std::string name;
  VolumeState state = VolumeState::kUnspecified;
  std::string luks_uuid;
  std::string reason;
  std::string message;
  bool without_pcr7 = false;
  bool operator==(const VolumeStatus&) const = default;
};

// How the machine says it was set up.
struct InstallRecord {
  Sha256Digest config_digest;
  std::string config_source;
  std::string version;
  UnixMillis installed;
  bool operator==(const InstallRecord&) const = default;
};

// How far the release that it is fetching has come, as it says. Bytes.
struct FetchStatus {
  std::uint64_t fetched = 0;
  std::uint64_t size = 0;
  bool operator==(const FetchStatus&) const = default;
};

// What a check-in carries.
struct NodeStatus {
  UpdateState state = UpdateState::kUnknown;
  RunningImage running;
  std::string staged_version;
  std::vector<VersionFailure> failures;
  bool healthy = false;
  std::string agent_version;
  std::vector<NodeFinding> findings;
  // What an order has to name; empty while it takes none.
  Bytes order_nonce;
  std::optional<EpochStatus> epoch;
  std::vector<VolumeStatus> volumes;
  std::optional<FetchStatus> fetch;
  bool operator==(const NodeStatus&) const = default;
};

struct Node {
  NodeId id;
  // SHA-256 of the EK's SubjectPublicKeyInfo; unique, replaced by an operator only.
  Sha256Digest ek_digest;
  // TPM2B_PUBLIC of the attestation key in force: what quotes are verified with.
  Bytes ak_public;
  Admission admission = Admission::kPending;
  std::map<std::string, std::string> labels;
  NodeStatus status;
  UnixMillis enrolled;
  // 1970 while it never checked in.
  UnixMillis last_seen;
  std::optional<Verdict> last_verdict;
  std::optional<Desired> desired;
  UnixMillis certificate_not_after;
  std::optional<CertifiedEpoch> certified_epoch;
  std::optional<InstallRecord> install;
};

// "a=b,c=d": every pair must be among the labels; empty selects all. Immutable.
class Selector {
 public:
  // Keys: 1 to 63 of [a-z0-9._-/], values: up to 63 of [A-Za-z0-9._-]. At most 16 pairs, no key twice, no
  // spaces inside. Errors: INVALID_ARGUMENT/SELECTOR_INVALID.
  static Result<Selector> Parse(std::string_view text);
  bool Matches(const std::map<std::string, std::string>& labels) const;
  const std::map<std::string, std::string>& pairs() const { return pairs_; }
  // Canonical: sorted by key.
  std::string text() const;

 private:
  std::map<std::string, std::string> pairs_;
};

// The same rules as for selectors. Errors: INVALID_ARGUMENT/SELECTOR_INVALID.
Status CheckLabels(const std::map<std::string, std::string>& labels);
// Adds each of `offered` that the rules allow; a key that is there keeps its value. Gives the keys that did
// not fit.
std::vector<std::string> AddLabels(std::map<std::string, std::string>& labels,
                                   const std::map<std::string, std::string>& offered);

}  // namespace sealift::controller
