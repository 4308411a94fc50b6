#include "controller/fleet/rollout_engine.h"

#include "shared/base/log.h"

namespace sealift::controller {
namespace {

// Someone else wrote the rollout between our read and our write; the next try reads it again.
constexpr int kMaxAttempts = 5;
constexpr auto kRetryAfter = std::chrono::seconds(1);

}  // namespace

void RolloutEngine::Poke() {
  {
    const std::lock_guard lock(mutex_);
    poked_ = true;
  }
  woken_.notify_all();
}

void RolloutEngine::Run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    {
      std::unique_lock lock(mutex_);
      if (!woken_.wait(lock, stop, [this] { return poked_; })) return;
      poked_ = false;
    }
    const Status status = EvaluateAll();
    if (status.ok()) continue;
    log::Error("rollouts could not be evaluated", {{"error", Describe(status)}});
    if (!clock_.SleepFor(kRetryAfter, stop)) return;
    Poke();
  }
}

void RolloutEngine::EvaluateNow() {
  const Status status = EvaluateAll();
  if (status.ok()) return;
  log::Error("rollouts could not be evaluated", {{"error", Describe(status)}});
  Poke();
}

Status RolloutEngine::EvaluateAll() {
  SEALIFT_ASSIGN_OR_RETURN(const auto rollouts, rollouts_.ListActive());
  Status first;
  for (const Rollout& rollout : rollouts) {
    Status status = EvaluateOne(rollout);
    for (int attempt = 1; status.code() == Code::kAborted && attempt < kMaxAttempts; ++attempt) {
      const auto again = rollouts_.Get(rollout.id);
      status = again.ok() ? EvaluateOne(*again) : again.status();
    }
    if (first.ok()) first = status;
  }
  return first;
}

Status RolloutEngine::EvaluateOne(const Rollout& rollout) {
  std::map<NodeId, Node> nodes;
  for (const Wave& wave : rollout.waves) {
    for (const RolloutNode& member : wave.nodes) {
      auto node = nodes_.Get(member.node_id);
      if (node.ok()) {
        nodes.emplace(member.node_id, std::move(node).value());
      } else if (node.status().code() != Code::kNotFound) {
        return node.status();
      }
    }
  }
  const Evaluation evaluation = Evaluate(rollout, nodes, clock_.Now());
  return evaluation.changed() ? Save(rollout, evaluation) : OkStatus();
}

Status RolloutEngine::Save(const Rollout& rollout, const Evaluation& evaluation) {
  SEALIFT_RETURN_IF_ERROR(rollouts_.Save(evaluation.next, evaluation.desired));
  for (const std::string& transition : evaluation.transitions) {
    log::Info("rollout moved", {{"release", rollout.version}, {"key", rollout.id}, {"state", transition}});
  }
  Changed();
  return OkStatus();
}

Result<Rollout> RolloutEngine::Order(const std::string& id, RolloutState target) {
  Status status;
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    SEALIFT_ASSIGN_OR_RETURN(const Rollout rollout, rollouts_.Get(id));
    SEALIFT_ASSIGN_OR_RETURN(const Evaluation evaluation, SetState(rollout, target));
    status = Save(rollout, evaluation);
    if (status.ok()) {
      EvaluateNow();
      if (auto moved = rollouts_.Get(rollout.id); moved.ok()) return moved;
      return evaluation.next;
    }
    if (status.code() != Code::kAborted) break;
  }
  return status;
}

void RolloutEngine::Changed() {
  {
    const std::lock_guard lock(mutex_);
    ++generation_;
  }
  woken_.notify_all();
}

std::uint64_t RolloutEngine::generation() const {
  const std::lock_guard lock(mutex_);
  return generation_;
}

std::uint64_t RolloutEngine::WaitForChange(std::uint64_t seen, std::chrono::milliseconds patience,
                                           const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  woken_.wait_for(lock, stop, patience, [&] { return generation_ != seen; });
  return generation_;
}

}  // namespace sealift::controller
