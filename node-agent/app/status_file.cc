#include "node-agent/app/status_file.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace sealift::agent {
namespace {

nlohmann::json TimeOrNull(UnixMillis time) {
  return time == UnixMillis() ? nlohmann::json() : nlohmann::json(FormatRfc3339(time));
}

const char* OutcomeName(OutcomeState state) {
  switch (state) {
    case OutcomeState::kAccepted:
      return "accepted";
    case OutcomeState::kDone:
      return "done";
    case OutcomeState::kRefused:
      return "refused";
    case OutcomeState::kFailed:
      break;
  }
  return "failed";
}

nlohmann::json RunningJson(const BootInventory& running) {
  nlohmann::json entries = nlohmann::json::array();
  for (const RoleEntry& entry : running.entries) {
    entries.push_back({{"entry", entry.file_name}, {"version", entry.version}, {"image", entry.image_path}});
  }
  return {{"version", running.running_version},
          {"role", BootRoleName(running.running_role)},
          {"image", running.running_image_path},
          {"image_digest", running.running_digest.hex()},
          {"on_trial", running.running_on_trial},
          {"secure_boot", running.secure_boot},
          {"entries", entries}};
}

}  // namespace

std::string StatusJson(const AgentStatus& status) {
  const EngineStatus& engine = status.engine;
  nlohmann::json failures = nlohmann::json::array();
  for (const VersionFailure& failure : engine.failures) {
    failures.push_back({{"version", failure.version},
                        {"reason", failure.reason},
                        {"message", failure.message},
                        {"at", FormatRfc3339(failure.at)}});
  }
  nlohmann::json orders = nlohmann::json::array();
  for (const OrderOutcome& outcome : status.order_outcomes) {
    orders.push_back({{"request_digest", outcome.request_digest.hex()},
                      {"state", OutcomeName(outcome.state)},
                      {"reason", outcome.reason},
                      {"message", outcome.message},
                      {"at", FormatRfc3339(outcome.at)}});
  }
  const nlohmann::json json = {
      {"orders", orders},
      {"order_in_hand", status.order_in_hand},
      {"epoch", status.epoch ? nlohmann::json(*status.epoch) : nlohmann::json()},
      {"agent_version", status.agent_version},
      {"pid", status.pid},
      {"boot_id", status.boot_id},
      {"node_id", status.node_id},
      {"enrolment", status.enrolment},
      {"certificate_not_after", TimeOrNull(status.certificate_not_after)},
      {"controller_reachable", status.controller_reachable},
      {"last_contact", TimeOrNull(status.last_contact)},
      {"attestation", status.attestation},
      {"state", UpdateStateName(engine.state)},
      {"version", engine.version},
      {"staged_version", engine.staged_version},
      {"running", engine.running ? RunningJson(*engine.running) : nlohmann::json()},
      {"healthy", engine.health.healthy},
      {"health_problem", engine.health.problem},
      {"fetched_bytes", engine.fetched_bytes},
      {"fetch_size", engine.fetch_size},
      {"failures", failures},
      {"problem", status.problem},
      {"controller_journal", engine.journal.ok() ? "" : Describe(engine.journal)},
  };
  // Messages may quote bytes of foreign origin.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

Result<std::string> StatusText(std::string_view text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     "read the agent's status: it is no JSON object");
  }
  const auto value = [&json](const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_string() && !found->get<std::string>().empty()
               ? found->get<std::string>()
               : std::string("-");
  };
  const auto running = json.find("running");
  std::string runs = "-";
  if (running != json.end() && running->is_object()) {
    runs = fmt::format("{} ({}{})", running->value("version", "-"), running->value("role", "-"),
                       running->value("on_trial", false) ? ", on trial" : "");
  }
  return fmt::format(
      "node          {}\nenrolment     {}\nattestation   {}\nlast contact  {}\nruns          {}\nstate       "
      "  {}\n"
      "updating to   {}\nhealthy       {}\nproblem       {}\njournal       {}\n",
      value("node_id"), value("enrolment"), value("attestation"), value("last_contact"), runs, value("state"),
      value("version"), json.value("healthy", false) ? "yes" : "no", value("problem"),
      value("controller_journal"));
}

}  // namespace sealift::agent
