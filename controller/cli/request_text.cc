#include "controller/cli/request_text.h"

#include <fmt/format.h>

#include "controller/cli/words.h"
#include "shared/base/clock.h"
#include "shared/order/change_request.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

std::string StateWord(const v1::ChangeRequest& request) {
  return Word(v1::ChangeRequest::State_Name(request.state()));
}

std::string ActionText(const v1::ChangeRequest& request) {
  std::string out = Plain(request.action());
  const auto signed_part = order::ParseChangeRequest(request.canonical());
  if (!signed_part.ok()) return out;
  for (const auto& [key, value] : signed_part->parameters) out += fmt::format(" {}={}", key, value);
  return out;
}

}  // namespace

json RequestJson(const v1::ChangeRequest& request) {
  json out = {{"id", request.id()},
              {"digest", HexEncode(AsBytes(request.digest()))},
              {"state", StateWord(request)},
              {"node", request.node_id()},
              {"action", request.action()},
              {"parameters", json::object()},
              {"reason", ""},
              {"requester", request.requester()},
              {"approver", request.approver()},
              {"created", TimeText(request.created_unix_ms())},
              {"expires", TimeText(request.expires_unix_ms())},
              {"approved", TimeText(request.approved_unix_ms())},
              {"canonical", request.canonical()},
              {"outcome", nullptr}};
  if (const auto signed_part = order::ParseChangeRequest(request.canonical()); signed_part.ok()) {
    out["parameters"] = signed_part->parameters;
    out["reason"] = signed_part->reason;
  }
  if (request.has_outcome()) {
    out["outcome"] = {{"state", Word(v1::OrderOutcome::State_Name(request.outcome().state()))},
                      {"reason", request.outcome().reason()},
                      {"message", request.outcome().message()},
                      {"at", TimeText(request.outcome().at_unix_ms())}};
  }
  return out;
}

std::string RequestTableHead() {
  return fmt::format("{:<12}  {:<10} {:<36}  {:<14} {:<14} {}\n", "REQUEST", "STATE", "NODE", "REQUESTER",
                     "APPROVER", "ACTION");
}

std::string RequestTableRow(const v1::ChangeRequest& request) {
  return fmt::format("{:<12}  {:<10} {:<36}  {:<14} {:<14} {}\n", request.id().substr(0, 12),
                     StateWord(request), request.node_id(), request.requester(),
                     request.approver().empty() ? "-" : request.approver(), ActionText(request));
}

std::string RequestText(const v1::ChangeRequest& request) {
  std::string out = fmt::format("request   {}\nstate     {}\naction    {}\nnode      {}\n", request.id(),
                                StateWord(request), ActionText(request), request.node_id());
  if (const auto signed_part = order::ParseChangeRequest(request.canonical()); signed_part.ok()) {
    out += fmt::format("EK        {}\nwhy       {}\n", signed_part->ek_digest.hex(),
                       signed_part->reason.empty() ? "-" : Plain(signed_part->reason));
  }
  out += fmt::format("requester {} at {}\n", request.requester(), TimeText(request.created_unix_ms()));
  if (!request.approver().empty())
    out += fmt::format("approver  {} at {}\n", request.approver(), TimeText(request.approved_unix_ms()));
  out += fmt::format("expires   {}\ndigest    {}\n", TimeText(request.expires_unix_ms()),
                     HexEncode(AsBytes(request.digest())));
  if (request.has_outcome()) {
    const v1::OrderOutcome& outcome = request.outcome();
    out += fmt::format("outcome   {} at {} {} {}\n", Word(v1::OrderOutcome::State_Name(outcome.state())),
                       TimeText(outcome.at_unix_ms()), Plain(outcome.reason()), Plain(outcome.message()));
  }
  return out;
}

}  // namespace sealift::cli
