#include "controller/fleet/policy_enforcer.h"

#include <fmt/format.h>

#include <sstream>

#include "shared/base/log.h"

namespace sealift::controller {
namespace {

Status Unenforceable(std::string_view setting, std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kPolicyUnenforceable,
                   fmt::format("read {}: {}", setting, why));
}

bool* FieldOf(TrustActions& actions, std::string_view word) {
  if (word == "alert") return &actions.alert;
  if (word == "quarantine") return &actions.quarantine;
  if (word == "deny-renewal") return &actions.deny_renewal;
  if (word == "pause-rollouts") return &actions.pause_rollouts;
  return nullptr;
}

std::string WhyOf(const Verdict& verdict) {
  return fmt::format("{}{}{}", TrustName(verdict.trust), verdict.reasons.empty() ? "" : ": ",
                     fmt::join(verdict.reasons, ", "));
}

PolicyAct ActOn(std::string_view act, const NodeId& node, const Verdict& verdict) {
  return {.act = std::string(act), .node = node, .trust = verdict.trust, .reasons = verdict.reasons};
}

}  // namespace

const TrustActions* AttestationPolicy::ActionsFor(Trust trust) const {
  if (trust == Trust::kUntrusted) return &on_untrusted;
  if (trust == Trust::kUnknown) return &on_unknown;
  return nullptr;
}

Result<TrustActions> ParseTrustActions(std::string_view setting, std::string_view words) {
  TrustActions actions{.alert = false};
  std::istringstream stream{std::string(words)};
  int count = 0;
  bool none = false;
  for (std::string word; stream >> word; ++count) {
    if (word == "none") {
      none = true;
      continue;
    }
    bool* const field = FieldOf(actions, word);
    if (field == nullptr) return Unenforceable(setting, fmt::format("'{}' is no action", word));
    if (*field) return Unenforceable(setting, fmt::format("'{}' is there twice", word));
    *field = true;
  }
  if (count == 0) return Unenforceable(setting, "it is empty; write \"none\" for no action");
  if (none && count > 1) return Unenforceable(setting, "'none' stands beside actions");
  return actions;
}

Status CheckAttestationPolicy(const AttestationPolicy& policy) {
  const bool quarantines = policy.on_untrusted.quarantine || policy.on_unknown.quarantine;
  if (quarantines && policy.quarantine_percent == 0) {
    return Unenforceable("attestation.quarantine_percent",
                         "required with 'quarantine': the share of the fleet that may be in it");
  }
  if (!quarantines && policy.quarantine_percent != 0) {
    return Unenforceable("attestation.quarantine_percent", "no action is 'quarantine'");
  }
  return OkStatus();
}

Status PolicyEnforcer::OnVerdict(const Node& node, const Verdict& next) {
  const TrustActions* const actions = policy_.ActionsFor(next.trust);
  if (actions == nullptr) return OkStatus();
  const auto& last = node.last_verdict;
  if (last && last->trust == next.trust && last->reasons == next.reasons) return OkStatus();
  if (actions->alert) {
    log::Warning("a node's attestation turned bad", {{"node", node.id.text()}, {"reason", WhyOf(next)}});
    SEALIFT_RETURN_IF_ERROR(
        Done(ActOn("alert", node.id, next), fmt::format("node {}: {}", node.id.text(), WhyOf(next)), "OK"));
  }
  if (actions->quarantine) SEALIFT_RETURN_IF_ERROR(Quarantine(node.id, next));
  if (actions->pause_rollouts) SEALIFT_RETURN_IF_ERROR(PauseRollouts(node.id, next));
  return OkStatus();
}

Result<bool> PolicyEnforcer::DeniesRenewal(const NodeId& node, const Verdict& verdict) {
  const TrustActions* const actions = policy_.ActionsFor(verdict.trust);
  if (actions == nullptr || !actions->deny_renewal) return false;
  log::Warning("a node's certificate is not renewed", {{"node", node.text()}, {"reason", WhyOf(verdict)}});
  SEALIFT_RETURN_IF_ERROR(Done(ActOn("deny-renewal", node, verdict),
                               fmt::format("node {}: {}", node.text(), WhyOf(verdict)), "OK"));
  return true;
}

Status PolicyEnforcer::Quarantine(const NodeId& node, const Verdict& verdict) {
  SEALIFT_ASSIGN_OR_RETURN(const PolicyStore::Quarantine done,
                           parts_.store.QuarantineWithin(node, policy_.quarantine_percent));
  if (done == PolicyStore::Quarantine::kNotAdmitted) return OkStatus();
  const bool limit = done == PolicyStore::Quarantine::kLimit;
  const std::string why = WhyOf(verdict);
  if (limit) {
    log::Error("a node was not quarantined: too many are",
               {{"node", node.text()}, {"reason", std::string(ReasonId(Reason::kQuarantineLimit))}});
  } else {
    log::Warning("a node was quarantined", {{"node", node.text()}, {"reason", why}});
  }
  return Done(ActOn(limit ? "quarantine-limit" : "quarantine", node, verdict),
              fmt::format("node {}: {}", node.text(), why),
              limit ? std::string(ReasonId(Reason::kQuarantineLimit)) : "OK");
}

Status PolicyEnforcer::PauseRollouts(const NodeId& node, const Verdict& verdict) {
  SEALIFT_ASSIGN_OR_RETURN(const auto rollouts, parts_.store.RunningRolloutsOf(node));
  const std::string why = WhyOf(verdict);
  for (const std::string& id : rollouts) {
    const Status paused = parts_.engine.Order(id, RolloutState::kPaused).status();
    // Somebody else stopped it meanwhile.
    if (ReasonOf(paused) == Reason::kRolloutStateWrong) continue;
    if (!paused.ok()) return paused;
    log::Warning("a rollout was paused", {{"key", id}, {"node", node.text()}, {"reason", why}});
    PolicyAct act = ActOn("pause-rollout", node, verdict);
    act.rollout = id;
    SEALIFT_RETURN_IF_ERROR(
        Done(std::move(act), fmt::format("rollout {}: node {}: {}", id, node.text(), why), "OK"));
  }
  return OkStatus();
}

Status PolicyEnforcer::Done(PolicyAct act, std::string request, std::string outcome) {
  act.at = parts_.clock.Now();
  parts_.count(act.act);
  const TrustActions* const actions = policy_.ActionsFor(act.trust);
  if (parts_.alert && actions != nullptr && actions->alert) parts_.alert(act);
  // Whether it went well stands beside it.
  const std::string audited = act.act == "quarantine-limit" ? "quarantine" : act.act;
  return parts_.audit.Append({.at = act.at,
                              .operator_name = "controller",
                              .role = "policy",
                              .rpc = fmt::format("attestation/{}", audited),
                              .request = std::move(request),
                              .outcome = std::move(outcome)});
}

}  // namespace sealift::controller
