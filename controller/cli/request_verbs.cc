#include "controller/cli/request_verbs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <memory>
#include <optional>

#include "controller/cli/fleet_call.h"
#include "controller/cli/person.h"
#include "controller/cli/recovery_key.h"
#include "controller/cli/request_text.h"
#include "controller/cli/words.h"
#include "shared/base/clock.h"
#include "shared/crypto/hash.h"
#include "shared/order/change_request.h"

namespace sealift::cli {
namespace {

using Stub = v1::FleetService::StubInterface;
using nlohmann::json;

struct Arguments {
  std::string profile;
  std::string node;
  std::string request;
  std::string reason;
  std::string value;
  std::string digest;
  std::int64_t hours = 24;
  bool open = false;
  bool yes = false;
  bool recovery = false;
  RecoveryKeyArguments custody;
};

using Action = FleetAction<Arguments>;

void Show(const v1::ChangeRequest& request, const Session& session) {
  session.json() ? PrintJson(RequestJson(request)) : Print(RequestText(request));
}

// --- node ...: make a request

Result<v1::ChangeRequest> Ask(FleetClient& client, const Arguments& arguments, order::Action action,
                              std::map<std::string, std::string> parameters) {
  SEALIFT_ASSIGN_OR_RETURN(const Person person, Person::Load(arguments.profile));
  v1::GetNodeRequest by_id;
  by_id.set_id(arguments.node);
  SEALIFT_ASSIGN_OR_RETURN(const v1::Node node, client.Call(&Stub::GetNode, by_id));
  SEALIFT_ASSIGN_OR_RETURN(NodeId id, NodeId::Parse(node.id()));
  const UnixMillis now = SystemClock().Now();
  order::ChangeRequest wish{.id = HexEncode(RandomBytes(16)),
                            .action = action,
                            .parameters = std::move(parameters),
                            .node = std::move(id),
                            .nonce = ToBytes(node.order_nonce()),
                            .requester = person.name(),
                            .reason = arguments.reason,
                            .created = now,
                            .expires = now + std::chrono::hours(arguments.hours)};
  SEALIFT_ASSIGN_OR_RETURN(wish.ek_digest, Sha256Digest::FromBytes(AsBytes(node.ek_digest())));
  SEALIFT_RETURN_IF_ERROR(order::CheckChangeRequest(wish));
  v1::CreateRequestRequest request;
  request.set_canonical(order::CanonicalRequest(wish));
  SEALIFT_ASSIGN_OR_RETURN(const Bytes signature, person.Sign(request.canonical()));
  request.set_signature(ToText(signature));
  return client.Call(&Stub::CreateRequest, request);
}

Action AskFor(order::Action action, const char* parameter = nullptr) {
  return
      [action, parameter](FleetClient& client, const Arguments& arguments, const Session& session) -> Status {
        std::map<std::string, std::string> parameters;
        if (parameter != nullptr) parameters[parameter] = arguments.value;
        SEALIFT_ASSIGN_OR_RETURN(const v1::ChangeRequest made,
                                 Ask(client, arguments, action, std::move(parameters)));
        Show(made, session);
        if (!session.json()) {
          Print(fmt::format("another person approves it with: sealift request approve {}\n",
                            made.id().substr(0, 12)));
        }
        return OkStatus();
      };
}

CLI::App* AddAsk(CLI::App& node, Session& session, const std::string& name, const std::string& description,
                 const std::string& example, const Action& action,
                 const std::shared_ptr<Arguments>& arguments) {
  CLI::App* verb = AddCall(node, session, name, description, example, arguments, action);
  verb->add_option("NODE", arguments->node, "its id, or enough of its beginning")->required();
  verb->add_option("--reason", arguments->reason, "why, for whoever approves it");
  verb->add_option("--expires-in-hours", arguments->hours, "not approved and not obeyed after that")
      ->check(CLI::Range(1, 24 * 31))
      ->capture_default_str();
  return verb;
}

// --- recovery keys

// The caller's own request about this node that was approved; nothing where there is none.
Result<std::optional<v1::ChangeRequest>> ApprovedRelease(FleetClient& client, const Arguments& arguments,
                                                         const std::string& name) {
  v1::ListRequestsRequest list;
  list.set_node_id(arguments.node);
  list.set_open_only(true);
  SEALIFT_ASSIGN_OR_RETURN(const auto listed, client.Call(&Stub::ListRequests, list));
  for (const v1::ChangeRequest& one : listed.requests()) {
    const bool approved =
        one.state() == v1::ChangeRequest::APPROVED || one.state() == v1::ChangeRequest::DELIVERED;
    if (approved && one.action() == order::ActionName(order::Action::kReleaseRecoveryKey) &&
        one.requester() == name)
      return std::optional(one);
  }
  return std::optional<v1::ChangeRequest>();
}

Status RecoveryKey(FleetClient& client, const Arguments& arguments, const Session& session) {
  if (arguments.custody.tokens.empty()) {
    return AskFor(order::Action::kReleaseRecoveryKey)(client, arguments, session);
  }
  SEALIFT_ASSIGN_OR_RETURN(const Person person, Person::Load(arguments.profile));
  SEALIFT_ASSIGN_OR_RETURN(const auto approved, ApprovedRelease(client, arguments, person.name()));
  if (!approved) {
    return MakeError(Code::kFailedPrecondition, Reason::kRequestStateWrong,
                     fmt::format("read recovery key of node '{}': no request of yours about it is approved; "
                                 "make one without --token",
                                 arguments.node));
  }
  v1::FetchRecoveryKeyRequest request;
  request.set_request_id(approved->id());
  SEALIFT_ASSIGN_OR_RETURN(const auto fetched, client.Call(&Stub::FetchRecoveryKey, request));
  return PrintRecoveryKeys(fetched, *approved, arguments.custody, session);
}

// --- request ...

Result<v1::ChangeRequest> Find(FleetClient& client, const std::string& id) {
  v1::GetRequestRequest request;
  request.set_id(id);
  return client.Call(&Stub::GetRequest, request);
}

Status List(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::ListRequestsRequest request;
  request.set_node_id(arguments.node);
  request.set_open_only(arguments.open);
  SEALIFT_ASSIGN_OR_RETURN(const auto listed, client.Call(&Stub::ListRequests, request));
  json all = json::array();
  std::string table = RequestTableHead();
  for (const v1::ChangeRequest& one : listed.requests()) {
    all.push_back(RequestJson(one));
    table += RequestTableRow(one);
  }
  Print(session.json() ? json({{"requests", all}}).dump(2, ' ', false, json::error_handler_t::replace) + "\n"
                       : table);
  return OkStatus();
}

Status ShowOne(FleetClient& client, const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const v1::ChangeRequest request, Find(client, arguments.request));
  Show(request, session);
  return OkStatus();
}

// A script says which bytes it means; a person is shown them.
Status Confirm(const v1::ChangeRequest& request, const Arguments& arguments, const std::string& digest) {
  if (!arguments.digest.empty()) {
    if (digest == arguments.digest) return OkStatus();
    return MakeError(Code::kFailedPrecondition, Reason::kApprovalInvalid,
                     fmt::format("approve request {}: its digest is {}", request.id(), digest));
  }
  if (arguments.yes) return OkStatus();
  if (::isatty(STDIN_FILENO) != 1) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "approve request: say --digest or --yes where nobody can be asked");
  }
  std::fprintf(stderr, "%sapprove this in your name? Type yes: ", RequestText(request).c_str());
  std::string answer;
  if (std::getline(std::cin, answer) && answer == "yes") return OkStatus();
  return MakeError(Code::kCancelled, Reason::kCancelled, "approve request: you did not say yes");
}

Status Approve(FleetClient& client, const Arguments& arguments, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(v1::ChangeRequest request, Find(client, arguments.request));
  // What is shown is read from what is signed; the controller's own words about it are not asked.
  SEALIFT_ASSIGN_OR_RETURN(const order::ChangeRequest wish, order::ParseChangeRequest(request.canonical()));
  request.set_id(wish.id);
  request.set_action(std::string(order::ActionName(wish.action)));
  request.set_node_id(wish.node.text());
  request.set_requester(wish.requester);
  request.set_created_unix_ms(ToUnixMs(wish.created));
  request.set_expires_unix_ms(ToUnixMs(wish.expires));
  const Sha256Digest digest = Sha256(AsBytes(request.canonical()));
  request.set_digest(ToText(digest.view()));
  SEALIFT_RETURN_IF_ERROR(Confirm(request, arguments, digest.hex()));
  SEALIFT_ASSIGN_OR_RETURN(const Person person, Person::Load(arguments.profile));
  v1::ApproveRequestRequest approval;
  approval.set_id(wish.id);
  SEALIFT_ASSIGN_OR_RETURN(const Bytes signature, person.Sign(request.canonical()));
  approval.set_signature(ToText(signature));
  SEALIFT_ASSIGN_OR_RETURN(const v1::ChangeRequest approved, client.Call(&Stub::ApproveRequest, approval));
  Show(approved, session);
  return OkStatus();
}

Status Cancel(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::CancelRequestRequest request;
  request.set_id(arguments.request);
  request.set_reason(arguments.reason);
  SEALIFT_ASSIGN_OR_RETURN(const v1::ChangeRequest cancelled, client.Call(&Stub::CancelRequest, request));
  Show(cancelled, session);
  return OkStatus();
}

void AddNodeOrders(CLI::App& node, Session& session) {
  AddAsk(node, session, "reset",
         "Ask that a node makes its persistent partition anew: all on it is lost (role operator)",
         "sealift node reset 0193e4 --reason 'sold'", AskFor(order::Action::kReset),
         std::make_shared<Arguments>());

  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = AddAsk(
      node, session, "raise-epoch",
      "Ask that a node opens its disk for no image below this epoch, for ever (role operator)",
      "sealift node raise-epoch 0193e4 --epoch 3", AskFor(order::Action::kRaiseEpoch, "epoch"), arguments);
  verb->add_option("--epoch", arguments->value, "the lowest security epoch allowed from then on")->required();

  arguments = std::make_shared<Arguments>();
  verb = AddAsk(
      node, session, "retry", "Ask that a node tries a version again that failed on it (role operator)",
      "sealift node retry 0193e4 --release 1.2.0", AskFor(order::Action::kRetry, "version"), arguments);
  verb->add_option("--release", arguments->value, "the version")->required();

  arguments = std::make_shared<Arguments>();
  verb = AddAsk(node, session, "rollback",
                "Ask that a node may go to a lower version, not below its epoch (role operator)",
                "sealift node rollback 0193e4 --release 1.1.0", AskFor(order::Action::kRollback, "version"),
                arguments);
  verb->add_option("--release", arguments->value, "the version")->required();

  arguments = std::make_shared<Arguments>();
  verb = AddAsk(node, session, "upgrade",
                "Ask that a node's recovery entry boots the image it now runs (role operator)",
                "sealift node upgrade 0193e4 --recovery", AskFor(order::Action::kUpgradeRecovery), arguments);
  verb->add_flag("--recovery", arguments->recovery, "the recovery entry; others follow rollouts")->required();

  arguments = std::make_shared<Arguments>();
  verb = AddAsk(node, session, "select-entry", "Ask that a node boots an entry once (role operator)",
                "sealift node select-entry 0193e4 --entry recovery",
                AskFor(order::Action::kSelectEntry, "entry"), arguments);
  verb->add_option("--entry", arguments->value, "active, passive or recovery")
      ->required()
      ->check(CLI::IsMember({"active", "passive", "recovery"}));

  AddAsk(node, session, "replace-recovery-key",
         "Ask that a node makes new recovery keys and drops the old ones (role operator)",
         "sealift node replace-recovery-key 0193e4", AskFor(order::Action::kReplaceRecoveryKey),
         std::make_shared<Arguments>());

  arguments = std::make_shared<Arguments>();
  verb = AddAsk(node, session, "recovery-key",
                "Ask for a node's recovery keys; once approved, decrypt and print them (role custodian)",
                "sealift node recovery-key 0193e4 --reason 'TPM is dead'\n"
                "  sealift node recovery-key 0193e4 --keys keys --token custody=URI\n"
                "The first makes a request, the second fetches what another person approved. The node "
                "replaces its keys\n"
                "when it is back; until then node show says that they were released.",
                RecoveryKey, arguments);
  AddRecoveryKeyOptions(*verb, arguments->custody);
}

}  // namespace

void AddRequestVerbs(CLI::App& app, CLI::App& node, Session& session) {
  AddNodeOrders(node, session);

  CLI::App* request = app.add_subcommand("request", "What needs a second person's approval");
  request->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = AddCall(*request, session, "list", "Requests, newest first", "sealift request list --open",
                           arguments, List);
  verb->add_flag("--open", arguments->open, "only those that have not ended");
  verb->add_option("--node", arguments->node, "only those about this node");

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*request, session, "show", "One request, and what became of it", "sealift request show 3fa9",
                 arguments, ShowOne);
  verb->add_option("ID", arguments->request, "its id, or enough of its beginning")->required();

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*request, session, "approve",
                 "Sign another person's request with your key, after being shown it (role approver)",
                 "sealift request approve 3fa9", arguments, Approve);
  verb->add_option("ID", arguments->request, "its id, or enough of its beginning")->required();
  verb->add_option("--digest", arguments->digest,
                   "approve only if the request has this SHA-256; asks nothing");
  verb->add_flag("--yes", arguments->yes, "ask nothing");

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*request, session, "cancel",
                 "Withdraw your own request, or refuse one as approver, before its node has it",
                 "sealift request cancel 3fa9 --reason 'wrong node'", arguments, Cancel);
  verb->add_option("ID", arguments->request, "its id, or enough of its beginning")->required();
  verb->add_option("--reason", arguments->reason, "for the audit log");
}

}  // namespace sealift::cli
