// `sealift attest baseline`: what the firmware of hardware models measures, and who approved it.
#include <fmt/format.h>

#include <map>
#include <memory>

#include "controller/cli/fleet_call.h"
#include "controller/cli/fleet_verbs.h"
#include "controller/cli/words.h"
#include "sealift/v1/baseline.grpc.pb.h"
#include "shared/base/bytes.h"

namespace sealift::cli {
namespace {

using Stub = v1::BaselineService::StubInterface;
using nlohmann::json;

constexpr std::size_t kShortId = 16;

struct Arguments {
  std::string profile;
  std::string id;
  std::string vendor;
  std::string product;
};

using Action = FleetAction<Arguments>;

template <typename Request, typename Response>
Result<Response> Call(FleetClient& client,
                      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                      const Request& request) {
  const auto stub = v1::BaselineService::NewStub(client.channel());
  Response response;
  const auto context = wire::MakeContext();
  const grpc::Status status = (static_cast<Stub&>(*stub).*method)(context.get(), request, &response);
  if (!status.ok()) return StatusFromGrpc(status);
  return response;
}

std::string Hex(const std::string& bytes) { return HexEncode(AsBytes(bytes)); }

std::string StandingWord(v1::Baseline::Standing standing) {
  return Word(v1::Baseline::Standing_Name(standing));
}

json BaselineJson(const v1::Baseline& baseline) {
  return {{"id", Hex(baseline.id())},
          {"vendor", baseline.vendor()},
          {"product", baseline.product()},
          {"firmware_version", baseline.firmware_version()},
          {"standing", StandingWord(baseline.standing())},
          {"nodes", baseline.nodes()},
          {"first_seen", TimeText(baseline.first_seen_unix_ms())},
          {"approved_by", baseline.approved_by()},
          {"approved", TimeText(baseline.approved_unix_ms())},
          {"difference", baseline.difference()},
          {"node_ids", std::vector<std::string>(baseline.node_ids().begin(), baseline.node_ids().end())}};
}

std::string NodesText(const v1::Baseline& baseline) {
  std::string text;
  for (const std::string& id : baseline.node_ids()) text += (text.empty() ? "" : " ") + Plain(id);
  if (baseline.nodes() > static_cast<std::uint64_t>(baseline.node_ids_size())) text += " ...";
  return text;
}

std::string BaselineText(const v1::Baseline& baseline) {
  std::string text =
      fmt::format("{}  {:<9} {:>7}  {} {}, firmware {}\n", Hex(baseline.id()).substr(0, kShortId),
                  StandingWord(baseline.standing()), baseline.nodes(), Plain(baseline.vendor()),
                  Plain(baseline.product()), Plain(baseline.firmware_version()));
  if (!baseline.approved_by().empty()) {
    text += fmt::format("    approved by {} at {}\n", Plain(baseline.approved_by()),
                        TimeText(baseline.approved_unix_ms()));
  }
  if (!baseline.difference().empty()) text += fmt::format("    differs: {}\n", Plain(baseline.difference()));
  // Where something is odd, which machines it is.
  if (baseline.standing() == v1::Baseline::OUTLIER)
    text += fmt::format("    nodes: {}\n", NodesText(baseline));
  return text;
}

Status List(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::ListBaselinesRequest request;
  request.set_vendor(arguments.vendor);
  request.set_product(arguments.product);
  SEALIFT_ASSIGN_OR_RETURN(const v1::ListBaselinesResponse response,
                           Call(client, &Stub::ListBaselines, request));
  if (session.json()) {
    json list = json::array();
    for (const v1::Baseline& baseline : response.baselines()) list.push_back(BaselineJson(baseline));
    PrintJson({{"baselines", list}});
    return OkStatus();
  }
  if (response.baselines().empty()) Print("no machine proposed a baseline yet\n");
  for (const v1::Baseline& baseline : response.baselines()) Print(BaselineText(baseline));
  return OkStatus();
}

Status Show(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::GetBaselineRequest request;
  request.set_id(arguments.id);
  SEALIFT_ASSIGN_OR_RETURN(const v1::GetBaselineResponse response, Call(client, &Stub::GetBaseline, request));
  if (session.json()) {
    json out = BaselineJson(response.baseline());
    out["registers"] = json::object();
    for (const auto& [pcr, value] : response.registers()) out["registers"][std::to_string(pcr)] = Hex(value);
    out["events"] = json::array();
    for (const v1::BaselineEvent& event : response.events()) {
      out["events"].push_back({{"pcr", event.pcr()},
                               {"digest", event.digest().empty() ? json(nullptr) : json(Hex(event.digest()))},
                               {"text", event.text()}});
    }
    PrintJson(out);
    return OkStatus();
  }
  Print(BaselineText(response.baseline()));
  Print(fmt::format("id     {}\nseen   {}\nnodes  {}\n", Hex(response.baseline().id()),
                    TimeText(response.baseline().first_seen_unix_ms()), NodesText(response.baseline())));
  for (const auto& [pcr, value] :
       std::map<std::uint32_t, std::string>(response.registers().begin(), response.registers().end())) {
    Print(fmt::format("PCR {}  {}\n", pcr, Hex(value)));
  }
  for (const v1::BaselineEvent& event : response.events()) {
    Print(fmt::format("  {}  {:<64}  {}\n", event.pcr(),
                      event.digest().empty() ? "not compared" : Hex(event.digest()), Plain(event.text())));
  }
  return OkStatus();
}

Status Approve(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::ApproveBaselineRequest request;
  request.set_id(arguments.id);
  SEALIFT_ASSIGN_OR_RETURN(const v1::ApproveBaselineResponse response,
                           Call(client, &Stub::ApproveBaseline, request));
  if (session.json()) {
    PrintJson(BaselineJson(response.baseline()));
  } else {
    Print(BaselineText(response.baseline()));
  }
  return OkStatus();
}

Status Withdraw(FleetClient& client, const Arguments& arguments, const Session& session) {
  v1::WithdrawBaselineRequest request;
  request.set_id(arguments.id);
  SEALIFT_RETURN_IF_ERROR(Call(client, &Stub::WithdrawBaseline, request).status());
  if (session.json()) {
    PrintJson({{"withdrawn", arguments.id}});
  } else {
    Print("withdrawn: it is a proposal again\n");
  }
  return OkStatus();
}

}  // namespace

void AddBaselineVerbs(CLI::App& attest, Session& session) {
  CLI::App* baseline =
      attest.add_subcommand("baseline", "What the firmware of each hardware model measures (PCR 0 to 3)");
  baseline->require_subcommand(1);
  struct Verb {
    const char* name;
    const char* help;
    const char* example;
    Action action;
    bool takes_id;
  };
  for (const Verb& verb :
       {Verb{"list", "What machines show, what is approved, and who differs in which event",
             "sealift attest baseline list", &List, false},
        Verb{"show", "One baseline, event by event", "sealift attest baseline show 4f1c20", &Show, true},
        Verb{"approve", "From now on machines of the model must show it, or what most of them do",
             "sealift attest baseline approve 4f1c20", &Approve, true},
        Verb{"withdraw", "Take an approval back", "sealift attest baseline withdraw 4f1c20", &Withdraw,
             true}}) {
    const auto arguments = std::make_shared<Arguments>();
    CLI::App* added = AddCall(*baseline, session, verb.name, verb.help, verb.example, arguments, verb.action);
    if (verb.takes_id) {
      added->add_option("ID", arguments->id, "the baseline's id or the start of it")->required();
    } else {
      added->add_option("--vendor", arguments->vendor, "of this model only, with --product");
      added->add_option("--product", arguments->product, "of this model only, with --vendor");
    }
  }
}

}  // namespace sealift::cli
