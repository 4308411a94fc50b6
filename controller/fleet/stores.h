// What the fleet's domain needs to remember: narrow interfaces, one aggregate each.
//
// Implementations are thread-safe. A write that returned OK survives a power cut. Every method may also fail
// with UNAVAILABLE/STORE_FAILED (the database's own message is quoted). Conformance suites:
// tests/contract/*_contract.h.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "controller/fleet/node.h"
#include "controller/fleet/request.h"
#include "controller/fleet/rollout.h"
#include "shared/base/status.h"

namespace sealift::controller {

// What decides the answer to a check-in, without the bulk of a node's record.
struct CheckInView {
  Admission admission = Admission::kPending;
  // 1970 while it was never heard.
  UnixMillis last_seen;
  Trust last_trust = Trust::kUnspecified;
  UnixMillis last_decided;
  std::string last_verdict_boot_id;
  // Firmware tried other boot options on the way to that boot.
  bool last_degraded = false;
  // The lowest epoch its TPM certified; absent while it never did.
  std::optional<std::uint64_t> certified_epoch;
  std::optional<Desired> desired;
  // Approved and not ended, oldest first.
  std::vector<PendingOrder> orders;
};

struct NodeQuery {
  Selector selector;
  // Nodes whose id starts so; empty: all.
  std::string id_prefix;
  // Exclusive; ids sort as text. Empty: from the first.
  std::string after_id;
  std::size_t limit = 100;
};

class NodeStore {
 public:
  virtual ~NodeStore() = default;
  // A new node, or the next certificate or attestation key of one that is there (same id): then only
  // ak_public and certificate_not_after change, and install where it is given. Errors:
  // ALREADY_EXISTS/INVALID_ARGUMENT when the EK belongs to another id.
  virtual Status Enrol(const Node& node) = 0;
  // Errors: NOT_FOUND/NODE_UNKNOWN.
  virtual Result<Node> Get(const NodeId& id) = 0;
  virtual Result<std::optional<Node>> FindByEk(const Sha256Digest& ek_digest) = 0;
  // Ordered by id.
  virtual Result<std::vector<Node>> List(const NodeQuery& query) = 0;
  // Errors: NOT_FOUND/NODE_UNKNOWN.
  virtual Status SetLabels(const NodeId& id, const std::map<std::string, std::string>& labels) = 0;
  // What a node's image says of it: AddLabels, only while the node was never heard. After that labels are the
  // operators'. Gives the keys that did not fit. Errors: NOT_FOUND/NODE_UNKNOWN.
  virtual Result<std::vector<std::string>> AdoptLabels(const NodeId& id,
                                                       const std::map<std::string, std::string>& labels) = 0;
  // Errors: NOT_FOUND/NODE_UNKNOWN.
  virtual Status RecordEpoch(const NodeId& id, const CertifiedEpoch& epoch) = 0;
  virtual Status SetAdmission(const NodeId& id, Admission admission) = 0;
  // Admits a node with these labels if it still is pending; what an operator decided meanwhile stays. Gives
  // the admission in force after it. Errors: NOT_FOUND/NODE_UNKNOWN.
  virtual Result<Admission> AdmitPending(const NodeId& id,
                                         const std::map<std::string, std::string>& labels) = 0;
};

// The node's own traffic: frequent, small.
class NodeStatusStore {
 public:
  virtual ~NodeStatusStore() = default;
  // Errors: NOT_FOUND/NODE_UNKNOWN.
  virtual Result<CheckInView> ViewForCheckIn(const NodeId& id) = 0;
  // `nonce`: handed out with this check-in; replaces an earlier one.
  struct QuoteNonce {
    Bytes nonce;
    UnixMillis expires;
  };
  // The result says whether the status differs from the one before.
  virtual Result<bool> RecordStatus(const NodeId& id, const NodeStatus& status, UnixMillis now,
                                    const std::optional<QuoteNonce>& nonce) = 0;
  // The same without a thread that waits: `done` is called once, from a thread of the store, which it must
  // not block.
  virtual void RecordStatusLater(const NodeId& id, const NodeStatus& status, UnixMillis now,
                                 const std::optional<QuoteNonce>& nonce,
                                 std::function<void(const Result<bool>&)> done) = 0;
  // Gives the nonce once; nothing when there is none or it has expired.
  virtual Result<std::optional<Bytes>> TakeQuoteNonce(const NodeId& id, UnixMillis now) = 0;
  virtual Status RecordVerdict(const NodeId& id, const Verdict& verdict) = 0;
};

class RolloutStore {
 public:
  virtual ~RolloutStore() = default;
  // Gives the rollout that is stored: an earlier one with the same request key, where there is one.
  // Errors: ALREADY_EXISTS/INVALID_ARGUMENT when that one is of another release, selector or wave sizes;
  // FAILED_PRECONDITION/ROLLOUT_OVERLAPS when a node is in another rollout, of whichever channel,
  // that has not ended: a node has one desired release.
  virtual Result<Rollout> Create(const Rollout& rollout) = 0;
  // Errors: NOT_FOUND/ROLLOUT_UNKNOWN. A unique prefix of the id will do.
  virtual Result<Rollout> Get(const std::string& id) = 0;
  // Those that have not ended, newest first.
  virtual Result<std::vector<Rollout>> ListActive() = 0;
  virtual Result<std::size_t> CountActive() = 0;
  // Of the rollout with exactly this id. Errors: NOT_FOUND/ROLLOUT_UNKNOWN.
  virtual Result<std::uint64_t> Revision(const std::string& id) = 0;
  // Newest first, ended ones too.
  virtual Result<std::vector<RolloutSummary>> ListNewest(std::size_t limit) = 0;
  // Writes the rollout and its nodes' desired releases in one transaction, if it still is at `revision`. A
  // desired release is taken back only where it is this rollout's.
  // Errors: ABORTED/ROLLOUT_STATE_WRONG when someone else changed it since; read it again.
  virtual Status Save(const Rollout& rollout, const std::vector<DesiredChange>& desired) = 0;
};

struct ReleaseRecord {
  std::string channel;
  std::string version;
  ReleaseId release_id;
  UnixMillis published;
  std::uint64_t total_bytes = 0;
  // As signed: what predictions are computed from.
  std::string manifest_json;
  bool operator==(const ReleaseRecord&) const = default;
};

class ReleaseStore {
 public:
  virtual ~ReleaseStore() = default;
  // Again with equal content is fine. Errors: ALREADY_EXISTS/INVALID_ARGUMENT when channel and version name
  // another one.
  virtual Status Put(const ReleaseRecord& release) = 0;
  // Errors: NOT_FOUND/RELEASE_UNKNOWN.
  virtual Result<ReleaseRecord> Get(const std::string& channel, const std::string& version) = 0;
  // Empty channel: all. By channel, then by publication.
  virtual Result<std::vector<ReleaseRecord>> List(const std::string& channel) = 0;
};

struct AdmittedEk {
  Sha256Digest ek_digest;
  std::map<std::string, std::string> labels;
  std::string note;
  std::string admitted_by;
  UnixMillis at;
  bool operator==(const AdmittedEk&) const = default;
};

// The allow-list of endorsement keys.
class AdmissionStore {
 public:
  virtual ~AdmissionStore() = default;
  // Replaces labels and note of one that is listed.
  virtual Status Admit(const AdmittedEk& ek) = 0;
  virtual Result<std::optional<AdmittedEk>> Find(const Sha256Digest& ek_digest) = 0;
};

struct EvidenceRecord {
  NodeId node_id;
  Verdict verdict;
  // TPMS_ATTEST and TPMT_SIGNATURE as they came.
  Bytes attest;
  Bytes signature;
  // Lies outside the table, by its digest.
  Bytes event_log;
  // What it takes to judge it again. Empty in records of earlier versions.
  Bytes nonce;
  // TPM2B_PUBLIC.
  Bytes ak_public;
  // As sent.
  std::map<std::uint32_t, Sha256Digest> pcrs;
  // Of an enrolment: any phase of the boot would have done.
  bool any_phase = false;
  // What the quote had to be ahead of.
  std::optional<QuoteClock> before;
  // Expected values of every release of that time, JSON (attest/evidence_file.h); lies outside the table,
  // too.
  Bytes expected;
  // What the firmware's registers were compared with, JSON (attest/firmware.h); empty where they were not.
  // Lies outside the table.
  Bytes baseline;
  // Given by the store.
  std::uint64_t sequence = 0;
};

// What each machine had booted, for an auditor; append-only.
class EvidenceStore {
 public:
  virtual ~EvidenceStore() = default;
  virtual Status Append(const EvidenceRecord& record) = 0;
  // Newest first.
  // Without `expected` and `baseline`, which may be large.
  virtual Result<std::vector<EvidenceRecord>> History(const NodeId& id, std::size_t limit) = 0;
  // Errors: NOT_FOUND/EVIDENCE_INVALID when the node has no such record.
  virtual Result<EvidenceRecord> Get(const NodeId& id, std::uint64_t sequence) = 0;
};

struct AuditRecord {
  std::uint64_t sequence = 0;
  UnixMillis at;
  std::string operator_name;
  std::string role;
  std::string rpc;
  // One line: what was asked.
  std::string request;
  // "OK" or a reason id.
  std::string outcome;
  bool operator==(const AuditRecord&) const = default;
};

// Append-only: the store refuses changes and removals.
class AuditStore {
 public:
  virtual ~AuditStore() = default;
  // `sequence` is given by the store.
  virtual Status Append(const AuditRecord& record) = 0;
  // Oldest first, sequence > `after`.
  virtual Result<std::vector<AuditRecord>> List(std::uint64_t after, std::size_t limit) = 0;
};

struct IssuedCertificate {
  // Of the DER.
  Sha256Digest sha256;
  // "sealift:node:<uuid>".
  std::string subject;
  UnixMillis issued;
  UnixMillis not_after;
};

class CertificateStore {
 public:
  virtual ~CertificateStore() = default;
  virtual Status RecordIssued(const IssuedCertificate& certificate) = 0;
  // Works for certificates that were issued elsewhere too (operators'). Again is fine; the first reason
  // stays.
  virtual Status Revoke(const Sha256Digest& sha256, const std::string& reason, UnixMillis at) = 0;
  virtual Result<bool> IsRevoked(const Sha256Digest& sha256) = 0;
};

}  // namespace sealift::controller
