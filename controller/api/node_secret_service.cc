#include "controller/api/node_secret_service.h"

#include <fmt/format.h>

#include "controller/api/audit_text.h"
#include "controller/api/convert.h"
#include "controller/attest/epoch.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kNonceBytes = 32;
constexpr auto kNonceLife = std::chrono::minutes(2);
constexpr std::size_t kMostNonces = 65'536;
constexpr std::size_t kMaxNameBytes = 64;
constexpr std::size_t kMaxKeyBytes = 2048;
// Each fetch is two calls.
constexpr int kBurst = 20;
constexpr auto kRefill = std::chrono::seconds(10);

constexpr std::string_view kBegin = "/sealift.v1.NodeSecretService/BeginFetchSecret";
constexpr std::string_view kFetch = "/sealift.v1.NodeSecretService/FetchSecret";

std::string NotAudited() { return {}; }

void PutPcrs(const tpm::PcrValues& values, google::protobuf::Map<std::uint32_t, std::string>& to) {
  for (const auto& [pcr, value] : values) to[pcr] = wire::ToWire(value);
}

void ToProto(const SecretForNode& secret, v1::FetchSecretResponse& out) {
  out.set_name(secret.name);
  out.set_id(secret.id);
  out.set_public_area(ToText(secret.object.public_area));
  out.set_duplicate(ToText(secret.object.duplicate));
  out.set_encrypted_seed(ToText(secret.object.encrypted_seed));
  out.set_policy_key(ToText(secret.policy.policy_key.spki_der()));
  PutPcrs(secret.policy.fixed, *out.mutable_fixed_pcrs());
  if (secret.policy.running) PutPcrs(*secret.policy.running, *out.mutable_running_pcrs());
  out.set_nonce(ToText(secret.nonce));
  out.set_ciphertext(ToText(secret.ciphertext));
}

}  // namespace

Bytes SecretNonces::Give(const NodeId& node) {
  const auto now = clock_.Steady();
  const std::lock_guard lock(mutex_);
  if (open_.size() >= kMostNonces) {
    std::erase_if(open_, [&](const auto& one) { return one.second.expires <= now; });
    if (open_.size() >= kMostNonces) open_.clear();
  }
  return (open_[node] = {.nonce = RandomBytes(kNonceBytes), .expires = now + kNonceLife}).nonce;
}

std::optional<Bytes> SecretNonces::Take(const NodeId& node) {
  const std::lock_guard lock(mutex_);
  const auto taken = open_.extract(node);
  if (taken.empty() || taken.mapped().expires <= clock_.Steady()) return std::nullopt;
  return std::move(taken.mapped().nonce);
}

NodeSecretServiceImpl::NodeSecretServiceImpl(NodeSecretServiceParts parts)
    : parts_(parts), nonces_(parts.clock), calls_({.burst = kBurst, .refill = kRefill}, parts.clock) {}

Status NodeSecretServiceImpl::CheckRate(const NodeId& id) {
  if (calls_.Allow(Sha256(AsBytes(id.text())))) return OkStatus();
  return MakeError(Code::kResourceExhausted, Reason::kServerBusy,
                   fmt::format("give secret: node {} asks too often", id.text()));
}

grpc::Status NodeSecretServiceImpl::BeginFetchSecret(grpc::ServerContext* context,
                                                     const v1::BeginFetchSecretRequest* request,
                                                     v1::BeginFetchSecretResponse* response) {
  return parts_.runner.Run(*context, kBegin, NotAudited, [&](const Caller& caller) -> Status {
    SEALIFT_ASSIGN_OR_RETURN(const NodeId id, CallingNode(caller));
    SEALIFT_RETURN_IF_ERROR(CheckRate(id));
    SEALIFT_RETURN_IF_ERROR(CheckText("name", request->name(), kMaxNameBytes));
    SEALIFT_ASSIGN_OR_RETURN(const Node node, parts_.nodes.Get(id));
    SEALIFT_RETURN_IF_ERROR(parts_.desk.Find(request->name(), node).status());
    response->set_nonce(ToText(nonces_.Give(id)));
    return OkStatus();
  });
}

grpc::Status NodeSecretServiceImpl::FetchSecret(grpc::ServerContext* context,
                                                const v1::FetchSecretRequest* request,
                                                v1::FetchSecretResponse* response) {
  return parts_.runner.Run(*context, kFetch, NotAudited, [&](const Caller& caller) -> Status {
    SEALIFT_ASSIGN_OR_RETURN(const NodeId id, CallingNode(caller));
    SEALIFT_RETURN_IF_ERROR(CheckRate(id));
    const Status outcome = HandleFetch(id, *request, *response);
    const Status audited = parts_.audit.Append(
        {.at = parts_.clock.Now(),
         .operator_name = id.text(),
         .role = std::string(RoleName(caller.role)),
         .rpc = std::string(kFetch),
         .request = AuditLine(fmt::format("secret {} {} quote {}", request->name().substr(0, kMaxNameBytes),
                                          response->id(), Sha256(AsBytes(request->quote().attest())).hex())),
         .outcome = outcome.ok() ? "OK" : ReasonIdOf(outcome)});
    if (outcome.ok() && audited.ok()) return OkStatus();
    // What nobody could account for does not leave.
    response->Clear();
    return outcome.ok() ? audited : outcome;
  });
}

Result<Verdict> NodeSecretServiceImpl::Judge(const Node& node, const AttestationEvidence& evidence,
                                             const v1::FetchSecretRequest& request, ByteView nonce) {
  const UnixMillis now = parts_.clock.Now();
  SEALIFT_ASSIGN_OR_RETURN(Judgement judgement, parts_.attestor.Attest(node, evidence, nonce, now));
  Verdict& verdict = judgement.verdict;
  std::optional<CounterEvidence> counter;
  if (request.has_epoch()) {
    SEALIFT_ASSIGN_OR_RETURN(counter, EpochEvidenceFromProto(request.epoch()));
  }
  if (const EpochJudgement epoch = JudgeEpoch(node, counter, nonce, now); !epoch.problem.ok()) {
    verdict.trust = Trust::kUntrusted;
    verdict.reasons.push_back(ReasonIdOf(epoch.problem));
  }
  verdict.boot_id = node.status.running.boot_id;
  verdict.decided = now;
  // The log of a quote that proves nothing is anybody's bytes; it is not kept.
  const bool proves = verdict.clock.has_value() && verdict.clock != judgement.before;
  SEALIFT_RETURN_IF_ERROR(
      parts_.evidence.Append({.node_id = node.id,
                              .verdict = verdict,
                              .attest = evidence.attest,
                              .signature = evidence.signature,
                              .event_log = proves || !verdict.findings.empty() ? evidence.event_log : Bytes(),
                              .nonce = ToBytes(nonce),
                              .ak_public = node.ak_public,
                              .pcrs = evidence.pcrs,
                              .any_phase = false,
                              .before = judgement.before,
                              .expected = std::move(judgement.expected),
                              .baseline = std::move(judgement.baseline)}));
  parts_.metrics.CountVerdict(verdict.trust);
  return std::move(verdict);
}

Status NodeSecretServiceImpl::HandleFetch(const NodeId& id, const v1::FetchSecretRequest& request,
                                          v1::FetchSecretResponse& response) {
  SEALIFT_RETURN_IF_ERROR(CheckText("name", request.name(), kMaxNameBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("ek_public", request.ek_public(), kMaxKeyBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("policy_key", request.policy_key(), kMaxKeyBytes));
  SEALIFT_ASSIGN_OR_RETURN(const AttestationEvidence evidence, EvidenceFromProto(request.quote()));
  const std::optional<Bytes> nonce = nonces_.Take(id);
  if (!nonce) {
    return MakeError(Code::kFailedPrecondition, Reason::kQuoteNonceStale,
                     fmt::format("give secret: no nonce is open for node {}", id.text()));
  }
  SEALIFT_ASSIGN_OR_RETURN(const Node node, parts_.nodes.Get(id));
  SEALIFT_RETURN_IF_ERROR(parts_.desk.Find(request.name(), node).status());
  SEALIFT_ASSIGN_OR_RETURN(const Verdict verdict, Judge(node, evidence, request, *nonce));
  SEALIFT_ASSIGN_OR_RETURN(const SecretForNode secret,
                           parts_.desk.Deliver({.name = request.name(),
                                                .node = node,
                                                .verdict = verdict,
                                                .pcrs = evidence.pcrs,
                                                .quote_digest = Sha256(evidence.attest),
                                                .ek_public = ToBytes(request.ek_public()),
                                                .policy_key = ToBytes(request.policy_key())}));
  ToProto(secret, response);
  log::Info("secret given",
            {{"node", id.text()}, {"key", secret.name}, {"version", verdict.release_version}});
  return OkStatus();
}

}  // namespace sealift::controller
