#include "controller/cli/fleet_text.h"

#include <fmt/format.h>

#include <map>

#include "controller/cli/words.h"
#include "shared/base/bytes.h"
#include "shared/base/clock.h"

namespace sealift::cli {
namespace {

using nlohmann::json;

std::string Hex(const std::string& bytes) { return HexEncode(AsBytes(bytes)); }

std::string Trust(const v1::Node& node) {
  return node.has_last_verdict() ? Word(v1::Verdict::Outcome_Name(node.last_verdict().outcome())) : "none";
}

json VerdictJson(const v1::Verdict& verdict) {
  json findings = json::array();
  for (const v1::PcrFinding& finding : verdict.findings()) {
    json expected = json::array();
    for (const std::string& value : finding.expected()) expected.push_back(Hex(value));
    findings.push_back({{"pcr", finding.pcr()},
                        {"outcome", finding.outcome()},
                        {"expected", expected},
                        {"found", Hex(finding.found())},
                        {"first_difference", finding.first_difference()}});
  }
  return {{"outcome", Word(v1::Verdict::Outcome_Name(verdict.outcome()))},
          {"reasons", std::vector<std::string>(verdict.reasons().begin(), verdict.reasons().end())},
          {"findings", findings},
          {"release_version", verdict.release_version()},
          {"release_id", Hex(verdict.release_id())},
          {"decided", TimeText(verdict.decided_unix_ms())},
          {"degraded_boot", verdict.degraded_boot()}};
}

// What the machine is beside what it runs: epoch, volumes, how it was set up, what is escrowed.
void PutMachineJson(const v1::Node& node, json& out) {
  out["order_nonce"] = Hex(node.order_nonce());
  out["epoch"] = nullptr;
  if (node.has_epoch()) {
    out["epoch"] = {{"lowest", node.epoch().lowest()},
                    {"base", node.epoch().base()},
                    {"image", node.epoch().image()},
                    {"passive", node.epoch().passive()},
                    {"recovery", node.epoch().recovery()}};
  }
  out["certified_epoch"] = nullptr;
  if (node.has_certified_epoch()) {
    out["certified_epoch"] = {{"lowest", node.certified_epoch().lowest()},
                              {"base", node.certified_epoch().base()},
                              {"at", TimeText(node.certified_epoch().certified_unix_ms())}};
  }
  out["volumes"] = json::array();
  for (const v1::VolumeStatus& volume : node.volumes()) {
    out["volumes"].push_back({{"name", volume.name()},
                              {"state", Word(v1::VolumeStatus::State_Name(volume.state()))},
                              {"luks_uuid", volume.luks_uuid()},
                              {"reason", volume.reason()},
                              {"message", volume.message()},
                              {"without_pcr7", volume.without_pcr7()}});
  }
  out["install"] = nullptr;
  if (node.has_install()) {
    out["install"] = {{"config_digest", Hex(node.install().config_digest())},
                      {"config_source", node.install().config_source()},
                      {"version", node.install().version()},
                      {"installed", TimeText(node.install().installed_unix_ms())}};
  }
  out["escrowed_keys"] = json::array();
  for (const v1::EscrowedKey& key : node.escrowed_keys()) {
    out["escrowed_keys"].push_back({{"volume", key.volume()},
                                    {"luks_uuid", key.luks_uuid()},
                                    {"slot", key.slot()},
                                    {"blob_digest", Hex(key.blob_digest())},
                                    {"stored", TimeText(key.stored_unix_ms())},
                                    {"released", TimeText(key.released_unix_ms())}});
  }
}

std::string MachineText(const v1::Node& node) {
  std::string out;
  if (node.has_certified_epoch()) {
    out += fmt::format("epoch     {} or higher, certified at {}", node.certified_epoch().lowest(),
                       TimeText(node.certified_epoch().certified_unix_ms()));
    if (node.has_epoch()) out += fmt::format("; the image says {}", node.epoch().image());
    out += "\n";
  }
  for (const v1::VolumeStatus& volume : node.volumes()) {
    out += fmt::format(
        "volume    {} {}{} {} {}\n", Plain(volume.name()), Word(v1::VolumeStatus::State_Name(volume.state())),
        volume.without_pcr7() ? ", without PCR 7" : "", Plain(volume.reason()), Plain(volume.message()));
  }
  if (node.has_install()) {
    out +=
        fmt::format("installed {} of {} by configuration {} ({})\n",
                    TimeText(node.install().installed_unix_ms()), Plain(node.install().version()),
                    Hex(node.install().config_digest()).substr(0, 16), Plain(node.install().config_source()));
  }
  for (const v1::EscrowedKey& key : node.escrowed_keys()) {
    out += fmt::format("escrow    {} slot {} since {}{}\n", Plain(key.volume()), key.slot(),
                       TimeText(key.stored_unix_ms()),
                       key.released_unix_ms() > 0 ? ", RELEASED " + TimeText(key.released_unix_ms()) : "");
  }
  return out;
}

std::string VerdictText(const v1::Verdict& verdict) {
  std::string out =
      fmt::format("verdict   {} {} at {}{}\n", Word(v1::Verdict::Outcome_Name(verdict.outcome())),
                  verdict.release_version(), TimeText(verdict.decided_unix_ms()),
                  verdict.degraded_boot() ? ", degraded boot" : "");
  for (const std::string& reason : verdict.reasons()) out += fmt::format("          {}\n", Plain(reason));
  for (const v1::PcrFinding& finding : verdict.findings()) {
    out += fmt::format("  PCR {:<3} {:<11} {}\n", finding.pcr(), finding.outcome(), Hex(finding.found()));
    if (finding.outcome() != "mismatch") continue;
    for (const std::string& expected : finding.expected())
      out += fmt::format("          expected    {}\n", Hex(expected));
    out += fmt::format("          {}\n", Plain(finding.first_difference()));
  }
  return out;
}

std::string LabelText(const google::protobuf::Map<std::string, std::string>& labels) {
  std::string out;
  for (const auto& [key, value] : std::map<std::string, std::string>(labels.begin(), labels.end())) {
    out += fmt::format("{}{}={}", out.empty() ? "" : ",", key, value);
  }
  return out;
}

struct Counts {
  std::uint64_t done = 0;
  std::uint64_t failed = 0;
  std::uint64_t all = 0;
};

Counts CountNodes(const v1::Rollout& rollout) {
  Counts counts;
  for (const v1::Wave& wave : rollout.waves()) {
    const v1::WaveCounts& wave_counts = wave.counts();
    counts.done += wave_counts.done();
    counts.failed += wave_counts.failed();
    counts.all += std::uint64_t{wave_counts.waiting()} + wave_counts.updating() + wave_counts.done() +
                  wave_counts.failed();
  }
  return counts;
}

}  // namespace

json NodeJson(const v1::Node& node) {
  json failures = json::array();
  for (const v1::VersionFailure& failure : node.failures()) {
    failures.push_back({{"version", failure.version()},
                        {"reason", failure.reason()},
                        {"message", failure.message()},
                        {"at", TimeText(failure.at_unix_ms())}});
  }
  json findings = json::array();
  for (const v1::NodeFinding& finding : node.findings())
    findings.push_back({{"reason", finding.reason()}, {"message", finding.message()}});
  json out = {{"id", node.id()},
              {"ek_digest", Hex(node.ek_digest())},
              {"admission", Word(v1::Node::Admission_Name(node.admission()))},
              {"labels", std::map<std::string, std::string>(node.labels().begin(), node.labels().end())},
              {"state", Word(v1::UpdateState_Name(node.state()))},
              {"running",
               {{"version", node.running().version()},
                {"image_digest", Hex(node.running().image_digest())},
                {"role", node.running().role()},
                {"boot_id", node.running().boot_id()}}},
              {"staged_version", node.staged_version()},
              {"failures", failures},
              {"findings", findings},
              {"healthy", node.healthy()},
              {"enrolled", TimeText(node.enrolled_unix_ms())},
              {"last_seen", TimeText(node.last_seen_unix_ms())},
              {"certificate_not_after", TimeText(node.certificate_not_after_unix_ms())},
              {"agent_version", node.agent_version()},
              {"verdict", nullptr},
              {"desired", nullptr},
              {"fetch", nullptr}};
  if (node.has_fetch())
    out["fetch"] = {{"fetched_bytes", node.fetch().fetched_bytes()},
                    {"size_bytes", node.fetch().size_bytes()}};
  if (node.has_last_verdict()) out["verdict"] = VerdictJson(node.last_verdict());
  if (node.has_desired()) {
    out["desired"] = {{"channel", node.desired().channel()},
                      {"version", node.desired().version()},
                      {"release_id", Hex(node.desired().release_id())}};
  }
  PutMachineJson(node, out);
  return out;
}

json RolloutJson(const v1::Rollout& rollout, bool with_nodes) {
  json waves = json::array();
  for (const v1::Wave& wave : rollout.waves()) {
    json nodes = json::array();
    for (const v1::RolloutNode& node : wave.nodes()) {
      nodes.push_back({{"node", node.node_id()},
                       {"progress", Word(v1::RolloutNode::Progress_Name(node.progress()))},
                       {"reason", node.reason()},
                       {"message", node.message()}});
    }
    waves.push_back({{"size", wave.size()},
                     {"counts",
                      {{"waiting", wave.counts().waiting()},
                       {"updating", wave.counts().updating()},
                       {"done", wave.counts().done()},
                       {"failed", wave.counts().failed()}}}});
    if (with_nodes) waves.back()["nodes"] = std::move(nodes);
  }
  return {{"id", rollout.id()},
          {"channel", rollout.channel()},
          {"version", rollout.version()},
          {"release_id", Hex(rollout.release_id())},
          {"selector", rollout.selector()},
          {"state", Word(v1::Rollout::State_Name(rollout.state()))},
          {"waves", waves},
          {"current_wave", rollout.current_wave()},
          {"created", TimeText(rollout.created_unix_ms())},
          {"created_by", rollout.created_by()},
          {"halted_reason", rollout.halted_reason()}};
}

json AuditJson(const v1::AuditEntry& entry) {
  return {{"sequence", entry.sequence()},
          {"at", TimeText(entry.at_unix_ms())},
          {"operator", entry.operator_name()},
          {"role", entry.role()},
          {"rpc", entry.rpc()},
          {"request", entry.request()},
          {"outcome", entry.outcome()}};
}

std::string NodeTableHead() {
  return fmt::format("{:<36}  {:<11} {:<10} {:<14} {:<10} {:<8} {}\n", "NODE", "ADMISSION", "STATE",
                     "RUNNING", "VERDICT", "HEALTHY", "LABELS");
}

std::string NodeTableRow(const v1::Node& node) {
  return fmt::format("{:<36}  {:<11} {:<10} {:<14} {:<10} {:<8} {}\n", node.id(),
                     Word(v1::Node::Admission_Name(node.admission())),
                     Word(v1::UpdateState_Name(node.state())), node.running().version(), Trust(node),
                     node.healthy() ? "yes" : "no", LabelText(node.labels()));
}

std::string NodeText(const v1::Node& node) {
  std::string out = fmt::format("node      {}\nEK        {}\nadmission {}\nlabels    {}\n", node.id(),
                                Hex(node.ek_digest()), Word(v1::Node::Admission_Name(node.admission())),
                                LabelText(node.labels()));
  out += fmt::format("state     {}{}, {}\n", Word(v1::UpdateState_Name(node.state())),
                     node.staged_version().empty() ? "" : " with " + node.staged_version(),
                     node.healthy() ? "healthy" : "not healthy");
  if (node.has_fetch()) {
    out += fmt::format("fetched   {} of {} bytes\n", node.fetch().fetched_bytes(), node.fetch().size_bytes());
  }
  out += fmt::format("running   {} as {} image {}\n", node.running().version(), Plain(node.running().role()),
                     Hex(node.running().image_digest()));
  if (node.has_desired())
    out += fmt::format("desired   {} of {}\n", node.desired().version(), node.desired().channel());
  out += fmt::format("seen      {} (enrolled {}, certificate until {}), agent {}\n",
                     TimeText(node.last_seen_unix_ms()), TimeText(node.enrolled_unix_ms()),
                     TimeText(node.certificate_not_after_unix_ms()), Plain(node.agent_version()));
  for (const v1::VersionFailure& failure : node.failures()) {
    out += fmt::format("failed    {}: {}: {} at {}\n", failure.version(), Plain(failure.reason()),
                       Plain(failure.message()), TimeText(failure.at_unix_ms()));
  }
  for (const v1::NodeFinding& finding : node.findings())
    out += fmt::format("reports   {}: {}\n", Plain(finding.reason()), Plain(finding.message()));
  out += MachineText(node);
  return out + (node.has_last_verdict() ? VerdictText(node.last_verdict()) : "verdict   none\n");
}

std::string RolloutText(const v1::Rollout& rollout) {
  const Counts counts = CountNodes(rollout);
  std::string out =
      fmt::format("rollout {} of {} ({}): {}, {} of {} done", rollout.id(), rollout.version(),
                  rollout.channel(), Word(v1::Rollout::State_Name(rollout.state())), counts.done, counts.all);
  out += counts.failed > 0 ? fmt::format(", {} failed\n", counts.failed) : "\n";
  if (!rollout.halted_reason().empty()) out += fmt::format("  halted: {}\n", Plain(rollout.halted_reason()));
  for (int i = 0; i < rollout.waves_size(); ++i) {
    const v1::Wave& wave = rollout.waves(i);
    out += fmt::format("  wave {} ({}){}\n", i + 1, wave.size(),
                       static_cast<std::uint32_t>(i) == rollout.current_wave() ? " <-" : "");
    for (const v1::RolloutNode& node : wave.nodes()) {
      out += fmt::format("    {}  {}", node.node_id(), Word(v1::RolloutNode::Progress_Name(node.progress())));
      out += node.reason().empty() ? "\n"
                                   : fmt::format("  {}: {}\n", Plain(node.reason()), Plain(node.message()));
    }
  }
  return out;
}

std::string RolloutTableHead() {
  return fmt::format("{:<36}  {:<12} {:<14} {:<9} {:<11} {}\n", "ROLLOUT", "CHANNEL", "VERSION", "STATE",
                     "DONE", "CREATED");
}

std::string RolloutTableRow(const v1::Rollout& rollout) {
  const Counts counts = CountNodes(rollout);
  return fmt::format("{:<36}  {:<12} {:<14} {:<9} {:<11} {} by {}\n", rollout.id(), rollout.channel(),
                     rollout.version(), Word(v1::Rollout::State_Name(rollout.state())),
                     fmt::format("{}/{}", counts.done, counts.all), TimeText(rollout.created_unix_ms()),
                     rollout.created_by());
}

std::string AuditText(const v1::AuditEntry& entry) {
  return fmt::format("{:>6} {} {} ({}) {} {}: {}\n", entry.sequence(), TimeText(entry.at_unix_ms()),
                     Plain(entry.operator_name()), entry.role(),
                     entry.rpc().substr(entry.rpc().rfind('/') + 1), entry.outcome(), Plain(entry.request()));
}

}  // namespace sealift::cli
