#include "controller/api/call_limits.h"

#include <fmt/format.h>

#include "shared/crypto/hash.h"
#include "shared/wire/grpc_status.h"
#include "shared/wire/retry_after.h"

namespace sealift::controller {

std::optional<std::chrono::milliseconds> CallLimits::Wait(const NodeId& node) {
  if (const auto wait = nodes_.Wait(Sha256(AsBytes(node.text())))) return wait;
  return total_.Wait(Sha256Digest());
}

grpc::Status TurnAway(grpc::ServerContextBase& context, const NodeId& node, std::chrono::milliseconds wait) {
  context.AddTrailingMetadata(wire::kRetryAfter, std::to_string(wait.count()));
  return ToGrpcStatus(MakeError(
      Code::kResourceExhausted, Reason::kServerBusy,
      fmt::format("serve node {}: too many calls, come again in {} ms", node.text(), wait.count())));
}

}  // namespace sealift::controller
