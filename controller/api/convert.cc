#include "controller/api/convert.h"

#include <fmt/format.h>

#include "controller/api/audit_text.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxReasonBytes = 64;
constexpr std::size_t kMaxMessageBytes = 512;
constexpr std::uint64_t kMaxFetchBytes = 1ull << 40;
constexpr std::size_t kMaxIdBytes = 64;
constexpr int kMaxFindings = 8;
constexpr int kMaxVolumes = 16;
constexpr std::uint64_t kMaxEpoch = 1u << 30;
constexpr std::size_t kMaxQuoteBytes = 4096;
constexpr std::size_t kMaxEventLogBytes = 1u << 20;
constexpr std::uint32_t kMaxPcr = 23;

v1::PcrFinding ToProto(const PcrFinding& finding) {
  v1::PcrFinding out;
  out.set_pcr(finding.pcr);
  out.set_outcome(finding.outcome);
  for (const Sha256Digest& digest : finding.expected) out.add_expected(wire::ToWire(digest));
  if (finding.found) out.set_found(wire::ToWire(*finding.found));
  out.set_first_difference(finding.first_difference);
  return out;
}

v1::RunningImage ToProto(const RunningImage& running) {
  v1::RunningImage out;
  out.set_version(running.version);
  if (running.image_digest) out.set_image_digest(wire::ToWire(*running.image_digest));
  out.set_role(running.role);
  out.set_boot_id(running.boot_id);
  return out;
}

v1::VersionFailure ToProto(const VersionFailure& failure) {
  v1::VersionFailure out;
  out.set_version(failure.version);
  out.set_reason(failure.reason);
  out.set_message(failure.message);
  out.set_at_unix_ms(ToUnixMs(failure.at));
  return out;
}

v1::RolloutNode ToProto(const RolloutNode& node) {
  v1::RolloutNode out;
  out.set_node_id(node.node_id.text());
  out.set_progress(static_cast<v1::RolloutNode::Progress>(node.progress));
  out.set_reason(node.reason);
  out.set_message(node.message);
  return out;
}

Result<VersionFailure> FailureFromProto(const v1::VersionFailure& failure) {
  SEALIFT_RETURN_IF_ERROR(CheckVersion("failures.version", failure.version()));
  SEALIFT_RETURN_IF_ERROR(CheckText("failures.reason", failure.reason(), kMaxReasonBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("failures.message", failure.message(), kMaxMessageBytes));
  return VersionFailure{failure.version(), failure.reason(), failure.message(),
                        FromUnixMs(failure.at_unix_ms())};
}

v1::OrderOutcome ToProto(const OrderOutcome& outcome) {
  v1::OrderOutcome out;
  out.set_request_digest(wire::ToWire(outcome.request_digest));
  out.set_state(static_cast<v1::OrderOutcome::State>(outcome.state));
  out.set_reason(outcome.reason);
  out.set_message(outcome.message);
  out.set_at_unix_ms(ToUnixMs(outcome.at));
  return out;
}

void PutOrdersAndVolumes(const Node& node, v1::Node& out) {
  out.set_order_nonce(ToText(node.status.order_nonce));
  if (node.status.epoch) {
    v1::EpochStatus& to = *out.mutable_epoch();
    to.set_lowest(node.status.epoch->lowest);
    to.set_base(node.status.epoch->base);
    to.set_image(node.status.epoch->image);
    to.set_passive(node.status.epoch->passive);
    to.set_recovery(node.status.epoch->recovery);
  }
  if (node.certified_epoch) {
    v1::CertifiedEpoch& to = *out.mutable_certified_epoch();
    to.set_lowest(node.certified_epoch->lowest);
    to.set_base(node.certified_epoch->base);
    to.set_certified_unix_ms(ToUnixMs(node.certified_epoch->at));
  }
  for (const VolumeStatus& volume : node.status.volumes) {
    v1::VolumeStatus& to = *out.add_volumes();
    to.set_name(volume.name);
    to.set_state(static_cast<v1::VolumeStatus::State>(volume.state));
    to.set_luks_uuid(volume.luks_uuid);
    to.set_reason(volume.reason);
    to.set_message(volume.message);
    to.set_without_pcr7(volume.without_pcr7);
  }
  if (node.install) {
    v1::InstallRecord& to = *out.mutable_install();
    to.set_config_digest(wire::ToWire(node.install->config_digest));
    to.set_config_source(node.install->config_source);
    to.set_version(node.install->version);
    to.set_installed_unix_ms(ToUnixMs(node.install->installed));
  }
}

Status Bad(std::string_view what, std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, fmt::format("read {}: {}", what, why));
}

}  // namespace

Status CheckText(std::string_view what, std::string_view text, std::size_t max_bytes) {
  return text.size() <= max_bytes ? OkStatus() : Bad(what, fmt::format("longer than {} bytes", max_bytes));
}

Status CheckVersion(std::string_view what, std::string_view version) {
  return version.empty() || IsValidVersion(version) ? OkStatus() : Bad(what, "not a version");
}

v1::Desired ToProto(const Desired& desired) {
  v1::Desired out;
  out.set_channel(desired.channel);
  out.set_version(desired.version);
  out.set_release_id(wire::ToWire(desired.release_id));
  return out;
}

v1::Verdict ToProto(const Verdict& verdict) {
  v1::Verdict out;
  out.set_outcome(static_cast<v1::Verdict::Outcome>(verdict.trust));
  for (const std::string& reason : verdict.reasons) out.add_reasons(reason);
  for (const PcrFinding& finding : verdict.findings) *out.add_findings() = ToProto(finding);
  out.set_release_version(verdict.release_version);
  if (verdict.release_id) out.set_release_id(wire::ToWire(*verdict.release_id));
  out.set_decided_unix_ms(ToUnixMs(verdict.decided));
  out.set_degraded_boot(verdict.degraded_boot);
  return out;
}

v1::Node ToProto(const Node& node) {
  v1::Node out;
  out.set_id(node.id.text());
  out.set_ek_digest(wire::ToWire(node.ek_digest));
  out.set_admission(static_cast<v1::Node::Admission>(node.admission));
  for (const auto& [key, value] : node.labels) (*out.mutable_labels())[key] = value;
  out.set_state(static_cast<v1::UpdateState>(node.status.state));
  *out.mutable_running() = ToProto(node.status.running);
  out.set_staged_version(node.status.staged_version);
  for (const VersionFailure& failure : node.status.failures) *out.add_failures() = ToProto(failure);
  out.set_healthy(node.status.healthy);
  out.set_enrolled_unix_ms(ToUnixMs(node.enrolled));
  out.set_last_seen_unix_ms(ToUnixMs(node.last_seen));
  if (node.status.fetch) {
    out.mutable_fetch()->set_fetched_bytes(node.status.fetch->fetched);
    out.mutable_fetch()->set_size_bytes(node.status.fetch->size);
  }
  if (node.last_verdict) *out.mutable_last_verdict() = ToProto(*node.last_verdict);
  if (node.desired) *out.mutable_desired() = ToProto(*node.desired);
  out.set_certificate_not_after_unix_ms(ToUnixMs(node.certificate_not_after));
  out.set_agent_version(node.status.agent_version);
  for (const NodeFinding& finding : node.status.findings) {
    v1::NodeFinding& to = *out.add_findings();
    to.set_reason(finding.reason);
    to.set_message(finding.message);
  }
  PutOrdersAndVolumes(node, out);
  return out;
}

v1::Rollout ToProto(const RolloutSummary& summary) {
  const Rollout& rollout = summary.rollout;
  v1::Rollout out;
  out.set_id(rollout.id);
  out.set_channel(rollout.channel);
  out.set_version(rollout.version);
  out.set_release_id(wire::ToWire(rollout.release_id));
  out.set_selector(rollout.selector);
  out.set_state(static_cast<v1::Rollout::State>(rollout.state));
  for (std::size_t i = 0; i < rollout.waves.size(); ++i) {
    v1::Wave& to = *out.add_waves();
    to.set_size(rollout.waves[i].size);
    const WaveCounts& counts = summary.counts.at(i);
    to.mutable_counts()->set_waiting(counts.waiting);
    to.mutable_counts()->set_updating(counts.updating);
    to.mutable_counts()->set_done(counts.done);
    to.mutable_counts()->set_failed(counts.failed);
  }
  out.set_current_wave(rollout.current_wave);
  out.set_created_unix_ms(ToUnixMs(rollout.created));
  out.set_created_by(rollout.created_by);
  out.set_halted_reason(rollout.halted_reason);
  return out;
}

v1::Rollout ToProto(const Rollout& rollout) {
  v1::Rollout out = ToProto(Summarize(rollout));
  for (std::size_t i = 0; i < rollout.waves.size(); ++i) {
    v1::Wave& to = *out.mutable_waves(static_cast<int>(i));
    for (const RolloutNode& node : rollout.waves[i].nodes) *to.add_nodes() = ToProto(node);
  }
  return out;
}

v1::Release ToProto(const ReleaseRecord& release) {
  v1::Release out;
  out.set_channel(release.channel);
  out.set_version(release.version);
  out.set_release_id(wire::ToWire(release.release_id));
  out.set_published_unix_ms(ToUnixMs(release.published));
  out.set_total_bytes(release.total_bytes);
  return out;
}

v1::AuditEntry ToProto(const AuditRecord& record) {
  v1::AuditEntry out;
  out.set_sequence(record.sequence);
  out.set_at_unix_ms(ToUnixMs(record.at));
  out.set_operator_name(record.operator_name);
  out.set_role(record.role);
  out.set_rpc(record.rpc);
  // Rows of earlier versions may hold half a character.
  out.set_request(AuditLine(record.request));
  out.set_outcome(record.outcome);
  return out;
}

Result<UpdateState> StateFromProto(v1::UpdateState state) {
  // Proto3 enums are open: any number may arrive.
  if (!v1::UpdateState_IsValid(state)) return Bad("state", "not a state of this version");
  return static_cast<UpdateState>(state);
}

Result<RunningImage> RunningFromProto(const v1::RunningImage& running) {
  SEALIFT_RETURN_IF_ERROR(CheckVersion("running.version", running.version()));
  SEALIFT_RETURN_IF_ERROR(CheckText("running.role", running.role(), kMaxIdBytes));
  // Verdicts are bound to it.
  if (running.boot_id().empty()) return Bad("running.boot_id", "missing");
  SEALIFT_RETURN_IF_ERROR(CheckText("running.boot_id", running.boot_id(), kMaxIdBytes));
  RunningImage out{.version = running.version(), .role = running.role(), .boot_id = running.boot_id()};
  if (!running.image_digest().empty()) {
    SEALIFT_ASSIGN_OR_RETURN(out.image_digest,
                             wire::DigestFromWire("running.image_digest", running.image_digest()));
  }
  return out;
}

v1::ChangeRequest ToProto(const RequestRecord& record, UnixMillis now) {
  v1::ChangeRequest out;
  out.set_id(record.request.id);
  out.set_canonical(record.canonical);
  out.set_digest(wire::ToWire(record.digest));
  out.set_state(static_cast<v1::ChangeRequest::State>(StateAt(record, now)));
  out.set_node_id(record.request.node.text());
  out.set_action(std::string(order::ActionName(record.request.action)));
  out.set_requester(record.request.requester);
  out.set_approver(record.approver_name);
  out.set_created_unix_ms(ToUnixMs(record.request.created));
  out.set_expires_unix_ms(ToUnixMs(record.request.expires));
  out.set_approved_unix_ms(ToUnixMs(record.approved));
  if (record.outcome) *out.mutable_outcome() = ToProto(*record.outcome);
  return out;
}

v1::EscrowedKey ToProto(const EscrowedKey& key) {
  v1::EscrowedKey out;
  out.set_volume(key.volume);
  out.set_luks_uuid(key.luks_uuid);
  out.set_slot(key.slot);
  out.set_blob_digest(wire::ToWire(key.blob_digest));
  out.set_stored_unix_ms(ToUnixMs(key.stored));
  out.set_released_unix_ms(ToUnixMs(key.released));
  return out;
}

Result<CounterEvidence> EpochEvidenceFromProto(const v1::EpochEvidence& evidence) {
  SEALIFT_RETURN_IF_ERROR(CheckText("epoch.attest", evidence.attest(), kMaxQuoteBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("epoch.signature", evidence.signature(), kMaxQuoteBytes));
  return CounterEvidence{.attest = ToBytes(evidence.attest()),
                         .signature = ToBytes(evidence.signature()),
                         .base = evidence.base()};
}

namespace {

std::string HardwareText(const std::string& text) {
  std::string clean;
  for (const char c : std::string_view(text).substr(0, kMaxHardwareText))
    clean.push_back(c >= ' ' && c <= '~' ? c : '?');
  return clean;
}

}  // namespace

Hardware HardwareFromProto(const v1::HardwareModel& hardware) {
  return {.model = {.vendor = HardwareText(hardware.vendor()), .product = HardwareText(hardware.product())},
          .firmware_version = HardwareText(hardware.firmware_version())};
}

Result<OrderOutcome> OutcomeFromProto(const v1::OrderOutcome& outcome) {
  OrderOutcome out{
      .reason = outcome.reason(), .message = outcome.message(), .at = FromUnixMs(outcome.at_unix_ms())};
  SEALIFT_ASSIGN_OR_RETURN(out.request_digest,
                           wire::DigestFromWire("order_outcomes.request_digest", outcome.request_digest()));
  if (!v1::OrderOutcome_State_IsValid(outcome.state()) ||
      outcome.state() == v1::OrderOutcome::STATE_UNSPECIFIED)
    return Bad("order_outcomes.state", "not a state of this version");
  out.state = static_cast<OutcomeState>(outcome.state());
  SEALIFT_RETURN_IF_ERROR(CheckText("order_outcomes.reason", out.reason, kMaxReasonBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("order_outcomes.message", out.message, kMaxMessageBytes));
  return out;
}

Result<InstallRecord> InstallFromProto(const v1::InstallRecord& install) {
  InstallRecord out{.config_source = install.config_source(),
                    .version = install.version(),
                    .installed = FromUnixMs(install.installed_unix_ms())};
  SEALIFT_ASSIGN_OR_RETURN(out.config_digest,
                           wire::DigestFromWire("install.config_digest", install.config_digest()));
  SEALIFT_RETURN_IF_ERROR(CheckText("install.config_source", out.config_source, kMaxMessageBytes));
  SEALIFT_RETURN_IF_ERROR(CheckVersion("install.version", out.version));
  return out;
}

namespace {

Result<EpochStatus> EpochFromProto(const v1::EpochStatus& epoch) {
  for (const std::uint64_t value : {epoch.lowest(), epoch.image(), epoch.passive(), epoch.recovery()})
    if (value > kMaxEpoch) return Bad("epoch", "out of its range");
  return EpochStatus{.lowest = epoch.lowest(),
                     .base = epoch.base(),
                     .image = epoch.image(),
                     .passive = epoch.passive(),
                     .recovery = epoch.recovery()};
}

Result<VolumeStatus> VolumeFromProto(const v1::VolumeStatus& volume) {
  if (!v1::VolumeStatus_State_IsValid(volume.state()))
    return Bad("volumes.state", "not a state of this version");
  SEALIFT_RETURN_IF_ERROR(CheckText("volumes.name", volume.name(), kMaxIdBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("volumes.luks_uuid", volume.luks_uuid(), kMaxIdBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("volumes.reason", volume.reason(), kMaxReasonBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("volumes.message", volume.message(), kMaxMessageBytes));
  return VolumeStatus{.name = volume.name(),
                      .state = static_cast<VolumeState>(volume.state()),
                      .luks_uuid = volume.luks_uuid(),
                      .reason = volume.reason(),
                      .message = volume.message(),
                      .without_pcr7 = volume.without_pcr7()};
}

}  // namespace

Result<NodeStatus> StatusFromProto(const v1::CheckInRequest& request) {
  NodeStatus status;
  SEALIFT_ASSIGN_OR_RETURN(status.state, StateFromProto(request.state()));
  SEALIFT_ASSIGN_OR_RETURN(status.running, RunningFromProto(request.running()));
  SEALIFT_RETURN_IF_ERROR(CheckVersion("staged_version", request.staged_version()));
  status.staged_version = request.staged_version();
  if (request.failures_size() > kMaxFailures) return Bad("failures", "too many");
  for (const v1::VersionFailure& failure : request.failures()) {
    SEALIFT_ASSIGN_OR_RETURN(VersionFailure one, FailureFromProto(failure));
    status.failures.push_back(std::move(one));
  }
  if (request.findings_size() > kMaxFindings) return Bad("findings", "too many");
  for (const v1::NodeFinding& finding : request.findings()) {
    SEALIFT_RETURN_IF_ERROR(CheckText("findings.reason", finding.reason(), kMaxReasonBytes));
    SEALIFT_RETURN_IF_ERROR(CheckText("findings.message", finding.message(), kMaxMessageBytes));
    status.findings.push_back({.reason = finding.reason(), .message = finding.message()});
  }
  SEALIFT_RETURN_IF_ERROR(CheckText("agent_version", request.agent_version(), kMaxIdBytes));
  status.agent_version = request.agent_version();
  status.healthy = request.healthy();
  if (!request.order_nonce().empty() && request.order_nonce().size() != order::kNonceBytes)
    return Bad("order_nonce", "not 32 bytes");
  status.order_nonce = ToBytes(request.order_nonce());
  if (request.has_epoch()) {
    SEALIFT_ASSIGN_OR_RETURN(status.epoch, EpochFromProto(request.epoch()));
  }
  if (request.volumes_size() > kMaxVolumes) return Bad("volumes", "too many");
  for (const v1::VolumeStatus& volume : request.volumes()) {
    SEALIFT_ASSIGN_OR_RETURN(VolumeStatus one, VolumeFromProto(volume));
    status.volumes.push_back(std::move(one));
  }
  if (request.has_fetch()) {
    const v1::FetchStatus& fetch = request.fetch();
    if (fetch.size_bytes() > kMaxFetchBytes || fetch.fetched_bytes() > fetch.size_bytes())
      return Bad("fetch", "more than there is");
    status.fetch = FetchStatus{.fetched = fetch.fetched_bytes(), .size = fetch.size_bytes()};
  }
  return status;
}

Result<AttestationEvidence> EvidenceFromProto(const v1::Quote& quote) {
  SEALIFT_RETURN_IF_ERROR(CheckText("quote.attest", quote.attest(), kMaxQuoteBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("quote.signature", quote.signature(), kMaxQuoteBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("quote.event_log", quote.event_log(), kMaxEventLogBytes));
  AttestationEvidence out{.attest = ToBytes(quote.attest()),
                          .signature = ToBytes(quote.signature()),
                          .event_log = ToBytes(quote.event_log())};
  for (const auto& [pcr, value] : quote.pcrs()) {
    if (pcr > kMaxPcr) return Bad("quote.pcrs", "no such register");
    SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, wire::DigestFromWire("quote.pcrs", value));
    out.pcrs.emplace(pcr, digest);
  }
  return out;
}

}  // namespace sealift::controller
