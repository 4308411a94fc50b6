#include "controller/cli/fleet_verbs.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "controller/cli/admission_verbs.h"
#include "controller/cli/fleet_call.h"
#include "controller/cli/fleet_text.h"
#include "controller/cli/request_verbs.h"
#include "controller/cli/words.h"
#include "shared/base/files.h"
#include "shared/crypto/certificate.h"
#include "shared/crypto/hash.h"
#include "shared/wire/convert.h"

namespace sealift::cli {
namespace {

using Stub = v1::FleetService::StubInterface;
using nlohmann::json;

// What the verbs of one group share; each verb reads what it declared.
struct Arguments {
  std::string profile;
  std::string id;
  std::string selector;
  std::string reason;
  std::string file;
  std::string note;
  std::vector<std::string> labels;
  std::string channel = "stable";
  std::string version;
  std::vector<std::string> waves;
  std::string request_key;
  bool watch = false;
  std::uint64_t after = 0;
};

using Action = FleetAction<Arguments>;

Status BadArgument(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, what);
}

// "key=value" arguments into a message's map.
Status PutLabels(const std::vector<std::string>& pairs,
                 google::protobuf::Map<std::string, std::string>& labels) {
  for (const std::string& pair : pairs) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos) return BadArgument(fmt::format("read label '{}': it has no '='", pair));
    labels[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  return OkStatus();
}

Status ListNodes(FleetClient& client, const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto nodes, client.AllNodes(arguments.selector));
  if (session.json()) {
    json list = json::array();
    for (const v1::Node& node : nodes) list.push_back(NodeJson(node));
    PrintJson({{"nodes", list}});
    return OkStatus();
  }
  Print(NodeTableHead());
  for (const v1::Node& node : nodes) Print(NodeTableRow(node));
  return OkStatus();
}

void ShowNode(const v1::Node& node, const Session& session) {
  session.json() ? PrintJson(NodeJson(node)) : Print(NodeText(node));
}

void ShowRollout(const v1::Rollout& rollout, const Session& session) {
  session.json() ? PrintJson(RolloutJson(rollout)) : Print(RolloutText(rollout));
}

Status ShowNodeById(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::GetNodeRequest request;
  request.set_id(arguments.id);
  SEALIFT_ASSIGN_OR_RETURN(const v1::Node node, client.Call(&Stub::GetNode, request));
  SEALIFT_ASSIGN_OR_RETURN(const auto refusals, RefusalsOf(client, node.id()));
  if (session.json()) {
    json shown = NodeJson(node);
    shown["refusals"] = RefusalsJson(refusals);
    PrintJson(shown);
  } else {
    Print(NodeText(node) + RefusalsText(refusals));
  }
  return OkStatus();
}

Status SetLabels(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::SetNodeLabelsRequest request;
  request.set_id(arguments.id);
  SEALIFT_RETURN_IF_ERROR(PutLabels(arguments.labels, *request.mutable_labels()));
  SEALIFT_ASSIGN_OR_RETURN(const v1::Node node, client.Call(&Stub::SetNodeLabels, request));
  ShowNode(node, session);
  return OkStatus();
}

Status AdmitEk(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::AdmitEkRequest request;
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, EkDigest(arguments.file));
  request.set_ek_digest(wire::ToWire(digest));
  request.set_note(arguments.note);
  SEALIFT_RETURN_IF_ERROR(PutLabels(arguments.labels, *request.mutable_labels()));
  SEALIFT_RETURN_IF_ERROR(client.Call(&Stub::AdmitEk, request).status());
  if (session.json()) {
    PrintJson({{"ek_digest", digest.hex()}, {"admitted", true}});
  } else {
    Print(fmt::format("EK {} may enrol\n", digest.hex()));
  }
  return OkStatus();
}

Action SetAdmission(v1::Node::Admission admission) {
  return [admission](FleetClient& client, const Arguments& arguments, const Session& session) -> Status {
    v1::SetNodeAdmissionRequest request;
    request.set_id(arguments.id);
    request.set_admission(admission);
    request.set_reason(arguments.reason);
    SEALIFT_ASSIGN_OR_RETURN(const v1::Node node, client.Call(&Stub::SetNodeAdmission, request));
    ShowNode(node, session);
    return OkStatus();
  };
}

Status CreateRollout(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::CreateRolloutRequest request;
  request.set_channel(arguments.channel);
  request.set_version(arguments.version);
  request.set_selector(arguments.selector);
  for (const std::string& wave : arguments.waves) request.add_waves(wave);
  // Without a key of the caller's a lost reply could start it twice: one is made for this run.
  request.set_request_key(arguments.request_key.empty() ? HexEncode(RandomBytes(16)) : arguments.request_key);
  SEALIFT_ASSIGN_OR_RETURN(const v1::Rollout rollout, client.Call(&Stub::CreateRollout, request));
  ShowRollout(rollout, session);
  return OkStatus();
}

// 1 where the rollout did not get where it should: scripts wait on this.
Status EndedWell(const v1::Rollout& rollout) {
  if (rollout.state() == v1::Rollout::DONE) return OkStatus();
  return MakeError(Code::kFailedPrecondition, Reason::kRolloutNodeFailed,
                   fmt::format("watch rollout {}: it is {}", rollout.id(),
                               rollout.halted_reason().empty() ? v1::Rollout::State_Name(rollout.state())
                                                               : "halted: " + rollout.halted_reason()));
}

Status RolloutStatus(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::GetRolloutRequest request;
  request.set_id(arguments.id);
  if (!arguments.watch) {
    SEALIFT_ASSIGN_OR_RETURN(const v1::Rollout rollout, client.Call(&Stub::GetRollout, request));
    ShowRollout(rollout, session);
    return OkStatus();
  }
  v1::Rollout last;
  SEALIFT_RETURN_IF_ERROR(client.Watch(arguments.id, [&](const v1::Rollout& rollout) {
    last = rollout;
    // Of a watch, JSON is one object a line.
    session.json() ? Print(RolloutJson(rollout).dump(-1, ' ', false, json::error_handler_t::replace) + "\n")
                   : Print(RolloutText(rollout));
    std::fflush(stdout);
    return rollout.state() == v1::Rollout::RUNNING || rollout.state() == v1::Rollout::PAUSED;
  }));
  return EndedWell(last);
}

Status ListRollouts(FleetClient& client, const Arguments&, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto rollouts, client.Call(&Stub::ListRollouts, v1::ListRolloutsRequest()));
  if (session.json()) {
    json list = json::array();
    for (const v1::Rollout& rollout : rollouts.rollouts()) list.push_back(RolloutJson(rollout, false));
    PrintJson({{"rollouts", list}});
    return OkStatus();
  }
  Print(RolloutTableHead());
  for (const v1::Rollout& rollout : rollouts.rollouts()) Print(RolloutTableRow(rollout));
  return OkStatus();
}

Action SetRolloutState(v1::Rollout::State state) {
  return [state](FleetClient& client, const Arguments& arguments, const Session& session) -> Status {
    v1::SetRolloutStateRequest request;
    request.set_id(arguments.id);
    request.set_state(state);
    SEALIFT_ASSIGN_OR_RETURN(const v1::Rollout rollout, client.Call(&Stub::SetRolloutState, request));
    ShowRollout(rollout, session);
    return OkStatus();
  };
}

Status ListAudit(FleetClient& client, const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto entries, client.AllAudit(arguments.after));
  json list = json::array();
  for (const v1::AuditEntry& entry : entries) {
    if (session.json()) {
      list.push_back(AuditJson(entry));
    } else {
      Print(AuditText(entry));
    }
  }
  if (session.json()) PrintJson({{"entries", list}});
  return OkStatus();
}

Status RevokeCertificate(FleetClient& client, const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string pem, ReadTextFile(arguments.file, kMaxCertificateBytes));
  SEALIFT_ASSIGN_OR_RETURN(const Certificate certificate, Certificate::FromPem(pem));
  v1::RevokeCertificateRequest request;
  request.set_certificate_sha256(wire::ToWire(certificate.fingerprint()));
  request.set_reason(arguments.reason);
  SEALIFT_RETURN_IF_ERROR(client.Call(&Stub::RevokeCertificate, request).status());
  if (session.json()) {
    PrintJson({{"certificate", certificate.fingerprint().hex()}, {"revoked", true}});
  } else {
    Print(fmt::format("certificate {} ({}) is revoked\n", certificate.fingerprint().hex(),
                      certificate.SubjectText()));
  }
  return OkStatus();
}

void AddNodeVerbs(CLI::App& app, Session& session) {
  CLI::App* node = app.add_subcommand("node", "See, admit, label and order nodes");
  node->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = AddCall(*node, session, "list", "Nodes, one line each",
                           "sealift node list --selector site=lab", arguments, ListNodes);
  verb->add_option("--selector", arguments->selector, "label=value,...: only nodes with all of these");

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*node, session, "show", "One node, with the evidence of its last verdict",
                 "sealift node show 0193e4 -o json", arguments, ShowNodeById);
  verb->add_option("ID", arguments->id, "its id, or enough of its beginning")->required();

  arguments = std::make_shared<Arguments>();
  verb = AddCall(
      *node, session, "admit-ek", "Let the machine with this endorsement key enrol (role approver)",
      "sealift node admit-ek ek-certificate.pem --label site=lab --note 'rack 3'", arguments, AdmitEk);
  verb->add_option("EK", arguments->file,
                   "its SHA-256 in hex, or a file: the EK's certificate or public key, PEM or DER")
      ->required();
  verb->add_option("--label", arguments->labels, "key=value; repeatable")->allow_extra_args(false);
  verb->add_option("--note", arguments->note, "for other people: whose machine this is");

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*node, session, "labels", "Replace a node's labels (role operator)",
                 "sealift node labels 0193e4 site=lab rack=3", arguments, SetLabels);
  verb->add_option("ID", arguments->id, "its id, or enough of its beginning")->required();
  verb->add_option("LABELS", arguments->labels, "key=value ...; none: no labels");

  const struct {
    const char* name;
    const char* description;
    v1::Node::Admission admission;
  } admissions[] = {
      {"approve", "Let a pending machine in (role approver)", v1::Node::ADMITTED},
      {"admit", "Let a quarantined or revoked node take part again (role approver)", v1::Node::ADMITTED},
      {"quarantine", "Keep a node heard but give it nothing new (role approver)", v1::Node::QUARANTINED},
      {"revoke", "Shut a node out (role approver)", v1::Node::REVOKED}};
  for (const auto& one : admissions) {
    arguments = std::make_shared<Arguments>();
    verb = AddCall(*node, session, one.name, one.description,
                   fmt::format("sealift node {} 0193e4 --reason 'board was swapped'", one.name), arguments,
                   SetAdmission(one.admission));
    verb->add_option("ID", arguments->id, "its id, or enough of its beginning")->required();
    verb->add_option("--reason", arguments->reason, "for the audit log");
  }
  AddAdmissionVerbs(*node, session);
}

void AddRolloutVerbs(CLI::App& app, Session& session) {
  CLI::App* rollout = app.add_subcommand("rollout", "Bring a release to nodes in waves");
  rollout->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = AddCall(*rollout, session, "create", "Start a rollout (role operator)",
                           "sealift rollout create --release 1.2.0 --nodes site=lab --waves 1,50%,100%",
                           arguments, CreateRollout);
  verb->add_option("--release", arguments->version, "version of a published release")->required();
  verb->add_option("--channel", arguments->channel, "the release's channel")->capture_default_str();
  verb->add_option("--nodes", arguments->selector, "label=value,...; all nodes without it");
  verb->add_option("--waves", arguments->waves, "cumulative sizes, counts or percentages (default 100%)")
      ->delimiter(',');
  verb->add_option("--request-key", arguments->request_key, "the same key never starts a second rollout");

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*rollout, session, "status",
                 "How far a rollout is; with --watch, exit code 0 only if it ends done",
                 "sealift rollout status 0193e4 --watch", arguments, RolloutStatus);
  verb->add_option("ID", arguments->id, "its id, or enough of its beginning")->required();
  verb->add_flag("--watch", arguments->watch, "tell each change until it ends or halts");

  arguments = std::make_shared<Arguments>();
  AddCall(*rollout, session, "list", "The newest 100 rollouts, without their nodes", "sealift rollout list",
          arguments, ListRollouts);

  const struct {
    const char* name;
    const char* description;
    v1::Rollout::State state;
  } states[] = {{"pause", "Start no further node (role operator)", v1::Rollout::PAUSED},
                {"resume", "Go on after a pause, or in spite of the failures that halted it (role operator)",
                 v1::Rollout::RUNNING},
                {"abort", "End it; nodes in the middle are told nothing any more (role operator)",
                 v1::Rollout::ABORTED}};
  for (const auto& one : states) {
    arguments = std::make_shared<Arguments>();
    verb = AddCall(*rollout, session, one.name, one.description,
                   fmt::format("sealift rollout {} 0193e4", one.name), arguments, SetRolloutState(one.state));
    verb->add_option("ID", arguments->id, "its id, or enough of its beginning")->required();
  }
}

}  // namespace

void AddFleetVerbs(CLI::App& app, Session& session) {
  AddNodeVerbs(app, session);
  AddRequestVerbs(app, *app.get_subcommand("node"), session);
  AddRolloutVerbs(app, session);

  CLI::App* audit = app.add_subcommand("audit", "Who changed what");
  audit->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = AddCall(*audit, session, "list", "Every change an operator asked for, oldest first",
                           "sealift audit list --after 120", arguments, ListAudit);
  verb->add_option("--after", arguments->after, "only entries with a higher sequence number");

  CLI::App* certificate = app.add_subcommand("certificate", "Certificates of operators and nodes");
  certificate->require_subcommand(1);
  arguments = std::make_shared<Arguments>();
  verb =
      AddCall(*certificate, session, "revoke", "Refuse a certificate from now on (role custodian)",
              "sealift certificate revoke anna.pem --reason 'laptop stolen'", arguments, RevokeCertificate);
  verb->add_option("FILE", arguments->file, "the certificate, PEM")->required();
  verb->add_option("--reason", arguments->reason, "for the audit log");
}

}  // namespace sealift::cli
