#include "controller/fleet/rollout.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace sealift::controller {
namespace {

Status BadWaves(std::string_view size, std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kWavesInvalid,
                   fmt::format("cut waves: '{}' {}", size.substr(0, 40), why));
}

// How many of `total` nodes the waves up to this one cover.
Result<std::size_t> CoveredBy(std::string_view size, std::size_t total) {
  std::string_view digits = size;
  const bool percent = !digits.empty() && digits.back() == '%';
  if (percent) digits.remove_suffix(1);
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size() || digits.front() == '0') {
    return BadWaves(size, "is not a count or a percentage");
  }
  if (percent && number > 100) return BadWaves(size, "is more than everything");
  if (!percent) return std::min<std::size_t>(number, total);
  return (total * number + 99) / 100;
}

// A verdict on the boot in which the node is now. One from enrolment names no boot: it accepts any phase, and
// so says nothing of a running node.
bool OfThisBoot(const Verdict& verdict, const Node& node) {
  return !verdict.boot_id.empty() && verdict.boot_id == node.status.running.boot_id;
}

bool Attested(const Rollout& rollout, const Node& node) {
  const auto& verdict = node.last_verdict;
  return verdict && verdict->trust == Trust::kTrusted && verdict->release_version == rollout.version &&
         verdict->release_id == rollout.release_id && OfThisBoot(*verdict, node);
}

bool RunsIt(const Rollout& rollout, const Node& node) {
  return node.status.running.version == rollout.version &&
         (node.status.state == UpdateState::kBlessed || node.status.state == UpdateState::kIdle);
}

// It quoted in this boot, and what it quoted is not the release it says it runs: a mismatch, or nothing that
// was ever published.
bool DisprovenOnIt(const Rollout& rollout, UnixMillis started, const Node& node) {
  const auto& verdict = node.last_verdict;
  return verdict && (verdict->trust == Trust::kUntrusted || verdict->trust == Trust::kUnknown) &&
         verdict->decided >= started && node.status.running.version == rollout.version &&
         OfThisBoot(*verdict, node);
}

std::string Join(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

// One evaluation's working state.
class Evaluator {
 public:
  Evaluator(const Rollout& rollout, const NodeLookup& node_of, UnixMillis now)
      : node_of_(node_of), now_(now) {
    result_.next = rollout;
  }

  Evaluation Run() && {
    if (rollout().ended()) return std::move(result_);
    for (std::uint32_t wave = 0; wave <= rollout().current_wave && wave < rollout().waves.size(); ++wave) {
      Refresh(rollout().waves[wave]);
    }
    if (rollout().state == RolloutState::kRunning) HaltOnFailure();
    while (rollout().state == RolloutState::kRunning && StartWave() && WaveComplete()) NextWave();
    return std::move(result_);
  }

 private:
  Rollout& rollout() { return result_.next; }
  void Say(std::string sentence) { result_.transitions.push_back(std::move(sentence)); }

  // Takes over what the nodes of a started wave have proven since.
  void Refresh(Wave& wave) {
    for (RolloutNode& node : wave.nodes) {
      if (node.progress == Progress::kWaiting) continue;
      const NodeProgress now = ProgressOf(rollout(), node.started, node_of_(node.node_id));
      // Neither proof nor failure: a node that was done stays done while, say, it reboots.
      if (now.progress == Progress::kUpdating && node.progress == Progress::kDone) continue;
      // A failure stays until the node proves the opposite.
      if (now.progress == Progress::kUpdating && node.progress == Progress::kFailed) continue;
      if (now.progress == node.progress) continue;
      Say(fmt::format("node {}: {} -> {}{}{}", node.node_id.text(), ProgressName(node.progress),
                      ProgressName(now.progress), now.reason.empty() ? "" : " ", now.reason));
      node.progress = now.progress;
      node.reason = now.reason;
      node.message = now.message;
      node.acknowledged = false;
      if (now.progress == Progress::kFailed) result_.desired.push_back({node.node_id, std::nullopt});
    }
  }

  void HaltOnFailure() {
    for (const Wave& wave : rollout().waves) {
      for (const RolloutNode& node : wave.nodes) {
        if (node.progress != Progress::kFailed || node.acknowledged) continue;
        rollout().state = RolloutState::kHalted;
        rollout().halted_reason =
            fmt::format("node {} failed: {}: {}", node.node_id.text(), node.reason, node.message);
        Say("halted: " + rollout().halted_reason);
        return;
      }
    }
  }

  // Tells the waiting nodes of the current wave to update. False when a node among them failed at once.
  bool StartWave() {
    if (rollout().current_wave >= rollout().waves.size()) return false;
    for (RolloutNode& node : rollout().waves[rollout().current_wave].nodes) {
      if (node.progress != Progress::kWaiting) continue;
      node.started = now_;
      const NodeProgress now = ProgressOf(rollout(), now_, node_of_(node.node_id));
      node.progress = now.progress;
      node.reason = now.reason;
      node.message = now.message;
      if (now.progress != Progress::kFailed) {
        result_.desired.push_back(
            {node.node_id, Desired{rollout().channel, rollout().version, rollout().release_id}});
      }
      Say(fmt::format("wave {}: node {}: waiting -> {}", rollout().current_wave + 1, node.node_id.text(),
                      ProgressName(now.progress)));
    }
    HaltOnFailure();
    return rollout().state == RolloutState::kRunning;
  }

  bool WaveComplete() {
    const auto& nodes = rollout().waves[rollout().current_wave].nodes;
    return std::all_of(nodes.begin(), nodes.end(), [](const RolloutNode& node) {
      return node.progress == Progress::kDone || (node.progress == Progress::kFailed && node.acknowledged);
    });
  }

  void NextWave() {
    if (rollout().current_wave + 1 == rollout().waves.size()) {
      rollout().state = RolloutState::kDone;
      Say("done");
      return;
    }
    ++rollout().current_wave;
    Say(fmt::format("wave {} starts", rollout().current_wave + 1));
  }

  const NodeLookup& node_of_;
  UnixMillis now_;
  Evaluation result_;
};

}  // namespace

std::string_view RolloutStateName(RolloutState state) {
  switch (state) {
    case RolloutState::kRunning:
      return "running";
    case RolloutState::kPaused:
      return "paused";
    case RolloutState::kHalted:
      return "halted";
    case RolloutState::kDone:
      return "done";
    case RolloutState::kAborted:
      return "aborted";
  }
  return "unknown";
}

std::string_view ProgressName(Progress progress) {
  switch (progress) {
    case Progress::kWaiting:
      return "waiting";
    case Progress::kUpdating:
      return "updating";
    case Progress::kDone:
      return "done";
    case Progress::kFailed:
      return "failed";
  }
  return "unknown";
}

void WaveCounts::Add(Progress progress, std::uint32_t nodes) {
  switch (progress) {
    case Progress::kWaiting:
      waiting += nodes;
      break;
    case Progress::kUpdating:
      updating += nodes;
      break;
    case Progress::kDone:
      done += nodes;
      break;
    case Progress::kFailed:
      failed += nodes;
      break;
  }
}

RolloutSummary Summarize(Rollout rollout) {
  RolloutSummary summary;
  for (Wave& wave : rollout.waves) {
    WaveCounts& counts = summary.counts.emplace_back();
    for (const RolloutNode& node : wave.nodes) counts.Add(node.progress, 1);
    wave.nodes.clear();
  }
  summary.rollout = std::move(rollout);
  return summary;
}

Result<std::vector<Wave>> CutWaves(const std::vector<std::string>& sizes, std::vector<NodeId> nodes) {
  if (sizes.empty() || sizes.size() > kMaxWaves) return BadWaves("", "is not 1 to 32 sizes");
  std::sort(nodes.begin(), nodes.end());
  std::vector<Wave> waves;
  std::size_t covered = 0;
  for (const std::string& size : sizes) {
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t upto, CoveredBy(size, nodes.size()));
    if (upto < covered) return BadWaves(size, "covers less than the wave before it; sizes are cumulative");
    Wave wave{.size = size};
    for (; covered < upto; ++covered) wave.nodes.push_back(RolloutNode{.node_id = nodes[covered]});
    waves.push_back(std::move(wave));
  }
  if (covered < nodes.size()) return BadWaves(sizes.back(), "leaves nodes out; end with 100%");
  return waves;
}

NodeProgress ProgressOf(const Rollout& rollout, UnixMillis started, const Node* node) {
  if (node == nullptr)
    return {Progress::kFailed, std::string(ReasonId(Reason::kNodeUnknown)), "the node is gone"};
  if (node->admission != Admission::kAdmitted) {
    return {Progress::kFailed, std::string(ReasonId(Reason::kNodeNotAdmitted)),
            fmt::format("the node is {}", AdmissionName(node->admission))};
  }
  for (const VersionFailure& failure : node->status.failures) {
    if (failure.version == rollout.version) return {Progress::kFailed, failure.reason, failure.message};
  }
  if (DisprovenOnIt(rollout, started, *node)) {
    const auto& reasons = node->last_verdict->reasons;
    return {Progress::kFailed, reasons.empty() ? "UNTRUSTED" : reasons.front(),
            fmt::format("its quote on {} is not trusted: {}", rollout.version, Join(reasons))};
  }
  if (Attested(rollout, *node) && RunsIt(rollout, *node) && node->status.healthy)
    return {Progress::kDone, "", ""};
  return {Progress::kUpdating, "", ""};
}

Evaluation Evaluate(const Rollout& rollout, const NodeLookup& node_of, UnixMillis now) {
  return Evaluator(rollout, node_of, now).Run();
}

Result<Evaluation> SetState(const Rollout& rollout, RolloutState target) {
  const auto refuse = [&]() -> Status {
    return MakeError(Code::kFailedPrecondition, Reason::kRolloutStateWrong,
                     fmt::format("set rollout {} to {}: it is {}", rollout.id, RolloutStateName(target),
                                 RolloutStateName(rollout.state)));
  };
  Evaluation result{.next = rollout};
  Rollout& next = result.next;
  if (target == RolloutState::kPaused) {
    if (rollout.state != RolloutState::kRunning) return refuse();
  } else if (target == RolloutState::kRunning) {
    if (rollout.state != RolloutState::kPaused && rollout.state != RolloutState::kHalted) return refuse();
    // A failure that came while it was paused was shown to nobody as the reason to stop: it halts after the
    // resume.
    const bool acknowledge = rollout.state == RolloutState::kHalted;
    next.halted_reason.clear();
    for (Wave& wave : next.waves) {
      for (RolloutNode& node : wave.nodes) {
        if (acknowledge && node.progress == Progress::kFailed) node.acknowledged = true;
      }
    }
  } else if (target == RolloutState::kAborted) {
    if (rollout.ended()) return refuse();
    // "Stay as you are": a node in the middle is told nothing any more; what it armed it may still boot.
    for (const Wave& wave : next.waves) {
      for (const RolloutNode& node : wave.nodes) {
        if (node.progress == Progress::kUpdating) result.desired.push_back({node.node_id, std::nullopt});
      }
    }
  } else {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "set rollout state: only running, paused and aborted can be asked for");
  }
  result.transitions.push_back(
      fmt::format("{} -> {}", RolloutStateName(rollout.state), RolloutStateName(target)));
  next.state = target;
  return result;
}

}  // namespace sealift::controller
