#include "node-agent/order/reset_order_file.h"

#include "node-agent/order/order_log.h"
#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/order/dsse.h"
#include "shared/order/order.h"

namespace sealift::agent {

Status WriteResetOrder(FileSystem& esp, const std::string& envelope) {
  SEALIFT_RETURN_IF_ERROR(esp.MakeDurableDirectory(kResetOrderFolder));
  return esp.Replace(kResetOrderFile, AsBytes(envelope));
}

Status RemoveResetOrder(FileSystem& esp) {
  if (!esp.Exists(kResetOrderFile)) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(esp.Remove(kResetOrderFile));
  return esp.SyncDirectory(kResetOrderFolder);
}

Result<std::string> EspResetOrders::Pending() {
  const auto esp = parts_.open_esp();
  if (!esp.ok()) {
    log::Warning("no reset order is looked for", {{"error", Describe(esp.status())}});
    return std::string();
  }
  if (!(*esp)->Exists(kResetOrderFile)) return std::string();
  const auto bytes = (*esp)->Read(kResetOrderFile, order::kMaxEnvelopeBytes);
  if (!bytes.ok()) {
    log::Warning("reset order not read", {{"error", Describe(bytes.status())}});
    return std::string();
  }
  const std::string envelope = ToText(*bytes);
  // A TPM may take seconds; a file that is no order at all is not worth them.
  if (const auto label = order::ReadOrderLabel(envelope); !label.ok()) {
    Refuse(envelope, label.status());
    return std::string();
  }
  // Without them no order is this machine's. Its volumes open all the same.
  const Result<std::uint64_t> orders = parts_.counters.ReadCounter(kOrderCounter);
  const Result<Sha256Digest> ek = parts_.ek_digest();
  if (!ek.ok()) {
    Refuse(envelope, ek.status());
    return std::string();
  }
  const auto verified =
      order::VerifyOrder(envelope, {.orders_root = parts_.orders_root,
                                    .ek_digest = *ek,
                                    .nonce = orders.ok() ? order::NonceFor(*ek, *orders) : RandomBytes(32),
                                    .now = parts_.clock.Now()});
  if (!verified.ok()) {
    const bool replayed = ReasonOf(verified.status()) == Reason::kOrderReplayed;
    Refuse(envelope, replayed && !orders.ok() ? orders.status() : verified.status());
    return std::string();
  }
  if (verified->request().action != order::Action::kReset) {
    Refuse(envelope, MakeError(Code::kInvalidArgument, Reason::kOrderUnsupported,
                               "carry out order at boot: it is no reset"));
    return std::string();
  }
  return verified->digest().hex();
}

void EspResetOrders::Refuse(const std::string& envelope, const Status& why) {
  log::Error("reset order refused", {{"error", Describe(why)}});
  const auto label = order::ReadOrderLabel(envelope);
  if (!label.ok()) return;
  const Status left = Leave({.request_digest = label->digest,
                             .state = OutcomeState::kRefused,
                             .reason = ReasonIdOf(why),
                             .message = MessageOf(why),
                             .at = parts_.clock.Now()});
  if (!left.ok()) log::Warning("outcome of the reset order not left", {{"error", Describe(left)}});
}

Status EspResetOrders::Consume(const std::string& id) {
  SEALIFT_RETURN_IF_ERROR(parts_.counters.IncrementCounter(kOrderCounter).status());
  OrderOutcome outcome{.state = OutcomeState::kDone, .at = parts_.clock.Now()};
  SEALIFT_ASSIGN_OR_RETURN(outcome.request_digest, Sha256Digest::FromHex(id));
  // The machine has to start whether or not anybody is told.
  if (const Status left = Leave(outcome); !left.ok())
    log::Warning("outcome of the reset order not left", {{"error", Describe(left)}});
  return OkStatus();
}

Status EspResetOrders::Leave(const OrderOutcome& outcome) {
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(parts_.runtime, 0755));
  return WriteFileAtomically(parts_.runtime / kResetOutcomeName, AsBytes(SerializeOutcome(outcome)));
}

}  // namespace sealift::agent
