// What carrying out orders asks of the rest of the agent. Plain types; not thread-safe: called by the thread
// that owns the agent's loop.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"
#include "shared/order/change_request.h"

namespace sealift::agent {

// The numbers are those of the wire (proto OrderOutcome.State).
enum class OutcomeState { kAccepted = 1, kDone = 2, kRefused = 3, kFailed = 4 };

// What became of an order, for the controller.
struct OrderOutcome {
  // SHA-256 of the request's canonical bytes.
  Sha256Digest request_digest;
  OutcomeState state = OutcomeState::kRefused;
  std::string reason;
  std::string message;
  UnixMillis at;
  bool operator==(const OrderOutcome&) const = default;
};

// How far the order in hand is.
enum class OrderStage {
  kNone,
  // Believed; nothing was done yet.
  kAccepted,
  // Its nonce is spent; the effect may have been begun.
  kConsumed,
  // A reset lies on the ESP and waits for the next boot.
  kStaged,
};

// An order whose effect goes on for boots, beside others: begun, its nonce spent, its outcome not told yet.
struct WaitingOrder {
  Sha256Digest request_digest;
  std::string request_id;
  bool operator==(const WaitingOrder&) const = default;
};

struct OrderRecord {
  OrderStage stage = OrderStage::kNone;
  // The order as it came; believed only as far as it verifies.
  std::string envelope;
  // When it was believed: what was spent in time is not too late because of a cut.
  UnixMillis accepted{};
  // Boot in which it was staged.
  std::string boot_id;
  // At most kMaxWaiting, oldest first. Believed only so far that their ends are told.
  std::vector<WaitingOrder> waiting;
  // At most kMaxOutcomes, oldest first.
  std::vector<OrderOutcome> outcomes;
  bool operator==(const OrderRecord&) const = default;
};
inline constexpr std::size_t kMaxOutcomes = 8;
inline constexpr std::size_t kMaxWaiting = 4;

// Where the record lies. FileOrderLog (order_log.h) is the real one.
class OrderLog {
 public:
  virtual ~OrderLog() = default;
  // Empty where there is none, or it is not well formed (which is logged).
  virtual OrderRecord Load() = 0;
  // Whether what Load gives is what was saved: the state partition is there.
  virtual bool Available() = 0;
  // Durable when it returns. Without the state partition: kept until this process ends. Errors: those of
  // WriteFileAtomically.
  virtual Status Save(const OrderRecord& record) = 0;
};

// The effects. Each may be repeated after a cut.
class OrderActions {
 public:
  virtual ~OrderActions() = default;
  // Whether it can be done now; asked before the order is accepted. Errors: what the outcome will say.
  virtual Status Check(const order::ChangeRequest& request) = 0;
  // Everything but a reset. True when done, false when it goes on by itself, over reboots. Errors:
  // UNAVAILABLE is tried again; others are final.
  virtual Result<bool> Perform(const order::ChangeRequest& request) = 0;
  // Whether an effect that Perform has begun, and that goes on by itself, has ended. Begins nothing. Errors:
  // what the outcome will say; UNAVAILABLE is asked again.
  virtual Result<bool> HasEnded(const std::string& request_id) = 0;

  // Leaves the order where the next boot's early unit finds it.
  virtual Status StageReset(const std::string& envelope) = 0;
  // Removes it again; success where there is none.
  virtual Status DropReset() = 0;
  // What the early unit of this boot said of a reset.
  virtual std::optional<OrderOutcome> ResetOutcome() = 0;
  virtual Status RequestReboot(const std::string& why) = 0;
};

}  // namespace sealift::agent
