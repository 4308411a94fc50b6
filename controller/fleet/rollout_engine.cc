#include "controller/fleet/rollout_engine.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "shared/base/log.h"

namespace sealift::controller {
namespace {

// Someone else wrote the rollout between our read and our write; the next try reads it again.
constexpr int kMaxAttempts = 5;
constexpr auto kRetryAfter = std::chrono::seconds(1);
// Passes that take longer are followed by a pause as long.
constexpr auto kNoticeable = std::chrono::milliseconds(50);
constexpr auto kLongestPause = std::chrono::milliseconds(10'000);

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
    const auto begun = std::chrono::steady_clock::now();
    const Status status = EvaluateAll();
    if (status.ok()) {
      // A large fleet pokes all the time: half of it is left to others.
      const auto took =
          std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begun);
      if (took >= kNoticeable && !clock_.SleepFor(std::min(took, kLongestPause), stop)) return;
      continue;
    }
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
  const std::lock_guard pass(pass_);
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
  std::optional<Node> read;
  Status failed;
  const NodeLookup node_of = [&](const NodeId& id) -> const Node* {
    auto node = nodes_.Get(id);
    if (node.ok()) {
      read = *std::move(node);
      return &*read;
    }
    if (node.status().code() != Code::kNotFound && failed.ok()) failed = node.status();
    return nullptr;
  };
  const Evaluation evaluation = Evaluate(rollout, node_of, clock_.Now());
  // A node that could not be read is not one that is gone.
  if (!failed.ok()) return failed;
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
  Rollout ordered;
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    // Between two passes, not in a race with one.
    const std::lock_guard pass(pass_);
    SEALIFT_ASSIGN_OR_RETURN(const Rollout rollout, rollouts_.Get(id));
    SEALIFT_ASSIGN_OR_RETURN(const Evaluation evaluation, SetState(rollout, target));
    status = Save(rollout, evaluation);
    ordered = evaluation.next;
    if (status.code() != Code::kAborted) break;
  }
  if (!status.ok()) return status;
  EvaluateNow();
  if (auto moved = rollouts_.Get(ordered.id); moved.ok()) return moved;
  return ordered;
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
