#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>

#include "controller/cli/fleet_call.h"
#include "controller/cli/fleet_verbs.h"
#include "controller/cli/words.h"
#include "sealift/v1/secret.grpc.pb.h"
#include "shared/base/files.h"
#include "shared/base/secret.h"

namespace sealift::cli {
namespace {

using Stub = v1::SecretService::StubInterface;
using nlohmann::json;

constexpr std::size_t kMaxValueBytes = 16u << 10;

struct Arguments {
  std::string profile;
  std::string name;
  std::string file;
  std::string selector;
  std::string node;
  std::string releases;
  std::string note;
  std::uint32_t limit = 0;
  bool boot_only = false;
};

template <typename Request, typename Response>
Result<Response> Call(FleetClient& client,
                      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                      const Request& request) {
  const auto stub = v1::SecretService::NewStub(client.channel());
  Response response;
  const auto context = wire::MakeContext();
  const grpc::Status status = (static_cast<Stub&>(*stub).*method)(context.get(), request, &response);
  if (!status.ok()) return StatusFromGrpc(status);
  return response;
}

std::string ForWhom(const v1::Secret& secret) {
  if (!secret.node_id().empty()) return "node " + secret.node_id();
  return secret.selector().empty() ? "all nodes" : Plain(secret.selector());
}

json SecretJson(const v1::Secret& secret) {
  json object{{"name", secret.name()},
              {"id", secret.id()},
              {"selector", secret.selector()},
              {"node", secret.node_id()},
              {"releases", secret.releases()},
              {"opens", secret.boot_only() ? "boot" : "running"},
              {"note", secret.note()},
              {"created_by", secret.created_by()},
              {"created", TimeText(secret.created_unix_ms())},
              {"revoked", nullptr}};
  if (secret.revoked_unix_ms() != 0) object["revoked"] = TimeText(secret.revoked_unix_ms());
  return object;
}

std::string Row(const v1::Secret& secret) {
  return fmt::format("{:<24} {:<16} {:<7} {:<8} {}  for {}, releases {}{}\n", Plain(secret.name()),
                     secret.id(), secret.boot_only() ? "boot" : "running",
                     secret.revoked_unix_ms() != 0 ? "revoked" : "in force",
                     TimeText(secret.created_unix_ms()), ForWhom(secret), Plain(secret.releases()),
                     secret.note().empty() ? "" : "  " + Plain(secret.note()));
}

// Standard input or a file of the caller's own, never an argument. In one buffer from the start, so that no
// outgrown copy is left behind.
Result<SecretBytes> ReadValue(const std::string& file) {
  UniqueFd opened;
  int fd = STDIN_FILENO;
  if (file != "-") {
    SEALIFT_RETURN_IF_ERROR(CheckSecretFile(file));
    opened = UniqueFd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    fd = opened.get();
  }
  Bytes buffer(kMaxValueBytes + 1);
  std::size_t size = 0;
  while (size < buffer.size()) {
    const ssize_t got = ::read(fd, buffer.data() + size, buffer.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return ErrnoError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                        fmt::format("read secret from '{}'", file), "read", errno);
    }
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  SecretBytes value(ByteView(buffer).first(size));
  WipeMemory(buffer.data(), buffer.size());
  if (size != 0 && size <= kMaxValueBytes) return value;
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                   fmt::format("read secret from '{}': it is not 1 to {} bytes long", file, kMaxValueBytes));
}

Status Put(FleetClient& client, const Arguments& arguments, const Session& session) {
  if (arguments.selector.empty() == arguments.node.empty()) {
    return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument,
                     "put secret: say whom it is for, with one of --for and --node");
  }
  v1::PutSecretRequest request;
  request.set_name(arguments.name);
  if (arguments.selector != "all") request.set_selector(arguments.selector);
  request.set_node_id(arguments.node);
  request.set_releases(arguments.releases);
  request.set_boot_only(arguments.boot_only);
  request.set_note(arguments.note);
  SEALIFT_ASSIGN_OR_RETURN(const SecretBytes value, ReadValue(arguments.file));
  request.set_value(ToText(value.ExposeSecret()));
  const auto stored = Call(client, &Stub::PutSecret, request);
  WipeMemory(request.mutable_value()->data(), request.value().size());
  if (!stored.ok()) return stored.status();
  session.json() ? PrintJson(SecretJson(*stored)) : Print(Row(*stored));
  return OkStatus();
}

Status List(FleetClient& client, const Arguments&, const Session& session) {
  SEALIFT_ASSIGN_OR_RETURN(const auto secrets, Call(client, &Stub::ListSecrets, v1::ListSecretsRequest()));
  json list = json::array();
  for (const v1::Secret& secret : secrets.secrets()) {
    if (session.json()) {
      list.push_back(SecretJson(secret));
    } else {
      Print(Row(secret));
    }
  }
  if (session.json()) PrintJson({{"secrets", list}});
  return OkStatus();
}

Status Show(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::GetSecretRequest request;
  request.set_name(arguments.name);
  request.set_limit(arguments.limit);
  SEALIFT_ASSIGN_OR_RETURN(const auto found, Call(client, &Stub::GetSecret, request));
  json deliveries = json::array();
  if (!session.json()) Print(Row(found.secret()));
  for (const v1::SecretDelivery& one : found.deliveries()) {
    const std::string quote = HexEncode(AsBytes(one.quote_digest()));
    if (!session.json()) {
      Print(fmt::format("  {}  to {} running {} {}, value {}, quote {}\n", TimeText(one.at_unix_ms()),
                        one.node_id(), Plain(one.channel()), Plain(one.version()), one.id(), quote));
      continue;
    }
    deliveries.push_back({{"at", TimeText(one.at_unix_ms())},
                          {"node", one.node_id()},
                          {"id", one.id()},
                          {"channel", one.channel()},
                          {"version", one.version()},
                          {"release_id", HexEncode(AsBytes(one.release_id()))},
                          {"quote", quote}});
  }
  if (!session.json()) return OkStatus();
  json object = SecretJson(found.secret());
  object["deliveries"] = deliveries;
  PrintJson(object);
  return OkStatus();
}

Status Revoke(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::RevokeSecretRequest request;
  request.set_name(arguments.name);
  SEALIFT_ASSIGN_OR_RETURN(const v1::Secret revoked, Call(client, &Stub::RevokeSecret, request));
  session.json() ? PrintJson(SecretJson(revoked)) : Print(Row(revoked));
  return OkStatus();
}

}  // namespace

void AddSecretVerbs(CLI::App& app, Session& session) {
  CLI::App* secret = app.add_subcommand("secret", "Secrets for nodes that prove what they run");
  secret->require_subcommand(1);
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = AddCall(
      *secret, session, "put", "Keep a secret, or another value of it (role approver)",
      "sealift secret put site-key --file - --for site=lab --releases stable:2.0.0.. < key", arguments, Put);
  verb->add_option("NAME", arguments->name, "1 to 64 of a-z, 0-9, '.', '_', '-'")->required();
  verb->add_option("--file", arguments->file,
                   "the value: a file that only you can read, or - for standard input; at most 16 KiB, every "
                   "byte counts, a last line feed too")
      ->required();
  verb->add_option("--for", arguments->selector, "labels of the nodes, as site=lab,role=edge; or all");
  verb->add_option("--node", arguments->node, "one node instead: its id, or enough of its beginning");
  verb->add_option("--releases", arguments->releases,
                   "what they have to run: CHANNEL:VERSIONS, several with commas; VERSIONS is 1.2, 1.2..1.4, "
                   "1.2.., ..1.4 or *")
      ->required();
  verb->add_flag("--boot-only", arguments->boot_only,
                 "opens only in phases that the image's signatures are for, by default the early boot");
  verb->add_option("--note", arguments->note, "for other people: what it is for");

  arguments = std::make_shared<Arguments>();
  AddCall(*secret, session, "list", "Secrets and whom they are for; never a value",
          "sealift secret list -o json", arguments, List);

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*secret, session, "show", "A secret, and who got it, newest first; never its value",
                 "sealift secret show site-key --limit 100", arguments, Show);
  verb->add_option("NAME", arguments->name, "as `secret list` shows it")->required();
  verb->add_option("--limit", arguments->limit, "at most so many deliveries (default 20)");

  arguments = std::make_shared<Arguments>();
  verb = AddCall(*secret, session, "revoke",
                 "Forget the value: no node gets it any more; those that have it keep it (role approver)",
                 "sealift secret revoke site-key", arguments, Revoke);
  verb->add_option("NAME", arguments->name, "as `secret list` shows it")->required();
}

}  // namespace sealift::cli
