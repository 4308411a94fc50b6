// Requests that need two persons, as the controller keeps them, and the recovery keys that some are about.
//
// Plain values; no gRPC, no SQL. What the persons sign is shared/order/change_request.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/ids.h"
#include "shared/order/change_request.h"

namespace sealift::controller {

// Stored and on the wire; do not renumber (proto ChangeRequest.State).
enum class RequestState {
  kOpen = 1,
  kApproved = 2,
  kDelivered = 3,
  kDone = 4,
  kFailed = 5,
  kCancelled = 6,
  // Never stored: what kOpen and kApproved become with time.
  kExpired = 7,
};
std::string_view RequestStateName(RequestState state);
// Nothing follows.
bool HasEnded(RequestState state);

// Stored and on the wire; do not renumber (proto OrderOutcome.State).
enum class OutcomeState { kUnspecified = 0, kAccepted = 1, kDone = 2, kRefused = 3, kFailed = 4 };
std::string_view OutcomeStateName(OutcomeState state);

// What a node says became of an order.
struct OrderOutcome {
  Sha256Digest request_digest;
  OutcomeState state = OutcomeState::kUnspecified;
  std::string reason;
  std::string message;
  UnixMillis at;
  bool operator==(const OrderOutcome&) const = default;
};

struct RequestRecord {
  order::ChangeRequest request;
  // What both persons sign, and its SHA-256.
  std::string canonical;
  Sha256Digest digest;
  RequestState state = RequestState::kOpen;
  order::PersonSignature requester;
  // Empty until somebody approved it.
  order::PersonSignature approver;
  std::string approver_name;
  UnixMillis approved;
  // DSSE; empty where no order follows from it.
  std::string envelope;
  // Of the node, or who cancelled it.
  std::optional<OrderOutcome> outcome;
  bool operator==(const RequestRecord&) const = default;
};

// kExpired where its time is over before anybody carried it out.
RequestState StateAt(const RequestRecord& record, UnixMillis now);

// An order that waits for its node.
struct PendingOrder {
  std::string request_id;
  RequestState state = RequestState::kApproved;
  Bytes nonce;
  UnixMillis expires;
  std::string envelope;
};

// A recovery key as the node encrypted it.
struct EscrowedKey {
  NodeId node;
  std::string volume;
  std::string luks_uuid;
  std::uint32_t slot = 0;
  std::string blob;
  Sha256Digest blob_digest;
  UnixMillis stored;
  // When a custodian was given it; 1970: never.
  UnixMillis released;
  bool operator==(const EscrowedKey&) const = default;
};

struct RequestQuery {
  std::optional<NodeId> node;
  bool open_only = false;
  std::size_t limit = 100;
};

// Errors everywhere also: UNAVAILABLE/STORE_FAILED.
class RequestStore {
 public:
  virtual ~RequestStore() = default;
  // Again with equal bytes gives the one that is stored. Errors: ALREADY_EXISTS/INVALID_ARGUMENT when the id
  // or the bytes are another's.
  virtual Result<RequestRecord> Create(const RequestRecord& record) = 0;
  // A prefix of the id that is unique will do. Errors: NOT_FOUND/REQUEST_UNKNOWN.
  virtual Result<RequestRecord> Get(const std::string& id) = 0;
  // Newest first.
  virtual Result<std::vector<RequestRecord>> List(const RequestQuery& query) = 0;
  // Writes state, approver, envelope and outcome, if the state still is `from`. Errors:
  // ABORTED/REQUEST_STATE_WRONG; NOT_FOUND/REQUEST_UNKNOWN.
  virtual Status Move(const RequestRecord& record, RequestState from) = 0;
  virtual Result<std::optional<RequestRecord>> FindByDigest(const Sha256Digest& digest) = 0;
};

class EscrowStore {
 public:
  virtual ~EscrowStore() = default;
  // Keeps the newest kMaxEscrowedKeys of a node. Again with the same blob is fine.
  virtual Status Put(const EscrowedKey& key) = 0;
  // Newest first.
  virtual Result<std::vector<EscrowedKey>> List(const NodeId& node) = 0;
  virtual Status MarkReleased(const NodeId& node, UnixMillis at) = 0;
};
inline constexpr std::size_t kMaxEscrowedKeys = 16;

}  // namespace sealift::controller
