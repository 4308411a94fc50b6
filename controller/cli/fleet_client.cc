#include "controller/cli/fleet_client.h"

#include "hsm/key_ring.h"
#include "shared/base/clock.h"
#include "shared/crypto/key_reference.h"

namespace sealift::cli {
namespace {

constexpr std::uint32_t kPage = 500;
// A watch is renewed after this; its deadline is no end of the rollout.
constexpr auto kWatchTimeout = std::chrono::minutes(30);
constexpr auto kReconnectPause = std::chrono::seconds(1);
constexpr int kMaxReconnects = 10;

bool WorthAnotherTry(const Status& status) {
  return status.code() == Code::kUnavailable || status.code() == Code::kDeadlineExceeded;
}

}  // namespace

Result<FleetClient> FleetClient::Connect(const std::string& profile_path) {
  SEALIFT_ASSIGN_OR_RETURN(const wire::Profile profile,
                           wire::LoadProfile(profile_path.empty() ? wire::DefaultProfilePath()
                                                                  : std::filesystem::path(profile_path)));
  // The profile's key may be a reference to one in a token.
  SEALIFT_RETURN_IF_ERROR(InstallKeyProvider());
  hsm::RegisterPkcs11Resolver();
  SEALIFT_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, wire::OpenChannel(profile));
  return FleetClient(channel);
}

Result<std::vector<v1::Node>> FleetClient::AllNodes(const std::string& selector) {
  std::vector<v1::Node> nodes;
  v1::ListNodesRequest request;
  request.set_selector(selector);
  request.set_page_size(kPage);
  do {
    SEALIFT_ASSIGN_OR_RETURN(const v1::ListNodesResponse page,
                             Call(&v1::FleetService::StubInterface::ListNodes, request));
    nodes.insert(nodes.end(), page.nodes().begin(), page.nodes().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return nodes;
}

Result<std::vector<v1::AuditEntry>> FleetClient::AllAudit(std::uint64_t after) {
  std::vector<v1::AuditEntry> entries;
  v1::ListAuditRequest request;
  request.set_after_sequence(after);
  request.set_page_size(kPage);
  for (;;) {
    SEALIFT_ASSIGN_OR_RETURN(const v1::ListAuditResponse page,
                             Call(&v1::FleetService::StubInterface::ListAudit, request));
    if (page.entries().empty()) return entries;
    entries.insert(entries.end(), page.entries().begin(), page.entries().end());
    request.set_after_sequence(entries.back().sequence());
  }
}

Status FleetClient::Watch(const std::string& rollout_id,
                          const std::function<bool(const v1::Rollout&)>& show) {
  v1::GetRolloutRequest request;
  request.set_id(rollout_id);
  SystemClock clock;
  Status status;
  for (int failures = 0; failures < kMaxReconnects; ++failures) {
    const auto context = wire::MakeContext(kWatchTimeout);
    const auto stream = stub_->WatchRollout(context.get(), request);
    v1::Rollout rollout;
    while (stream->Read(&rollout)) {
      failures = 0;
      if (show(rollout)) continue;
      context->TryCancel();
      static_cast<void>(stream->Finish());  // We ended it.
      return OkStatus();
    }
    status = StatusFromGrpc(stream->Finish());
    if (status.ok() || !WorthAnotherTry(status)) return status;
    clock.SleepFor(kReconnectPause, {});
  }
  return status;
}

}  // namespace sealift::cli
