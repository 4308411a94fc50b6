#include "node-agent/order/order_log.h"

#include <nlohmann/json.hpp>

#include "shared/base/files.h"
#include "shared/base/log.h"
#include "shared/order/dsse.h"

namespace sealift::agent {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxLogBytes = order::kMaxEnvelopeBytes * 2 + 64 * 1024;
constexpr std::size_t kMaxTextBytes = 1024;

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

Status Malformed(std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                   std::string("read record of orders: ").append(why));
}

// nlohmann reports wrong types by exception; none leaves this file.
template <typename T, typename Function>
Result<T> Read(std::string_view text, Function function) {
  if (text.size() > kMaxLogBytes) return Malformed("too large");
  try {
    return function(json::parse(text));
  } catch (const json::exception& error) {
    return Malformed(error.what());
  }
}

json OutcomeJson(const OrderOutcome& outcome) {
  return {{"request", outcome.request_digest.hex()},
          {"state", static_cast<int>(outcome.state)},
          {"reason", outcome.reason},
          {"message", outcome.message},
          {"at", ToUnixMs(outcome.at)}};
}

Result<OrderOutcome> OutcomeFrom(const json& value) {
  OrderOutcome outcome;
  SEALIFT_ASSIGN_OR_RETURN(outcome.request_digest,
                           Sha256Digest::FromHex(value.at("request").get<std::string>()));
  const int state = value.at("state").get<int>();
  if (state < static_cast<int>(OutcomeState::kAccepted) || state > static_cast<int>(OutcomeState::kFailed))
    return Malformed("no state of an outcome");
  outcome.state = static_cast<OutcomeState>(state);
  outcome.reason = value.at("reason").get<std::string>();
  outcome.message = value.at("message").get<std::string>();
  if (outcome.reason.size() > kMaxTextBytes || outcome.message.size() > kMaxTextBytes)
    return Malformed("too long a text");
  outcome.at = FromUnixMs(value.at("at").get<std::int64_t>());
  return outcome;
}

}  // namespace

std::string SerializeOutcome(const OrderOutcome& outcome) { return Dump(OutcomeJson(outcome)); }

Result<OrderOutcome> ParseOutcome(std::string_view text) {
  return Read<OrderOutcome>(text, [](const json& value) { return OutcomeFrom(value); });
}

std::string SerializeOrderRecord(const OrderRecord& record) {
  json outcomes = json::array();
  for (const OrderOutcome& outcome : record.outcomes) outcomes.push_back(OutcomeJson(outcome));
  json waiting = json::array();
  for (const WaitingOrder& one : record.waiting)
    waiting.push_back({{"request", one.request_digest.hex()}, {"id", one.request_id}});
  return Dump({{"stage", static_cast<int>(record.stage)},
               {"envelope", record.envelope},
               {"accepted", ToUnixMs(record.accepted)},
               {"boot", record.boot_id},
               {"waiting", waiting},
               {"outcomes", outcomes}});
}

Result<OrderRecord> ParseOrderRecord(std::string_view text) {
  return Read<OrderRecord>(text, [](const json& value) -> Result<OrderRecord> {
    OrderRecord record;
    const int stage = value.at("stage").get<int>();
    if (stage < 0 || stage > static_cast<int>(OrderStage::kStaged)) return Malformed("no stage of an order");
    record.stage = static_cast<OrderStage>(stage);
    record.envelope = value.at("envelope").get<std::string>();
    record.boot_id = value.at("boot").get<std::string>();
    if (record.envelope.size() > order::kMaxEnvelopeBytes || record.boot_id.size() > 64)
      return Malformed("too long a text");
    // Not in records of earlier versions.
    record.accepted = FromUnixMs(value.value("accepted", std::int64_t{0}));
    const json waiting = value.value("waiting", json::array());
    if (!waiting.is_array() || waiting.size() > kMaxWaiting) return Malformed("too many orders that wait");
    for (const json& one : waiting) {
      WaitingOrder order{.request_digest = {}, .request_id = one.at("id").get<std::string>()};
      SEALIFT_ASSIGN_OR_RETURN(order.request_digest,
                               Sha256Digest::FromHex(one.at("request").get<std::string>()));
      if (order.request_id.size() > 64) return Malformed("too long a text");
      record.waiting.push_back(std::move(order));
    }
    const json& outcomes = value.at("outcomes");
    if (!outcomes.is_array() || outcomes.size() > kMaxOutcomes) return Malformed("too many outcomes");
    for (const json& one : outcomes) {
      SEALIFT_ASSIGN_OR_RETURN(OrderOutcome outcome, OutcomeFrom(one));
      record.outcomes.push_back(std::move(outcome));
    }
    return record;
  });
}

OrderRecord FileOrderLog::Load() {
  std::error_code error;
  if (!mounted_() || (!std::filesystem::exists(file_, error) && !error)) return {};
  const auto text = ReadTextFile(file_, kMaxLogBytes);
  auto record = text.ok() ? ParseOrderRecord(*text) : Result<OrderRecord>(text.status());
  if (record.ok()) return *std::move(record);
  log::Warning("record of orders is not usable; it begins anew", {{"error", Describe(record.status())}});
  return {};
}

Status FileOrderLog::Save(const OrderRecord& record) {
  if (!mounted_()) return OkStatus();
  SEALIFT_RETURN_IF_ERROR(MakeDirectories(file_.parent_path(), 0700));
  return WriteFileAtomically(file_, AsBytes(SerializeOrderRecord(record)), 0600);
}

}  // namespace sealift::agent
