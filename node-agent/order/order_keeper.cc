#include "node-agent/order/order_keeper.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/base/foreign_text.h"
#include "shared/base/log.h"
#include "shared/tpm/structures.h"

namespace sealift::agent {
namespace {

constexpr std::size_t kMaxMessageBytes = 512;

bool IsReset(const order::ChangeRequest& request) { return request.action == order::Action::kReset; }

}  // namespace

Result<Sha256Digest> OrderKeeper::EkDigest() {
  if (!ek_digest_) {
    SEALIFT_ASSIGN_OR_RETURN(const EndorsementKey endorsement, seams_.tpm.ReadEndorsementKey());
    SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea area, tpm::ParsePublic(endorsement.public_area));
    ek_digest_ = area.key.key_id();
  }
  return *ek_digest_;
}

Bytes OrderKeeper::Nonce() {
  if (!settings_.orders_root) return {};
  const auto ek = EkDigest();
  // Makes the counter where there is none: a machine that was set up before there were orders.
  const auto counter =
      counter_ ? Result<std::uint64_t>(*counter_) : seams_.counters.DefineCounter(kOrderCounter);
  if (!ek.ok() || !counter.ok()) {
    const Status why = ek.ok() ? counter.status() : ek.status();
    log::Warning("no orders can be taken", {{"error", Describe(why)}});
    return {};
  }
  counter_ = *counter;
  return order::NonceFor(*ek, *counter);
}

Result<order::VerifiedOrder> OrderKeeper::Verify(const std::string& envelope, std::uint64_t orders,
                                                 UnixMillis at) {
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest ek, EkDigest());
  return order::VerifyOrder(envelope, {.orders_root = *settings_.orders_root,
                                       .ek_digest = ek,
                                       .nonce = order::NonceFor(ek, orders),
                                       .now = at});
}

// --- what the record says, and what of it is true

Result<OrderStage> OrderKeeper::StageByCounter() {
  request_.reset();
  if (Nonce().empty()) {
    return MakeError(Code::kUnavailable, Reason::kTpmUnavailable,
                     "go on with order: the TPM does not tell this machine's nonce");
  }
  const auto believe = [&](std::uint64_t orders, UnixMillis at) {
    const auto verified = Verify(record_.envelope, orders, at);
    if (!verified.ok()) return false;
    request_ = verified->request();
    digest_ = verified->digest();
    return true;
  };
  const UnixMillis now = seams_.clock.Now();
  if (believe(*counter_, now))
    return record_.stage == OrderStage::kStaged ? OrderStage::kStaged : OrderStage::kAccepted;
  // Its nonce was spent while it was good, and maybe the power went before that was written down.
  const UnixMillis accepted = record_.accepted == UnixMillis{} ? now : std::min(record_.accepted, now);
  if (*counter_ > 0 && record_.stage != OrderStage::kStaged && believe(*counter_ - 1, accepted))
    return OrderStage::kConsumed;
  return OrderStage::kNone;
}

void OrderKeeper::Resume() {
  std::vector<OrderOutcome> untold = std::move(record_.outcomes);
  record_ = seams_.log.Load();
  for (OrderOutcome& one : untold) {
    if (!Knows(one.request_digest)) Push(std::move(one));
  }
  if (const auto reset = seams_.actions.ResetOutcome()) {
    std::erase_if(record_.outcomes,
                  [&](const OrderOutcome& one) { return one.request_digest == reset->request_digest; });
    Push(*reset);
    if (const Status saved = Save(); !saved.ok())
      log::Warning("outcome of an order not kept", {{"error", Describe(saved)}});
  }
  unproven_ = false;
  if (record_.stage == OrderStage::kNone) {
    // What an earlier boot carried out, or left: the file alone does nothing any more. Without the state
    // partition it cannot be told whether it was.
    if (!seams_.log.Available()) return;
    if (const Status dropped = seams_.actions.DropReset(); !dropped.ok())
      log::Warning("old reset order stays", {{"error", Describe(dropped)}});
    return;
  }
  if (settings_.orders_root) Prove();
}

void OrderKeeper::Prove() {
  const Result<OrderStage> stage = StageByCounter();
  unproven_ = !stage.ok();
  if (!stage.ok()) return;
  if (*stage == OrderStage::kNone) {
    log::Warning("order in hand dropped: it does not verify any more");
    const auto label = order::ReadOrderLabel(record_.envelope);
    if (label.ok() && !Knows(label->digest)) {
      Tell(label->digest, OutcomeState::kFailed,
           MakeError(Code::kFailedPrecondition, Reason::kOrderExpired, "go on with order: its time is over"));
    }
    record_.stage = OrderStage::kNone;
    record_.envelope.clear();
    static_cast<void>(seams_.actions.DropReset());
    static_cast<void>(Save());
    return;
  }
  record_.stage = *stage;
}

// --- new orders

void OrderKeeper::TakeOrders(const std::vector<std::string>& envelopes) {
  if (envelopes.empty() || !settings_.orders_root) return;
  for (const std::string& envelope : envelopes) {
    if (busy()) return;
    TakeOne(envelope);
  }
}

void OrderKeeper::TakeOne(const std::string& envelope) {
  const auto label = order::ReadOrderLabel(envelope);
  if (!label.ok()) {
    // It cannot even be named in an answer.
    log::Warning("order refused", {{"error", Describe(label.status())}});
    return;
  }
  const bool waits = std::ranges::any_of(
      record_.waiting, [&](const WaitingOrder& one) { return one.request_digest == label->digest; });
  if (waits || Knows(label->digest) || Nonce().empty()) return;
  const auto verified = Verify(envelope, *counter_, seams_.clock.Now());
  if (!verified.ok()) {
    if (verified.status().code() == Code::kUnavailable) return;
    return Tell(label->digest, OutcomeState::kRefused, verified.status());
  }
  if (const Status possible = seams_.actions.Check(verified->request()); !possible.ok())
    return Tell(label->digest, OutcomeState::kRefused, possible);
  if (const Status begun = Begin(*verified, envelope); !begun.ok()) {
    log::Error("order not begun", {{"error", Describe(begun)}});
    record_.stage = OrderStage::kNone;
    request_.reset();
    return;
  }
  log::Info("order accepted", {{"key", digest_.hex()},
                               {"state", std::string(order::ActionName(request_->action))},
                               {"reason", request_->reason}});
  Step();
}

Status OrderKeeper::Begin(const order::VerifiedOrder& order, const std::string& envelope) {
  request_ = order.request();
  digest_ = order.digest();
  record_.stage = OrderStage::kAccepted;
  record_.envelope = envelope;
  record_.accepted = seams_.clock.Now();
  attempts_ = 0;
  unproven_ = false;
  looked_at_.reset();
  staged_at_.reset();
  return Save();
}

// --- the order in hand

void OrderKeeper::Step() {
  FollowWaiting();
  if (unproven_) {
    const auto now = seams_.clock.Steady();
    if (looked_at_ && now - *looked_at_ < settings_.look_again_after) return;
    looked_at_ = now;
    Prove();
    if (unproven_) return;
    looked_at_.reset();
  }
  if (record_.stage == OrderStage::kAccepted && request_) {
    if (IsReset(*request_)) {
      if (const Status staged = seams_.actions.StageReset(record_.envelope); !staged.ok())
        return End(OutcomeState::kFailed, staged);
      record_.boot_id = settings_.boot_id;
      record_.stage = OrderStage::kStaged;
      Tell(digest_, OutcomeState::kAccepted, OkStatus());
    } else {
      const auto raised = seams_.counters.IncrementCounter(kOrderCounter);
      counter_.reset();
      if (!raised.ok()) {
        if (raised.status().code() != Code::kUnavailable || ++attempts_ >= settings_.max_attempts)
          return End(OutcomeState::kFailed, raised.status());
        // Whether it counted can be told when it answers again.
        unproven_ = true;
        return;
      }
      counter_ = *raised;
      record_.stage = OrderStage::kConsumed;
      if (const Status saved = Save(); !saved.ok()) return;
    }
  }
  if (record_.stage == OrderStage::kStaged) return AwaitReset();
  if (record_.stage == OrderStage::kConsumed && request_) Perform();
}

void OrderKeeper::Perform() {
  const auto now = seams_.clock.Steady();
  if (looked_at_ && now - *looked_at_ < settings_.look_again_after) return;
  looked_at_ = now;
  const Result<bool> done = seams_.actions.Perform(*request_);
  if (done.ok()) return *done ? End(OutcomeState::kDone, OkStatus()) : Wait();
  if (done.status().code() == Code::kUnavailable && ++attempts_ < settings_.max_attempts) return;
  End(OutcomeState::kFailed, done.status());
}

// Others are taken meanwhile: it may be long until somebody reboots this machine.
void OrderKeeper::Wait() {
  if (record_.waiting.size() >= kMaxWaiting) record_.waiting.erase(record_.waiting.begin());
  record_.waiting.push_back({.request_digest = digest_, .request_id = request_->id});
  End(OutcomeState::kAccepted, OkStatus());
}

void OrderKeeper::FollowWaiting() {
  const std::vector<WaitingOrder> waiting = record_.waiting;
  for (const WaitingOrder& one : waiting) {
    const Result<bool> ended = seams_.actions.HasEnded(one.request_id);
    if (ended.ok() ? !*ended : ended.status().code() == Code::kUnavailable) continue;
    std::erase(record_.waiting, one);
    Tell(one.request_digest, ended.ok() ? OutcomeState::kDone : OutcomeState::kFailed, ended.status());
  }
}

void OrderKeeper::AwaitReset() {
  if (record_.boot_id != settings_.boot_id) {
    // The early unit of this boot did not carry it out, or this would not be here.
    const auto reset = seams_.actions.ResetOutcome();
    if (reset && reset->request_digest == digest_) {
      return End(reset->state, FromWire(Code::kFailedPrecondition, reset->reason, reset->message));
    }
    return End(OutcomeState::kFailed,
               MakeError(Code::kFailedPrecondition, Reason::kOrderUnsupported,
                         "reset: the early boot did not carry the order out; its log says why"));
  }
  const auto now = seams_.clock.Steady();
  if (!staged_at_) staged_at_ = now;
  const bool told = !Knows(digest_);
  if (!told && now - *staged_at_ < settings_.reboot_after) return;
  if (reboot_asked_ && now - *reboot_asked_ < settings_.reboot_again_after) return;
  reboot_asked_ = now;
  if (const Status asked = seams_.actions.RequestReboot("a signed order resets this machine"); !asked.ok())
    log::Error("reboot for a reset order failed", {{"error", Describe(asked)}});
}

// The early boot spends the nonce of a reset that it carries out. One that came to nothing would stay good,
// and a copy of it on the ESP would wipe the machine months later.
void OrderKeeper::SpendNonce() {
  const auto raised = seams_.counters.IncrementCounter(kOrderCounter);
  counter_.reset();
  if (!raised.ok())
    log::Error("nonce of a failed reset was not spent", {{"error", Describe(raised.status())}});
}

void OrderKeeper::End(OutcomeState state, const Status& status) {
  if (record_.stage == OrderStage::kStaged || (request_ && IsReset(*request_))) {
    static_cast<void>(seams_.actions.DropReset());
    if (state != OutcomeState::kDone) SpendNonce();
  }
  record_.stage = OrderStage::kNone;
  record_.envelope.clear();
  request_.reset();
  Tell(digest_, state, status);
}

// --- outcomes

bool OrderKeeper::Knows(const Sha256Digest& digest) const {
  return std::ranges::any_of(record_.outcomes,
                             [&](const OrderOutcome& one) { return one.request_digest == digest; });
}

void OrderKeeper::Push(OrderOutcome outcome) {
  if (record_.outcomes.size() >= kMaxOutcomes) record_.outcomes.erase(record_.outcomes.begin());
  record_.outcomes.push_back(std::move(outcome));
}

void OrderKeeper::Tell(const Sha256Digest& digest, OutcomeState state, const Status& status) {
  std::erase_if(record_.outcomes, [&](const OrderOutcome& one) { return one.request_digest == digest; });
  Push({.request_digest = digest,
        .state = state,
        .reason = status.ok() ? "" : ReasonIdOf(status),
        .message = status.ok() ? "" : Shorten(MessageOf(status), kMaxMessageBytes),
        .at = seams_.clock.Now()});
  if (status.ok()) {
    log::Info("order", {{"key", digest.hex()}, {"state", fmt::format("{}", static_cast<int>(state))}});
  } else {
    log::Warning("order not carried out", {{"key", digest.hex()}, {"error", Describe(status)}});
  }
  if (const Status saved = Save(); !saved.ok())
    log::Warning("outcome of an order not kept", {{"error", Describe(saved)}});
}

void OrderKeeper::OnKnown(const std::vector<Sha256Digest>& digests) {
  const auto before = record_.outcomes.size();
  std::erase_if(record_.outcomes, [&](const OrderOutcome& one) {
    return std::ranges::find(digests, one.request_digest) != digests.end();
  });
  if (record_.outcomes.size() != before) static_cast<void>(Save());
}

Status OrderKeeper::Save() { return seams_.log.Save(record_); }

}  // namespace sealift::agent
