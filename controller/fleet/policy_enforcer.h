// What follows by itself when a node's verdict turns bad: an alert, quarantine, paused rollouts.
//
// Acts when a verdict changes, not each time it is repeated, so that what an operator decides afterwards
// stays. Every act is in the audit log (operator "controller", role "policy"), in the daemon's log and
// counted.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "controller/fleet/rollout_engine.h"
#include "controller/fleet/stores.h"
#include "shared/base/clock.h"

namespace sealift::controller {

struct TrustActions {
  // What the policy does is told to the alert program (controller/app/alert_hook.h).
  bool alert = true;
  bool quarantine = false;
  // The node's certificate ends as it is; docs/attestation.md.
  bool deny_renewal = false;
  // Those in which the node takes part.
  bool pause_rollouts = false;
  bool operator==(const TrustActions&) const = default;
};

struct AttestationPolicy {
  TrustActions on_untrusted;
  TrustActions on_unknown;
  // At most this share of admitted and quarantined nodes is in quarantine after an act of the policy.
  std::uint32_t quarantine_percent = 0;

  // Null for a trusted node.
  const TrustActions* ActionsFor(Trust trust) const;
};

// Words of a setting such as "alert quarantine". Errors: INVALID_ARGUMENT/POLICY_UNENFORCEABLE for an unknown
// word, or a word that is there twice. "none" stands alone.
Result<TrustActions> ParseTrustActions(std::string_view setting, std::string_view words);
// What no word by itself tells. Errors: INVALID_ARGUMENT/POLICY_UNENFORCEABLE.
Status CheckAttestationPolicy(const AttestationPolicy& policy);

// Thread-safe; what it wrote survives a power cut. Errors: UNAVAILABLE/STORE_FAILED.
class PolicyStore {
 public:
  virtual ~PolicyStore() = default;
  enum class Quarantine { kDone, kNotAdmitted, kLimit };
  // In one transaction: two nodes never pass the limit together.
  virtual Result<Quarantine> QuarantineWithin(const NodeId& id, std::uint32_t percent) = 0;
  virtual Result<std::vector<std::string>> RunningRolloutsOf(const NodeId& id) = 0;
};

// What the policy did, for whoever is to be told.
struct PolicyAct {
  // "alert", "quarantine", "quarantine-limit", "deny-renewal", "pause-rollout".
  std::string act;
  NodeId node;
  Trust trust = Trust::kUnspecified;
  // Reason ids of the verdict.
  std::vector<std::string> reasons;
  // Of "pause-rollout".
  std::string rollout = {};
  UnixMillis at = {};
};

// Thread-safe.
class PolicyEnforcer {
 public:
  struct Parts {
    PolicyStore& store;
    AuditStore& audit;
    RolloutEngine& engine;
    const Clock& clock;
    // Told of each act.
    std::function<void(std::string_view act)> count;
    // Told of each act on a verdict whose actions have "alert". Does not wait. May be empty.
    std::function<void(const PolicyAct&)> alert = nullptr;
  };
  PolicyEnforcer(AttestationPolicy policy, Parts parts) : policy_(policy), parts_(std::move(parts)) {}

  // Before `next` becomes the node's last verdict: after a crash in between it is done again. Errors: those
  // of the stores.
  Status OnVerdict(const Node& node, const Verdict& next);
  // Whether a node with this verdict gets no certificate. Audited where not.
  Result<bool> DeniesRenewal(const NodeId& node, const Verdict& verdict);

 private:
  Status Quarantine(const NodeId& node, const Verdict& verdict);
  Status PauseRollouts(const NodeId& node, const Verdict& verdict);
  // Counts, audits and, where it is to be told, tells.
  Status Done(PolicyAct act, std::string request, std::string outcome);

  const AttestationPolicy policy_;
  const Parts parts_;
};

}  // namespace sealift::controller
