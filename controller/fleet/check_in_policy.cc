#include "controller/fleet/check_in_policy.h"

#include <algorithm>

namespace sealift::controller {
namespace {

bool IsSettled(UpdateState state) { return state == UpdateState::kIdle || state == UpdateState::kBlessed; }

}  // namespace

bool QuoteDue(const CheckInView& view, const NodeStatus& status, UnixMillis now,
              const CheckInPolicy& policy) {
  if (view.last_trust == Trust::kUnspecified) return true;
  if (view.last_verdict_boot_id != status.running.boot_id) return true;
  const bool raised = view.certified_epoch && status.epoch && status.epoch->lowest > *view.certified_epoch;
  if (view.last_trust != Trust::kTrusted || raised) return now >= view.last_decided + policy.quote_retry;
  const bool begins =
      view.desired && view.desired->version != status.running.version && IsSettled(status.state);
  return now >= view.last_decided +
                    (begins ? std::min(policy.before_update, policy.quote_interval) : policy.quote_interval);
}

bool CureDue(const CheckInView& view, const NodeStatus& status) {
  return view.last_degraded && view.last_trust == Trust::kTrusted && view.admission == Admission::kAdmitted &&
         !status.running.boot_id.empty() && view.last_verdict_boot_id == status.running.boot_id;
}

std::chrono::milliseconds PollAfter(const CheckInView& view, const NodeStatus& status,
                                    const CheckInPolicy& policy, std::uint32_t spread) {
  const bool elsewhere = view.desired && view.desired->version != status.running.version;
  const auto base = elsewhere || !IsSettled(status.state) || view.last_trust != Trust::kTrusted
                        ? policy.busy_poll
                        : policy.poll;
  return base * (80 + spread % 41) / 100;
}

}  // namespace sealift::controller
