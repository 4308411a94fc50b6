// Who may become a node, as the controller remembers it: listed endorsement keys, join tokens, and machines
// that were refused.
//
// Store implementations are thread-safe; a write that returned OK survives a power cut; every method may also
// fail with UNAVAILABLE/STORE_FAILED. Conformance suite: tests/contract/admission_contract.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "controller/fleet/stores.h"
#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/base/status.h"

namespace sealift::controller {

// A listed key, as an inventory has it.
struct InventoryEntry {
  AdmittedEk ek;
  // Of the machine; empty where it was listed by its key alone.
  std::string serial;
  // The node that came in with it.
  std::optional<NodeId> node_id;
  bool operator==(const InventoryEntry&) const = default;
};

struct InventoryQuery {
  // Exclusive; nothing: from the first.
  std::optional<Sha256Digest> after;
  std::size_t limit = 1000;
  // Only keys whose machine has not enrolled yet.
  bool not_enrolled = false;
};

struct InventoryChange {
  std::uint32_t added = 0;
  std::uint32_t replaced = 0;
};

class InventoryStore {
 public:
  virtual ~InventoryStore() = default;
  // All of them or none, in one transaction. Replaces entries that are there.
  virtual Result<InventoryChange> Import(const std::vector<InventoryEntry>& entries) = 0;
  // Ordered by key.
  virtual Result<std::vector<InventoryEntry>> List(const InventoryQuery& query) = 0;
  // Takes a key off the list. Errors: NOT_FOUND/EK_NOT_LISTED; FAILED_PRECONDITION/EK_CLAIMED when its
  // machine has enrolled: then the node is what to revoke.
  virtual Status Withdraw(const Sha256Digest& ek_digest) = 0;
  // The node belongs to the machine with this endorsement key from now on: its attestation key, clock and
  // verdict are forgotten (with the key it has: for a TPM that was cleared), every certificate that it holds
  // is revoked at `now`. Errors: NOT_FOUND/NODE_UNKNOWN; ALREADY_EXISTS/EK_CLAIMED when the key is another
  // node's.
  virtual Status ReplaceEk(const NodeId& id, const Sha256Digest& ek_digest, UnixMillis now) = 0;
};

// Lets a number of machines in that nobody knew beforehand. The store has its hash only.
struct JoinToken {
  std::string id;
  Sha256Digest hash;
  std::uint32_t uses = 0;
  std::uint32_t used = 0;
  UnixMillis created;
  UnixMillis expires;
  bool revoked = false;
  std::string created_by;
  std::string note;
  // Of the machines that come in with it.
  std::map<std::string, std::string> labels;
  bool operator==(const JoinToken&) const = default;
};

class JoinTokenStore {
 public:
  virtual ~JoinTokenStore() = default;
  virtual Status Create(const JoinToken& token) = 0;
  // Newest first.
  virtual Result<std::vector<JoinToken>> List(std::size_t limit) = 0;
  // Again is fine. Errors: NOT_FOUND/JOIN_TOKEN_UNUSABLE.
  virtual Result<JoinToken> Revoke(const std::string& id) = 0;
  // Uses the token up by one for this machine; for the same machine again it costs nothing, so that a broken
  // exchange can be repeated. Errors: PERMISSION_DENIED/JOIN_TOKEN_UNUSABLE when it is unknown, expired,
  // revoked or used up.
  virtual Result<JoinToken> Redeem(const Sha256Digest& hash, const Sha256Digest& ek_digest,
                                   UnixMillis now) = 0;
};

// "sealift-join-" and 64 hex digits; 256 random bits. The id is the first 12 digits of the hash.
struct NewJoinToken {
  std::string secret;
  Sha256Digest hash;
  std::string id;
};
NewJoinToken MakeJoinToken();
// Nothing for text that is no token.
std::optional<Sha256Digest> HashJoinToken(std::string_view secret);

// A machine that was not believed, or not let in; one entry for each key and reason.
struct Refusal {
  Sha256Digest ek_digest;
  // The node that the key belongs to.
  std::optional<NodeId> node_id;
  std::string reason;
  std::string message;
  // Of the last try.
  std::string origin;
  std::uint32_t count = 1;
  UnixMillis first;
  UnixMillis last;
  bool operator==(const Refusal&) const = default;
};

// Strangers fill it, so it is bounded: the oldest go first.
class RefusalStore {
 public:
  virtual ~RefusalStore() = default;
  // `count`, `first` and `node_id` are the store's.
  virtual Status Record(const Refusal& refusal) = 0;
  // Newest first. `node`: nothing for all.
  virtual Result<std::vector<Refusal>> List(const std::optional<NodeId>& node, std::size_t limit) = 0;
};

// Clock of a verified quote, and the qualified name of the key that signed it.
struct SignerClock {
  Bytes signer;
  QuoteClock clock;
  bool operator==(const SignerClock&) const = default;
};

// How far each node's TPM had come, at enrolments and at every other quote: what the next quote has to be
// ahead of.
class QuoteClockStore {
 public:
  virtual ~QuoteClockStore() = default;
  // Compares with the node's newest (RunsBackwards, controller/attest/quote_clock.h) and takes its place, in
  // one transaction. A clock of another signer is another TPM's and starts anew. Errors:
  // INVALID_ARGUMENT/QUOTE_CLOCK_BACKWARDS.
  virtual Status Advance(const NodeId& node, const SignerClock& clock) = 0;
  // Firmware version 0: of before it was kept.
  virtual Result<std::optional<SignerClock>> Newest(const NodeId& node) = 0;
};

// An inventory file: CSV (RFC 4180) with the header "serial,ek_digest,labels"; labels as "a=b;c=d". Errors:
// INVALID_ARGUMENT/INVENTORY_INVALID with every line that is wrong (at most 20 of them), nothing taken.
Result<std::vector<InventoryEntry>> ParseInventory(std::string_view csv);

}  // namespace sealift::controller
