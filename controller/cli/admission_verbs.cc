#include "controller/cli/admission_verbs.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "controller/cli/fleet_call.h"
#include "controller/cli/words.h"
#include "shared/base/files.h"
#include "shared/crypto/certificate.h"
#include "shared/wire/convert.h"

namespace sealift::cli {
namespace {

using Stub = v1::AdmissionService::StubInterface;
using nlohmann::json;

constexpr std::uint64_t kMaxInventoryBytes = 4u << 20;
constexpr std::int64_t kHourMs = 3'600'000;

struct Arguments {
  std::string profile;
  std::string id;
  std::string ek;
  std::string file;
  std::string reason;
  std::string note;
  std::vector<std::string> labels;
  std::uint32_t uses = 1;
  std::int64_t hours = 24;
  std::uint32_t limit = 0;
  bool missing = false;
};

using Action = FleetAction<Arguments>;

std::string Hex(const std::string& bytes) { return HexEncode(AsBytes(bytes)); }

template <typename Request, typename Response>
Result<Response> Call(FleetClient& client,
                      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                      const Request& request) {
  const auto stub = v1::AdmissionService::NewStub(client.channel());
  Response response;
  const auto context = wire::MakeContext();
  const grpc::Status status = (static_cast<Stub&>(*stub).*method)(context.get(), request, &response);
  if (!status.ok()) return StatusFromGrpc(status);
  return response;
}

// Enough of the beginning of an id will do.
Result<std::string> NodeIdFrom(FleetClient& client, const std::string& given) {
  v1::GetNodeRequest request;
  request.set_id(given);
  SEALIFT_ASSIGN_OR_RETURN(const v1::Node node,
                           client.Call(&v1::FleetService::StubInterface::GetNode, request));
  return node.id();
}

Status PutLabels(const std::vector<std::string>& pairs,
                 google::protobuf::Map<std::string, std::string>& labels) {
  for (const std::string& pair : pairs) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos) {
      return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                       fmt::format("read label '{}': it has no '='", pair));
    }
    labels[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  return OkStatus();
}

std::string LabelText(const google::protobuf::Map<std::string, std::string>& labels) {
  std::string text;
  for (const auto& [key, value] : std::map<std::string, std::string>(labels.begin(), labels.end())) {
    text += fmt::format("{}{}={}", text.empty() ? "" : ",", key, value);
  }
  return text;
}

json LabelJson(const google::protobuf::Map<std::string, std::string>& labels) {
  return std::map<std::string, std::string>(labels.begin(), labels.end());
}

std::string StateWord(v1::JoinToken::State state) {
  switch (state) {
    case v1::JoinToken::USABLE:
      return "usable";
    case v1::JoinToken::USED_UP:
      return "used-up";
    case v1::JoinToken::EXPIRED:
      return "expired";
    case v1::JoinToken::REVOKED:
      return "revoked";
    default:
      return "unknown";
  }
}

json TokenJson(const v1::JoinToken& token) {
  return {{"id", token.id()},
          {"state", StateWord(token.state())},
          {"uses", token.uses()},
          {"used", token.used()},
          {"created", TimeText(token.created_unix_ms())},
          {"expires", TimeText(token.expires_unix_ms())},
          {"created_by", token.created_by()},
          {"note", token.note()},
          {"labels", LabelJson(token.labels())}};
}

std::string TokenRow(const v1::JoinToken& token) {
  return fmt::format("{:<12}  {:<8} {:>5}/{:<5} {}  {}  {}  {}\n", token.id(), StateWord(token.state()),
                     token.used(), token.uses(), TimeText(token.expires_unix_ms()), Plain(token.created_by()),
                     LabelText(token.labels()), Plain(token.note()));
}

Status CreateToken(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::CreateJoinTokenRequest request;
  request.set_uses(arguments.uses);
  request.set_lifetime_ms(arguments.hours * kHourMs);
  request.set_note(arguments.note);
  SEALIFT_RETURN_IF_ERROR(PutLabels(arguments.labels, *request.mutable_labels()));
  SEALIFT_ASSIGN_OR_RETURN(const auto made, Call(client, &Stub::CreateJoinToken, request));
  if (!arguments.file.empty()) {
    SEALIFT_RETURN_IF_ERROR(WriteFileAtomically(arguments.file, AsBytes(made.secret() + "\n"), 0600));
  }
  if (session.json()) {
    json answer = TokenJson(made.token());
    if (arguments.file.empty()) answer["secret"] = made.secret();
    PrintJson(answer);
    return OkStatus();
  }
  Print(arguments.file.empty() ? made.secret() + "\n"
                               : fmt::format("join token {} is in {}\n", made.token().id(), arguments.file));
  return OkStatus();
}

Status ListTokens(FleetClient& client, const Arguments&, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto tokens,
                           Call(client, &Stub::ListJoinTokens, v1::ListJoinTokensRequest()));
  if (session.json()) {
    json list = json::array();
    for (const v1::JoinToken& token : tokens.tokens()) list.push_back(TokenJson(token));
    PrintJson({{"tokens", list}});
    return OkStatus();
  }
  Print(fmt::format("{:<12}  {:<8} {:>11} {:<20}  BY  LABELS  NOTE\n", "TOKEN", "STATE", "USED", "EXPIRES"));
  for (const v1::JoinToken& token : tokens.tokens()) Print(TokenRow(token));
  return OkStatus();
}

Status RevokeToken(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::RevokeJoinTokenRequest request;
  request.set_id(arguments.id);
  SEALIFT_ASSIGN_OR_RETURN(const v1::JoinToken token, Call(client, &Stub::RevokeJoinToken, request));
  session.json() ? PrintJson(TokenJson(token)) : Print(TokenRow(token));
  return OkStatus();
}

Status ImportInventory(FleetClient& client, const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string csv, ReadTextFile(arguments.file, kMaxInventoryBytes));
  v1::ImportInventoryRequest request;
  request.set_csv(csv);
  SEALIFT_ASSIGN_OR_RETURN(const auto change, Call(client, &Stub::ImportInventory, request));
  if (session.json()) {
    PrintJson({{"added", change.added()}, {"replaced", change.replaced()}});
  } else {
    Print(fmt::format("{} machines added, {} replaced\n", change.added(), change.replaced()));
  }
  return OkStatus();
}

json EntryJson(const v1::InventoryEntry& entry) {
  return {{"ek_digest", Hex(entry.ek_digest())}, {"serial", entry.serial()},
          {"labels", LabelJson(entry.labels())}, {"note", entry.note()},
          {"listed_by", entry.listed_by()},      {"listed", TimeText(entry.listed_unix_ms())},
          {"node_id", entry.node_id()}};
}

Status ListInventory(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::ListInventoryRequest request;
  request.set_not_enrolled(arguments.missing);
  json list = json::array();
  if (!session.json()) {
    Print(fmt::format("{:<64}  {:<16} {:<36}  LABELS\n", "EK DIGEST", "SERIAL", "NODE"));
  }
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const auto page, Call(client, &Stub::ListInventory, request));
    if (page.entries().empty()) break;
    for (const v1::InventoryEntry& entry : page.entries()) {
      if (session.json()) {
        list.push_back(EntryJson(entry));
      } else {
        Print(fmt::format("{}  {:<16} {:<36}  {}\n", Hex(entry.ek_digest()), Plain(entry.serial()),
                          entry.node_id().empty() ? "not enrolled" : entry.node_id(),
                          LabelText(entry.labels())));
      }
    }
    request.set_after_ek_digest(page.entries().rbegin()->ek_digest());
  }
  if (session.json()) PrintJson({{"machines", list}});
  return OkStatus();
}

Status WithdrawEk(FleetClient& client, const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, EkDigest(arguments.ek));
  v1::WithdrawEkRequest request;
  request.set_ek_digest(wire::ToWire(digest));
  SEALIFT_RETURN_IF_ERROR(Call(client, &Stub::WithdrawEk, request).status());
  if (session.json()) {
    PrintJson({{"ek_digest", digest.hex()}, {"withdrawn", true}});
  } else {
    Print(fmt::format("EK {} may not enrol any more\n", digest.hex()));
  }
  return OkStatus();
}

Status ReplaceEk(FleetClient& client, const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const Sha256Digest digest, EkDigest(arguments.ek));
  v1::ReplaceEkRequest request;
  SEALIFT_ASSIGN_OR_RETURN(*request.mutable_node_id(), NodeIdFrom(client, arguments.id));
  request.set_ek_digest(wire::ToWire(digest));
  request.set_reason(arguments.reason);
  SEALIFT_RETURN_IF_ERROR(Call(client, &Stub::ReplaceEk, request).status());
  if (session.json()) {
    PrintJson({{"id", request.node_id()}, {"ek_digest", digest.hex()}});
  } else {
    Print(fmt::format("node {} waits for the machine with EK {}\n", request.node_id(), digest.hex()));
  }
  return OkStatus();
}

Status ListRefusals(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::ListRefusalsRequest request;
  if (!arguments.id.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(*request.mutable_node_id(), NodeIdFrom(client, arguments.id));
  }
  request.set_limit(arguments.limit);
  SEALIFT_ASSIGN_OR_RETURN(const auto refusals, Call(client, &Stub::ListRefusals, request));
  if (session.json()) {
    PrintJson({{"refusals", RefusalsJson(refusals)}});
    return OkStatus();
  }
  for (const v1::Refusal& refusal : refusals.refusals()) {
    Print(fmt::format("{} EK {} from {}, {} times since {}{}\n    {}: {}\n", TimeText(refusal.last_unix_ms()),
                      Hex(refusal.ek_digest()), Plain(refusal.origin()), refusal.count(),
                      TimeText(refusal.first_unix_ms()),
                      refusal.node_id().empty() ? "" : ", node " + refusal.node_id(), refusal.reason(),
                      Plain(refusal.message())));
  }
  return OkStatus();
}

void AddJoinTokenVerbs(CLI::App& node, Session& session) {
  CLI::App* token = node.add_subcommand("token", "Join tokens: let machines in that nobody listed");
  token->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb =
      AddCall(*token, session, "create", "Make a join token; it is shown this once (role approver)",
              "sealift node token create --uses 40 --hours 8 --label site=lab --file join-token", arguments,
              CreateToken);
  verb->add_option("--uses", arguments->uses, "how many machines it lets in")->capture_default_str();
  verb->add_option("--hours", arguments->hours, "how long it is good")->capture_default_str();
  verb->add_option("--label", arguments->labels, "key=value of the machines; repeatable")
      ->allow_extra_args(false);
  verb->add_option("--note", arguments->note, "for other people: what it is for");
  verb->add_option("--file", arguments->file, "write it there (mode 0600), not to the terminal");

  arguments = std::make_shared<Arguments>();
  AddCall(*token, session, "list", "Join tokens, newest first; never the tokens themselves",
          "sealift node token list -o json", arguments, ListTokens);

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*token, session, "revoke", "Let no further machine in with this token (role approver)",
                 "sealift node token revoke 4f2a90c1d3e5", arguments, RevokeToken);
  verb->add_option("ID", arguments->id, "as `token list` shows it")->required();
}

void AddInventoryVerbs(CLI::App& node, Session& session) {
  CLI::App* inventory = node.add_subcommand("inventory", "Machines that are known before they boot");
  inventory->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = AddCall(*inventory, session, "import",
                           "List the machines of a CSV file, all of them or none (role approver)",
                           "sealift node inventory import machines.csv", arguments, ImportInventory);
  verb->add_option("FILE", arguments->file,
                   "CSV with the header serial,ek_digest,labels; labels as a=b;c=d (docs/admission.md)")
      ->required();

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*inventory, session, "list", "Listed machines, and the nodes they became",
                 "sealift node inventory list --missing", arguments, ListInventory);
  verb->add_flag("--missing", arguments->missing, "only those that have not enrolled yet");
}

}  // namespace

Result<Sha256Digest> EkDigest(const std::string& given) {
  if (auto digest = Sha256Digest::FromHex(given); digest.ok()) return digest;
  SEALIFT_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(given, kMaxCertificateBytes));
  const std::string text = ToText(bytes);
  if (auto certificate = Certificate::FromPem(text); certificate.ok())
    return certificate->public_key().key_id();
  if (auto certificate = Certificate::FromDer(bytes); certificate.ok())
    return certificate->public_key().key_id();
  if (auto key = PublicKey::FromPem(text); key.ok()) return key->key_id();
  if (auto key = PublicKey::FromDer(bytes); key.ok()) return key->key_id();
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("read EK '{}': neither a digest, nor a certificate, nor a public key", given));
}

Result<v1::ListRefusalsResponse> RefusalsOf(FleetClient& client, const std::string& node_id) {
  v1::ListRefusalsRequest request;
  request.set_node_id(node_id);
  return Call(client, &Stub::ListRefusals, request);
}

json RefusalsJson(const v1::ListRefusalsResponse& refusals) {
  json list = json::array();
  for (const v1::Refusal& refusal : refusals.refusals()) {
    list.push_back({{"ek_digest", Hex(refusal.ek_digest())},
                    {"node_id", refusal.node_id()},
                    {"reason", refusal.reason()},
                    {"message", refusal.message()},
                    {"origin", refusal.origin()},
                    {"count", refusal.count()},
                    {"first", TimeText(refusal.first_unix_ms())},
                    {"last", TimeText(refusal.last_unix_ms())}});
  }
  return list;
}

std::string RefusalsText(const v1::ListRefusalsResponse& refusals) {
  std::string text;
  for (const v1::Refusal& refusal : refusals.refusals()) {
    text += fmt::format("refused   {} times, last {} from {}: {}: {}\n", refusal.count(),
                        TimeText(refusal.last_unix_ms()), Plain(refusal.origin()), refusal.reason(),
                        Plain(refusal.message()));
  }
  return text;
}

void AddAdmissionVerbs(CLI::App& node, Session& session) {
  AddInventoryVerbs(node, session);
  AddJoinTokenVerbs(node, session);

  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = AddCall(node, session, "withdraw-ek",
                           "Take an endorsement key off the list before its machine enrolled "
                           "(role approver)",
                           "sealift node withdraw-ek ek-certificate.pem", arguments, WithdrawEk);
  verb->add_option("EK", arguments->ek, "as for admit-ek")->required();

  arguments = std::make_shared<Arguments>();
  verb =
      AddCall(node, session, "replace-ek",
              "A node's board was swapped: it goes on under its id with this endorsement key (role approver)",
              "sealift node replace-ek 0193e4 new-ek.pem --reason 'board swapped, ticket 4711'", arguments,
              ReplaceEk);
  verb->add_option("ID", arguments->id, "its id, or enough of its beginning")->required();
  verb->add_option("EK", arguments->ek, "of the new board, as for admit-ek")->required();
  verb->add_option("--reason", arguments->reason, "for the audit log");

  arguments = std::make_shared<Arguments>();
  verb = AddCall(node, session, "refusals", "Machines that were not believed or not let in, newest first",
                 "sealift node refusals 0193e4", arguments, ListRefusals);
  verb->add_option("ID", arguments->id, "only of this node; its id, or enough of its beginning");
  verb->add_option("--limit", arguments->limit, "at most so many (default 100)");
}

}  // namespace sealift::cli
