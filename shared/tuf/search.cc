// The search for a target among delegated roles (5.6.7 of the specification).
#include <fmt/format.h>

#include "shared/tuf/cycle.h"

namespace sealift::tuf {

Result<Targets> Cycle::LoadDelegated(const Delegations& by, const Delegate& role) {
  const auto listed = snapshot->meta.find(role.name + ".json");
  const std::string what = fmt::format("tuf role '{}'", role.name);
  if (listed == snapshot->meta.end()) {
    return MakeError(Code::kFailedPrecondition, Reason::kTufDelegationInvalid,
                     fmt::format("verify {}: the snapshot does not list it", what));
  }
  return LoadTargets(StoredFileName(role.name), PercentEncodeName(role.name),
                     {.keys = by.keys, .allowed = *role.keys, .what = what}, listed->second);
}

Result<std::optional<Target>> Cycle::SearchIn(const Targets& role, Visit& visit) {
  const auto found = role.targets.find(std::string(visit.target_path));
  if (found != role.targets.end()) return std::optional<Target>(found->second);
  if (!role.delegations.has_value()) return std::optional<Target>();
  for (const Delegate& next : DelegatesFor(*role.delegations, visit.target_path)) {
    // A role is asked once, so that a cycle ends.
    if (!visit.roles.contains(next.name)) {
      if (visit.roles.size() >= options_.max_delegations) {
        visit.ended = true;
        return std::optional<Target>();
      }
      visit.roles.insert(next.name);
      SEALIFT_ASSIGN_OR_RETURN(const Targets delegated, LoadDelegated(*role.delegations, next));
      SEALIFT_ASSIGN_OR_RETURN(std::optional<Target> target, SearchIn(delegated, visit));
      if (target.has_value()) return target;
    }
    if (next.terminating) visit.ended = true;
    if (visit.ended) break;
  }
  return std::optional<Target>();
}

Result<Target> Cycle::Search(std::string_view target_path) {
  Visit visit{.target_path = target_path, .roles = {}};
  SEALIFT_ASSIGN_OR_RETURN(std::optional<Target> target, SearchIn(*targets, visit));
  if (target.has_value()) return *std::move(target);
  return MakeError(Code::kNotFound, Reason::kTufTargetUnknown,
                   fmt::format("find target '{}': neither targets version {} nor {} delegated roles list it",
                               target_path, targets->version, visit.roles.size()));
}

}  // namespace sealift::tuf
