// `sealift attest`: what a node proved, why it is believed or not, and the same judged again offline.
#include <fmt/format.h>

#include <memory>

#include "controller/attest/evidence_file.h"
#include "controller/cli/attest_text.h"
#include "controller/cli/fleet_client.h"
#include "controller/cli/fleet_verbs.h"
#include "controller/cli/words.h"
#include "sealift/v1/attestation.grpc.pb.h"
#include "shared/base/files.h"
#include "shared/wire/channel.h"
#include "shared/wire/grpc_status.h"

namespace sealift::cli {
namespace {

using nlohmann::json;
using Stub = v1::AttestationService::StubInterface;

struct Arguments {
  std::string profile;
  std::string node;
  std::string file;
  std::uint64_t sequence = 0;
  std::uint32_t limit = 0;
};

Result<std::unique_ptr<Stub>> Connect(const std::string& profile_path) {
  SEALIFT_ASSIGN_OR_RETURN(const FleetClient client, FleetClient::Connect(profile_path));
  return std::unique_ptr<Stub>(v1::AttestationService::NewStub(client.channel()));
}

Result<v1::ListVerdictsResponse> List(Stub& stub, const std::string& node, std::uint32_t limit) {
  v1::ListVerdictsRequest request;
  request.set_node_id(node);
  request.set_limit(limit);
  v1::ListVerdictsResponse response;
  const auto context = wire::MakeContext();
  const grpc::Status status = stub.ListVerdicts(context.get(), request, &response);
  if (!status.ok()) return StatusFromGrpc(status);
  return response;
}

Status SaveEvidence(Stub& stub, const Arguments& arguments) {
  v1::GetEvidenceRequest request;
  request.set_node_id(arguments.node);
  request.set_sequence(arguments.sequence);
  v1::GetEvidenceResponse response;
  const auto context = wire::MakeContext();
  const grpc::Status status = stub.GetEvidence(context.get(), request, &response);
  if (!status.ok()) return StatusFromGrpc(status);
  return WriteFileAtomically(arguments.file, AsBytes(response.file()), 0600);
}

Status Show(const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto stub, Connect(arguments.profile));
  SEALIFT_ASSIGN_OR_RETURN(const v1::ListVerdictsResponse verdicts,
                           List(*stub, arguments.node, arguments.limit));
  if (!arguments.file.empty()) SEALIFT_RETURN_IF_ERROR(SaveEvidence(*stub, arguments));
  if (session.json()) {
    json list = json::array();
    for (const v1::VerdictEntry& entry : verdicts.verdicts()) list.push_back(VerdictEntryJson(entry));
    PrintJson({{"verdicts", list}});
    return OkStatus();
  }
  if (verdicts.verdicts().empty()) Print("no verdict yet\n");
  for (const v1::VerdictEntry& entry : verdicts.verdicts()) Print(VerdictEntryText(entry));
  return OkStatus();
}

Status Explain(const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto stub, Connect(arguments.profile));
  SEALIFT_ASSIGN_OR_RETURN(const v1::ListVerdictsResponse verdicts, List(*stub, arguments.node, 1));
  if (verdicts.verdicts().empty()) {
    return MakeError(Code::kNotFound, Reason::kEvidenceInvalid,
                     fmt::format("explain node {}: it has no verdict yet", arguments.node));
  }
  const std::vector<std::string> sentences = ExplainVerdict(verdicts.verdicts(0));
  if (session.json()) {
    PrintJson({{"sequence", verdicts.verdicts(0).sequence()}, {"sentences", sentences}});
    return OkStatus();
  }
  for (const std::string& sentence : sentences) Print(sentence + "\n");
  return OkStatus();
}

Status Verify(const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string text,
                           ReadTextFile(arguments.file, controller::kMaxEvidenceFileBytes));
  SEALIFT_ASSIGN_OR_RETURN(const controller::EvidenceFile file, controller::DecodeEvidenceFile(text));
  SEALIFT_ASSIGN_OR_RETURN(const controller::Verdict verdict, controller::JudgeAgain(file.record));
  SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea key, tpm::ParsePublic(file.record.ak_public));
  if (session.json()) {
    PrintJson({{"verified", true},
               {"node", file.record.node_id.text()},
               {"ek_digest", file.ek_digest.hex()},
               {"ak_name", HexEncode(key.name)},
               {"outcome", std::string(controller::TrustName(verdict.trust))},
               {"reasons", verdict.reasons},
               {"notes", verdict.notes},
               {"release_version", verdict.release_version},
               {"release_id", verdict.release_id ? json(verdict.release_id->hex()) : json()},
               {"decided", FormatRfc3339(verdict.decided)}});
    return OkStatus();
  }
  Print(fmt::format(
      "the evidence leads to the verdict that it states: {} {}, of {}\n"
      "node       {}\nEK digest  {}\nAK name    {}\n",
      controller::TrustName(verdict.trust), verdict.release_version, FormatRfc3339(verdict.decided),
      file.record.node_id.text(), file.ek_digest.hex(), HexEncode(key.name)));
  for (const std::string& reason : verdict.reasons) Print(fmt::format("reason     {}\n", reason));
  return OkStatus();
}

}  // namespace

void AddAttestVerbs(CLI::App& app, Session& session) {
  CLI::App* attest = app.add_subcommand("attest", "What nodes proved with their TPMs");
  attest->require_subcommand(1);

  AddBaselineVerbs(*attest, session);

  const auto show = std::make_shared<Arguments>();
  CLI::App* show_verb = AddVerb(
      *attest, session, "show", "A node's verdicts, newest first, with every register",
      "sealift attest show 0190f3c1 --evidence node.json", [show, &session] { return Show(*show, session); });
  show_verb->add_option("NODE", show->node, "node id or the start of it")->required();
  show_verb->add_option("--limit", show->limit, "how many verdicts; default 20, at most 200");
  show_verb->add_option("--evidence", show->file, "write the evidence of one verdict to this file");
  show_verb->add_option("--sequence", show->sequence, "which one's evidence; default the newest");
  show_verb->add_option("--profile", show->profile, "connection settings");

  const auto explain = std::make_shared<Arguments>();
  CLI::App* explain_verb =
      AddVerb(*attest, session, "explain", "Why the newest verdict is what it is, a sentence a register",
              "sealift attest explain 0190f3c1", [explain, &session] { return Explain(*explain, session); });
  explain_verb->add_option("NODE", explain->node, "node id or the start of it")->required();
  explain_verb->add_option("--profile", explain->profile, "connection settings");

  const auto verify = std::make_shared<Arguments>();
  CLI::App* verify_verb =
      AddVerb(*attest, session, "verify", "Judge a file of evidence again, without a controller",
              "sealift attest verify node.json", [verify, &session] { return Verify(*verify, session); });
  verify_verb->add_option("FILE", verify->file, "as 'attest show --evidence' wrote it")->required();
}

}  // namespace sealift::cli
