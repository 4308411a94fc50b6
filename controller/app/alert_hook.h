// Tells people what the attestation policy did: runs the configured program for each act, with a JSON object
// on its standard input, no shell, bounded time.
//
// Whoever judges never waits for it: acts are queued, at most kMaxWaitingAlerts of them. The rate is bounded,
// too; what was left out is counted and told with the next one, or by itself once there is room again. A
// program that fails is in the log and counted; the audit log has every act, whether it was told or not.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "controller/attest/rate_limit.h"
#include "controller/fleet/policy_enforcer.h"
#include "shared/base/clock.h"
#include "shared/base/status.h"

namespace sealift::controller {

inline constexpr std::size_t kMaxWaitingAlerts = 256;

struct AlertOptions {
  // The program by its absolute path, and its arguments. Empty: nobody is told.
  std::vector<std::string> command;
  // It and what it started are killed then.
  std::chrono::milliseconds timeout = std::chrono::seconds(10);
  int per_minute = 20;
};

// Errors: INVALID_ARGUMENT/POLICY_UNENFORCEABLE where the command is no absolute path of a program that may
// be run.
Status CheckAlertCommand(const std::vector<std::string>& command);

// The object that a program gets, in one line: "version" (1), "at_unix_ms", "act", "node", "trust",
// "reasons", "rollout" where one was paused, and "suppressed": how many acts before this one were not told.
// Of what is told about those alone, "act" is "suppressed" and there is no node.
std::string AlertJson(const std::optional<PolicyAct>& act, std::uint64_t suppressed, UnixMillis now);

// Thread-safe. Borrows the clock.
class AlertHook {
 public:
  // `count` is told of each "alert-sent", "alert-failed" and "alert-suppressed".
  AlertHook(AlertOptions options, const Clock& clock, std::function<void(std::string_view)> count);

  // Never waits.
  void Send(const PolicyAct& act);
  // Runs programs, one at a time, until `stop`; a program under way is waited for.
  void Run(const std::stop_token& stop);

 private:
  // What is to be told next; nothing when it was stopped.
  struct Turn {
    std::optional<PolicyAct> act;
    std::uint64_t suppressed = 0;
  };
  std::optional<Turn> NextTurn(const std::stop_token& stop);
  void Tell(const Turn& turn);

  const AlertOptions options_;
  const Clock& clock_;
  const std::function<void(std::string_view)> count_;
  RateLimiter limiter_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<PolicyAct> waiting_;
  std::uint64_t suppressed_ = 0;
};

}  // namespace sealift::controller
