#include "controller/api/attestation_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/api/convert.h"
#include "controller/attest/evidence_file.h"

namespace sealift::controller {
namespace {

constexpr std::size_t kMaxIdBytes = 64;
constexpr std::uint32_t kDefaultPage = 20;
constexpr std::uint32_t kMaxPage = 200;

std::string NotAudited() { return {}; }

v1::VerdictEntry EntryOf(const EvidenceRecord& record) {
  v1::VerdictEntry entry;
  entry.set_sequence(record.sequence);
  *entry.mutable_verdict() = ToProto(record.verdict);
  for (const std::string& note : record.verdict.notes) entry.add_notes(note);
  entry.set_boot_id(record.verdict.boot_id);
  entry.set_enrolment(record.any_phase);
  if (record.verdict.clock) {
    v1::QuoteClock& clock = *entry.mutable_clock();
    clock.set_clock_ms(record.verdict.clock->clock_ms);
    clock.set_reset_count(record.verdict.clock->reset_count);
    clock.set_restart_count(record.verdict.clock->restart_count);
    clock.set_firmware_version(record.verdict.clock->firmware_version);
  }
  return entry;
}

}  // namespace

Result<Node> AttestationServiceImpl::FindNode(const std::string& id_or_prefix) {
  SEALIFT_RETURN_IF_ERROR(CheckText("node_id", id_or_prefix, kMaxIdBytes));
  SEALIFT_ASSIGN_OR_RETURN(auto nodes, nodes_.List({.id_prefix = id_or_prefix, .limit = 2}));
  if (nodes.empty() || id_or_prefix.empty()) {
    return MakeError(Code::kNotFound, Reason::kNodeUnknown, fmt::format("find node '{}'", id_or_prefix));
  }
  if (nodes.size() > 1) {
    return MakeError(Code::kInvalidArgument, Reason::kNodeIdAmbiguous,
                     fmt::format("find node '{}': {} and {} start so", id_or_prefix, nodes[0].id.text(),
                                 nodes[1].id.text()));
  }
  return std::move(nodes.front());
}

grpc::Status AttestationServiceImpl::ListVerdicts(grpc::ServerContext* context,
                                                  const v1::ListVerdictsRequest* request,
                                                  v1::ListVerdictsResponse* response) {
  return runner_.Run(*context, "/sealift.v1.AttestationService/ListVerdicts", NotAudited,
                     [&](const Caller&) -> Status {
                       SEALIFT_ASSIGN_OR_RETURN(const Node node, FindNode(request->node_id()));
                       const std::uint32_t limit =
                           request->limit() == 0 ? kDefaultPage : std::min(request->limit(), kMaxPage);
                       SEALIFT_ASSIGN_OR_RETURN(const auto history, evidence_.History(node.id, limit));
                       for (const EvidenceRecord& record : history)
                         *response->add_verdicts() = EntryOf(record);
                       return OkStatus();
                     });
}

grpc::Status AttestationServiceImpl::GetEvidence(grpc::ServerContext* context,
                                                 const v1::GetEvidenceRequest* request,
                                                 v1::GetEvidenceResponse* response) {
  return runner_.Run(
      *context, "/sealift.v1.AttestationService/GetEvidence", NotAudited, [&](const Caller&) -> Status {
        SEALIFT_ASSIGN_OR_RETURN(const Node node, FindNode(request->node_id()));
        std::uint64_t sequence = request->sequence();
        if (sequence == 0) {
          SEALIFT_ASSIGN_OR_RETURN(const auto newest, evidence_.History(node.id, 1));
          if (newest.empty()) {
            return MakeError(Code::kNotFound, Reason::kEvidenceInvalid,
                             fmt::format("find evidence of node {}: there is none yet", node.id.text()));
          }
          sequence = newest.front().sequence;
        }
        SEALIFT_ASSIGN_OR_RETURN(const EvidenceRecord record, evidence_.Get(node.id, sequence));
        response->set_file(EncodeEvidenceFile(record, node.ek_digest));
        return OkStatus();
      });
}

}  // namespace sealift::controller
