// Takes signed orders, believes what verifies, carries each out once and remembers what became of it.
//
//   nonce = keeper.Nonce(); check in with it and keeper.outcomes()
//   keeper.TakeOrders(answer.signed_orders); keeper.OnKnown(answer.known_outcomes); keeper.Step();
//
// An order names the machine's nonce, which is made of a TPM counter (order::NonceFor). Each step is on the
// disk before its effect: accepted, then the counter is raised (the order is never good again), then the
// effect, then the outcome. A record that was planted or rolled back is worth nothing: what is gone on with
// after a cut verifies under the nonce of now, or the one before. While the TPM cannot be asked nothing is
// dropped and nothing done. Whatever ends a reset spends its nonce, so that no copy of the order is good
// again.
//
// One order is in hand; an effect that goes on over reboots (new recovery keys) is told as accepted and waits
// beside others.
//
// Not thread-safe: one thread owns it. Borrows its seams.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/order/order_seams.h"
#include "node-agent/tpm/counters.h"
#include "node-agent/tpm/tpm.h"
#include "shared/base/clock.h"
#include "shared/crypto/public_key.h"
#include "shared/order/order.h"

namespace sealift::agent {

struct OrderSettings {
  // Of node.toml; none: no orders are taken.
  std::optional<PublicKey> orders_root;
  std::string boot_id;
  // A staged reset waits so long for its acknowledgement before the reboot, and is asked for again after.
  std::chrono::milliseconds reboot_after = std::chrono::seconds(30);
  std::chrono::milliseconds reboot_again_after = std::chrono::minutes(5);
  // Between looks at an effect that takes time, or that may go better later.
  std::chrono::milliseconds look_again_after = std::chrono::seconds(5);
  int max_attempts = 10;
};

class OrderKeeper {
 public:
  struct Seams {
    Tpm& tpm;
    TpmCounters& counters;
    OrderActions& actions;
    OrderLog& log;
    Clock& clock;
  };
  OrderKeeper(OrderSettings settings, Seams seams) : settings_(std::move(settings)), seams_(seams) {}

  // Reads the record and goes on from there. Call it again when the state partition appears.
  void Resume();
  // 32 bytes; empty while the machine can take no order (no orders-root, no TPM counter).
  Bytes Nonce();
  // Envelopes as the controller sent them.
  void TakeOrders(const std::vector<std::string>& envelopes);
  // Goes on with the order in hand.
  void Step();

  // To be told until they are known.
  const std::vector<OrderOutcome>& outcomes() const { return record_.outcomes; }
  void OnKnown(const std::vector<Sha256Digest>& digests);
  // An order is in hand.
  bool busy() const { return record_.stage != OrderStage::kNone; }

 private:
  Result<Sha256Digest> EkDigest();
  Result<order::VerifiedOrder> Verify(const std::string& envelope, std::uint64_t orders, UnixMillis at);
  void TakeOne(const std::string& envelope);
  // kNone when the order in the record is none of ours. Errors: UNAVAILABLE while the TPM does not answer.
  Result<OrderStage> StageByCounter();
  // Goes on from the record, once it can be told what of it is true.
  void Prove();
  void SpendNonce();
  void FollowWaiting();
  void Wait();
  Status Begin(const order::VerifiedOrder& order, const std::string& envelope);
  void Perform();
  void AwaitReset();
  void End(OutcomeState state, const Status& status);
  void Push(OrderOutcome outcome);
  void Tell(const Sha256Digest& digest, OutcomeState state, const Status& status);
  bool Knows(const Sha256Digest& digest) const;
  Status Save();

  const OrderSettings settings_;
  const Seams seams_;
  OrderRecord record_;
  // The order in the record, once it was verified by this process.
  std::optional<order::ChangeRequest> request_;
  Sha256Digest digest_;
  std::optional<Sha256Digest> ek_digest_;
  std::optional<std::uint64_t> counter_;
  std::optional<std::chrono::steady_clock::time_point> looked_at_;
  std::optional<std::chrono::steady_clock::time_point> staged_at_;
  std::optional<std::chrono::steady_clock::time_point> reboot_asked_;
  int attempts_ = 0;
  // What the record says of the order in hand was not proven by this process yet.
  bool unproven_ = false;
};

}  // namespace sealift::agent
