#include "controller/api/node_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <semaphore>

#include "controller/api/convert.h"
#include "shared/base/log.h"
#include "shared/crypto/hash.h"
#include "shared/wire/convert.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kNonceBytes = 32;
constexpr std::size_t kPieceBytes = 64u << 10;
constexpr std::size_t kMaxReasonBytes = 64;
constexpr std::size_t kMaxMessageBytes = 512;

constexpr std::string_view kCheckIn = "/sealift.v1.NodeService/CheckIn";
constexpr std::string_view kReport = "/sealift.v1.NodeService/Report";

std::string NotAudited() { return {}; }

// An agent fetches one thing at a time; the rest is for streams whose node left without a word.
constexpr std::size_t kMostFetchesOfANode = 4;
// Half of the server's threads.
constexpr std::size_t kMostFetches = 256;
constexpr int kQuoteBurst = 20;

// A failure that was reported replaces an older one of the same version.
void Remember(NodeStatus& status, VersionFailure failure) {
  std::erase_if(status.failures, [&](const VersionFailure& old) { return old.version == failure.version; });
  if (std::ssize(status.failures) >= kMaxFailures) status.failures.erase(status.failures.begin());
  status.failures.push_back(std::move(failure));
}

void LogFindings(const Caller& caller, const std::vector<NodeFinding>& findings) {
  for (const NodeFinding& finding : findings) {
    log::Error("a node says that this controller's signing journal is not what it saw before",
               {{"node", caller.node ? caller.node->text() : ""},
                {"reason", finding.reason},
                {"error", finding.message}});
  }
}

bool ProvenInThisBoot(const Node& node, const std::string& boot_id) {
  const auto& verdict = node.last_verdict;
  return verdict && verdict->trust == Trust::kTrusted && !boot_id.empty() && verdict->boot_id == boot_id;
}

}  // namespace

NodeServiceImpl::NodeServiceImpl(NodeServiceParts parts)
    : parts_(parts),
      limits_(parts_.limits, parts_.clock),
      writes_(parts_.limits.piece_patience),
      fetches_(kMostFetchesOfANode, kMostFetches),
      quotes_({.burst = kQuoteBurst, .refill = parts_.policy.quote_retry}, parts_.clock) {}

grpc::ServerUnaryReactor* NodeServiceImpl::CheckIn(grpc::CallbackServerContext* context,
                                                   const v1::CheckInRequest* request,
                                                   v1::CheckInResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto caller = parts_.runner.Enter(*context);
  const auto node = caller.ok() ? CallingNode(*caller) : caller.status();
  if (const auto wait = node.ok() ? limits_.Wait(*node) : std::nullopt) {
    // Counted, and not logged: it is to cost little.
    parts_.metrics.CountRpc(kCheckIn, Code::kResourceExhausted);
    reactor->Finish(TurnAway(*context, *node, *wait));
    return reactor;
  }
  if (node.ok()) {
    order_.Enter(*node);
    order_.Writing(*node);
  }
  const auto record = [&]() -> Result<CheckInRecord> {
    if (!node.ok()) return node.status();
    try {
      return PrepareCheckIn(*node, *request, *response);
    } catch (const std::exception& error) {
      return MakeError(Code::kInternal, Reason::kInternal, fmt::format("handle call: {}", error.what()));
    }
  }();
  if (!record.ok()) {
    if (node.ok()) order_.Written(*node);
    reactor->Finish(parts_.runner.Leave(kCheckIn, caller.ok() ? *caller : Caller(), record.status()));
    return reactor;
  }
  // `response` and `reactor` live until Finish.
  parts_.node_status.RecordStatusLater(
      *node, record->status, record->now, record->nonce,
      [this, reactor, id = *node, caller = *caller,
       findings = record->status.findings](const Result<bool>& differs) {
        order_.Written(id);
        if (differs.ok() && *differs) {
          parts_.engine.Poke();
          LogFindings(caller, findings);
        }
        reactor->Finish(parts_.runner.Leave(kCheckIn, caller, differs.status()));
      });
  return reactor;
}

grpc::Status NodeServiceImpl::Report(grpc::ServerContext* context, const v1::ReportRequest* request,
                                     v1::ReportResponse* response) {
  const auto caller = parts_.runner.Enter(*context);
  const auto node = caller.ok() ? CallingNode(*caller) : caller.status();
  if (const auto wait = node.ok() ? limits_.Wait(*node) : std::nullopt) {
    parts_.metrics.CountRpc(kReport, Code::kResourceExhausted);
    return TurnAway(*context, *node, *wait);
  }
  return parts_.runner.Run(*context, kReport, NotAudited, [&](const Caller&) -> Status {
    if (!node.ok()) return node.status();
    SEALIFT_ASSIGN_OR_RETURN(const bool accepted, HandleReport(*node, *request, order_.Enter(*node)));
    response->set_accepted(accepted);
    return OkStatus();
  });
}

grpc::Status NodeServiceImpl::Attest(grpc::ServerContext* context, const v1::AttestRequest* request,
                                     v1::AttestResponse* response) {
  return parts_.runner.Run(*context, "/sealift.v1.NodeService/Attest", NotAudited,
                           [&](const Caller& caller) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const NodeId node, CallingNode(caller));
                             return HandleAttest(node, *request, *response);
                           });
}

grpc::Status NodeServiceImpl::GetMetadata(grpc::ServerContext* context, const v1::GetMetadataRequest* request,
                                          v1::GetMetadataResponse* response) {
  return parts_.runner.Run(*context, "/sealift.v1.NodeService/GetMetadata", NotAudited,
                           [&](const Caller& caller) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const NodeId node, CallingNode(caller));
                             SEALIFT_RETURN_IF_ERROR(CheckServed(node));
                             SEALIFT_ASSIGN_OR_RETURN(*response->mutable_content(),
                                                      parts_.repository.ReadMetadata(request->name()));
                             return OkStatus();
                           });
}

grpc::Status NodeServiceImpl::FetchContent(grpc::ServerContext* context,
                                           const v1::FetchContentRequest* request,
                                           grpc::ServerWriter<v1::FetchContentResponse>* writer) {
  return parts_.runner.Run(*context, "/sealift.v1.NodeService/FetchContent", NotAudited,
                           [&](const Caller& caller) -> Status {
                             SEALIFT_ASSIGN_OR_RETURN(const NodeId node, CallingNode(caller));
                             SEALIFT_RETURN_IF_ERROR(CheckServed(node));
                             SEALIFT_ASSIGN_OR_RETURN(const FetchSlots::Slot slot, fetches_.Take(node));
                             return HandleFetch(*request, *context, *writer);
                           });
}

Result<CheckInView> NodeServiceImpl::AdmittedView(const NodeId& id) {
  SEALIFT_ASSIGN_OR_RETURN(CheckInView view, parts_.node_status.ViewForCheckIn(id));
  if (view.admission == Admission::kRevoked) {
    return MakeError(Code::kPermissionDenied, Reason::kNodeNotAdmitted,
                     fmt::format("serve node {}: it is revoked", id.text()));
  }
  return view;
}

Status NodeServiceImpl::CheckServed(const NodeId& id) {
  SEALIFT_ASSIGN_OR_RETURN(const CheckInView view, AdmittedView(id));
  if (view.admission != Admission::kQuarantined) return OkStatus();
  return MakeError(Code::kPermissionDenied, Reason::kNodeNotAdmitted,
                   fmt::format("serve node {}: it is quarantined", id.text()));
}

Result<NodeServiceImpl::CheckInRecord> NodeServiceImpl::PrepareCheckIn(const NodeId& id,
                                                                       const v1::CheckInRequest& request,
                                                                       v1::CheckInResponse& response) {
  CheckInRecord record{.status = {}, .now = parts_.clock.Now(), .nonce = std::nullopt};
  SEALIFT_ASSIGN_OR_RETURN(record.status, StatusFromProto(request));
  SEALIFT_ASSIGN_OR_RETURN(const CheckInView view, AdmittedView(id));
  if (view.last_seen == UnixMillis() && request.labels_size() > 0) {
    SEALIFT_RETURN_IF_ERROR(AdoptLabels(id, request));
  }
  if (QuoteDue(view, record.status, record.now, parts_.policy)) {
    record.nonce =
        NodeStatusStore::QuoteNonce{RandomBytes(kNonceBytes), record.now + parts_.policy.nonce_lifetime};
    response.set_quote_nonce(ToText(record.nonce->nonce));
  }
  // A quarantined node is heard and told nothing.
  if (view.desired && view.admission == Admission::kAdmitted) {
    *response.mutable_desired() = ToProto(*view.desired);
  }
  response.set_reboot_to_cure(CureDue(view, record.status));
  SEALIFT_RETURN_IF_ERROR(ExchangeOrders(id, view, record.status, request, response));
  const Bytes random = RandomBytes(1);
  response.set_poll_after_ms(
      static_cast<std::uint32_t>(PollAfter(view, record.status, parts_.policy, random.front()).count()));
  return record;
}

// Labels of the image are a default, taken at the first check-in; bad ones must not silence the node.
Status NodeServiceImpl::AdoptLabels(const NodeId& id, const v1::CheckInRequest& request) {
  SEALIFT_ASSIGN_OR_RETURN(
      const auto left_out,
      parts_.nodes.AdoptLabels(
          id, std::map<std::string, std::string>(request.labels().begin(), request.labels().end())));
  if (!left_out.empty()) {
    log::Warning("labels of the image left out",
                 {{"node", id.text()},
                  {"error", fmt::format("{} do not fit, among them '{}'", left_out.size(),
                                        std::string_view(left_out.front()).substr(0, 64))}});
  }
  return OkStatus();
}

Result<bool> NodeServiceImpl::HandleReport(const NodeId& id, const v1::ReportRequest& request,
                                           std::uint64_t place) {
  SEALIFT_RETURN_IF_ERROR(AdmittedView(id).status());
  SEALIFT_ASSIGN_OR_RETURN(const Node node, parts_.nodes.Get(id));
  NodeStatus status = node.status;
  SEALIFT_ASSIGN_OR_RETURN(status.state, StateFromProto(request.state()));
  SEALIFT_RETURN_IF_ERROR(CheckVersion("version", request.version()));
  SEALIFT_RETURN_IF_ERROR(CheckText("reason", request.reason(), kMaxReasonBytes));
  SEALIFT_RETURN_IF_ERROR(CheckText("message", request.message(), kMaxMessageBytes));
  if (request.has_running()) {
    SEALIFT_ASSIGN_OR_RETURN(status.running, RunningFromProto(request.running()));
  }
  status.healthy = request.healthy();
  const UnixMillis now = parts_.clock.Now();
  if (!request.reason().empty() && !request.version().empty()) {
    Remember(status, {request.version(), request.reason(), request.message(), now});
  }
  SEALIFT_RETURN_IF_ERROR(RecordReport(id, status, now, place));
  log::Info("node reported", {{"node", id.text()},
                              {"state", std::string(UpdateStateName(status.state))},
                              {"version", request.version()},
                              {"reason", request.reason()}});
  parts_.engine.Poke();
  return status.state != UpdateState::kAssessing || ProvenInThisBoot(node, status.running.boot_id);
}

// What it is merged with was read before: in between nothing of the node may have come.
Status NodeServiceImpl::RecordReport(const NodeId& id, const NodeStatus& status, UnixMillis now,
                                     std::uint64_t place) {
  // Shared: the store's thread may still be in `release` when this call is gone.
  struct Answer {
    Status status;
    std::binary_semaphore there{0};
  };
  const auto answer = std::make_shared<Answer>();
  SEALIFT_RETURN_IF_ERROR(order_.IfLatest(id, place, [&] {
    parts_.node_status.RecordStatusLater(id, status, now, std::nullopt,
                                         [answer](const Result<bool>& differs) {
                                           answer->status = differs.status();
                                           answer->there.release();
                                         });
  }));
  answer->there.acquire();
  return answer->status;
}

Status NodeServiceImpl::HandleAttest(const NodeId& id, const v1::AttestRequest& request,
                                     v1::AttestResponse& response) {
  SEALIFT_RETURN_IF_ERROR(AdmittedView(id).status());
  SEALIFT_ASSIGN_OR_RETURN(AttestationEvidence evidence, EvidenceFromProto(request.quote()));
  if (request.has_hardware()) evidence.hardware = HardwareFromProto(request.hardware());
  if (!quotes_.Allow(Sha256(AsBytes(id.text())))) {
    return MakeError(Code::kResourceExhausted, Reason::kServerBusy,
                     fmt::format("attest node {}: it quotes too often", id.text()));
  }
  const UnixMillis now = parts_.clock.Now();
  SEALIFT_ASSIGN_OR_RETURN(const auto nonce, parts_.node_status.TakeQuoteNonce(id, now));
  if (!nonce) {
    return MakeError(Code::kFailedPrecondition, Reason::kQuoteNonceStale,
                     fmt::format("attest node {}: no nonce is open; check in first", id.text()));
  }
  SEALIFT_ASSIGN_OR_RETURN(const Node node, parts_.nodes.Get(id));
  SEALIFT_ASSIGN_OR_RETURN(Judgement judgement, parts_.attestor.Attest(node, evidence, *nonce, now));
  Verdict& verdict = judgement.verdict;
  SEALIFT_RETURN_IF_ERROR(JudgeNodeEpoch(node, request, *nonce, now, verdict));
  verdict.boot_id = node.status.running.boot_id;
  verdict.decided = now;
  // The log of a quote that proves nothing is anybody's bytes; it is not kept.
  const bool proves = verdict.clock.has_value() && verdict.clock != judgement.before;
  SEALIFT_RETURN_IF_ERROR(
      parts_.evidence.Append({.node_id = id,
                              .verdict = verdict,
                              .attest = evidence.attest,
                              .signature = evidence.signature,
                              .event_log = proves || !verdict.findings.empty() ? evidence.event_log : Bytes(),
                              .nonce = *nonce,
                              .ak_public = node.ak_public,
                              .pcrs = evidence.pcrs,
                              .any_phase = false,
                              .before = judgement.before,
                              .expected = std::move(judgement.expected),
                              .baseline = std::move(judgement.baseline)}));
  SEALIFT_RETURN_IF_ERROR(parts_.enforcer.OnVerdict(node, verdict));
  SEALIFT_RETURN_IF_ERROR(parts_.node_status.RecordVerdict(id, verdict));
  parts_.metrics.CountVerdict(verdict.trust);
  log::Info("node attested", {{"node", id.text()},
                              {"state", std::string(TrustName(verdict.trust))},
                              {"version", verdict.release_version},
                              {"reason", verdict.reasons.empty() ? "" : verdict.reasons.front()}});
  parts_.engine.Poke();
  response.set_outcome(static_cast<v1::Verdict::Outcome>(verdict.trust));
  for (const std::string& reason : verdict.reasons) response.add_reasons(reason);
  return OkStatus();
}

Status NodeServiceImpl::HandleFetch(const v1::FetchContentRequest& request, grpc::ServerContext& context,
                                    grpc::ServerWriter<v1::FetchContentResponse>& writer) {
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, wire::DigestFromWire("digest", request.digest()));
  SEALIFT_ASSIGN_OR_RETURN(const auto reader, parts_.content.Read(digest));
  if (request.offset() > reader.size()) {
    return MakeError(
        Code::kOutOfRange, Reason::kInvalidArgument,
        fmt::format("fetch {}: offset {} of {} bytes", digest.hex(), request.offset(), reader.size()));
  }
  const std::uint64_t rest = reader.size() - request.offset();
  const std::uint64_t wanted = request.length() == 0 ? rest : std::min<std::uint64_t>(request.length(), rest);
  v1::FetchContentResponse piece;
  piece.set_total_size(reader.size());
  std::uint64_t sent = 0;
  // An empty object is one empty message, so that the size always arrives.
  do {
    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(kPieceBytes, wanted - sent));
    // Keeps its memory from piece to piece.
    std::string& data = *piece.mutable_data();
    data.resize(size);
    SEALIFT_RETURN_IF_ERROR(reader.ReadInto(request.offset() + sent,
                                            {reinterpret_cast<std::uint8_t*>(data.data()), data.size()}));
    const bool written = [&] {
      const WriteWatch::Piece watched(writes_, context);
      return writer.Write(piece);
    }();
    if (!written) {
      return MakeError(Code::kCancelled, Reason::kCancelled,
                       fmt::format("fetch {}: the node left, or took too long over a piece", context.peer()));
    }
    parts_.metrics.CountContentBytes(size);
    sent += size;
    piece.clear_total_size();
  } while (sent < wanted);
  return OkStatus();
}

}  // namespace sealift::controller
