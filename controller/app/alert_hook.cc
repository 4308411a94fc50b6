#include "controller/app/alert_hook.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "shared/base/log.h"
#include "shared/base/subprocess.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxOutputBytes = 64u << 10;
// How often it is looked whether what was left out may be told.
constexpr auto kLookAgain = std::chrono::seconds(1);

}  // namespace

Status CheckAlertCommand(const std::vector<std::string>& command) {
  const auto refuse = [](std::string_view why) {
    return MakeError(Code::kInvalidArgument, Reason::kPolicyUnenforceable,
                     fmt::format("read attestation.alert_command: {}", why));
  };
  if (command.empty()) return OkStatus();
  const std::filesystem::path program(command.front());
  if (!program.is_absolute()) return refuse("the program is no absolute path");
  std::error_code error;
  if (!std::filesystem::is_regular_file(program, error) || ::access(program.c_str(), X_OK) != 0) {
    return refuse(fmt::format("'{}' is no program that may be run", program.string()));
  }
  return OkStatus();
}

std::string AlertJson(const std::optional<PolicyAct>& act, std::uint64_t suppressed, UnixMillis now) {
  nlohmann::json alert = {{"version", 1},
                          {"at_unix_ms", ToUnixMs(act ? act->at : now)},
                          {"act", act ? act->act : "suppressed"},
                          {"suppressed", suppressed}};
  if (act) {
    alert["node"] = act->node.text();
    alert["trust"] = std::string(TrustName(act->trust));
    alert["reasons"] = act->reasons;
    if (!act->rollout.empty()) alert["rollout"] = act->rollout;
  }
  return alert.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

AlertHook::AlertHook(AlertOptions options, const Clock& clock, std::function<void(std::string_view)> count)
    : options_(std::move(options)),
      clock_(clock),
      count_(std::move(count)),
      limiter_({.burst = options_.per_minute,
                .refill = std::chrono::microseconds(std::chrono::minutes(1)) / options_.per_minute},
               clock, 1) {}

void AlertHook::Send(const PolicyAct& act) {
  if (options_.command.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() < kMaxWaitingAlerts) {
      waiting_.push_back(act);
      changed_.notify_one();
      return;
    }
    ++suppressed_;
  }
  count_("alert-suppressed");
}

void AlertHook::Run(const std::stop_token& stop) {
  if (options_.command.empty()) return;
  while (const std::optional<Turn> turn = NextTurn(stop)) Tell(*turn);
}

std::optional<AlertHook::Turn> AlertHook::NextTurn(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto some = [&] { return !waiting_.empty(); };
    if (suppressed_ == 0) {
      changed_.wait(lock, stop, some);
    } else {
      changed_.wait_for(lock, stop, kLookAgain, some);
    }
    if (stop.stop_requested()) return std::nullopt;
    Turn turn;
    if (!waiting_.empty()) {
      turn.act = std::move(waiting_.front());
      waiting_.pop_front();
    }
    if (limiter_.Allow(Sha256Digest())) {
      turn.suppressed = std::exchange(suppressed_, 0);
      return turn;
    }
    if (!turn.act) continue;
    ++suppressed_;
    count_("alert-suppressed");
  }
}

void AlertHook::Tell(const Turn& turn) {
  const auto told = RunCommandChecked({.argv = options_.command,
                                       .environment = {},
                                       .stdin_text = AlertJson(turn.act, turn.suppressed, clock_.Now()),
                                       .timeout = options_.timeout,
                                       .max_output_bytes = kMaxOutputBytes});
  count_(told.ok() ? "alert-sent" : "alert-failed");
  if (told.ok()) return;
  log::Error("an alert was not told", {{"node", turn.act ? turn.act->node.text() : ""},
                                       {"path", options_.command.front()},
                                       {"error", Describe(told.status())}});
}

}  // namespace sealift::controller
