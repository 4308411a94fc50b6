#include "controller/api/rpc_runner.h"

#include <fmt/format.h>

#include <exception>

#include "controller/api/audit_text.h"
#include "shared/base/log.h"
#include "shared/wire/grpc_status.h"

namespace sealift::controller {
namespace {

Status Guarded(const RpcRunner::Handler& handler, const Caller& caller) {
  try {
    return handler(caller);
  } catch (const std::exception& error) {
    return MakeError(Code::kInternal, Reason::kInternal, fmt::format("handle call: {}", error.what()));
  }
}

std::string NameOf(const Caller& caller) {
  if (caller.node) return caller.node->text();
  return caller.role == Role::kAnonymous ? "anonymous" : caller.operator_name;
}

}  // namespace

grpc::Status RpcRunner::Run(const grpc::ServerContextBase& context, std::string_view method,
                            const std::function<std::string()>& request, const Handler& handler) {
  const RpcRule* rule = FindRule(method);
  SEALIFT_CHECK(rule != nullptr);
  if (rule->mutating) log::Debug("call begins", {{"rpc", std::string(method)}});
  Caller caller;
  Status status = [&]() -> Status {
    SEALIFT_ASSIGN_OR_RETURN(caller, gate_.CallerOf(context));
    return Guarded(handler, caller);
  }();
  if (rule->mutating) {
    const Status audited = Audit(*rule, caller, request(), status);
    if (status.ok()) status = audited;
    log::Debug("call ends", {{"rpc", std::string(method)}});
  }
  return Leave(method, caller, status);
}

grpc::Status RpcRunner::Leave(std::string_view method, const Caller& caller, const Status& status) {
  metrics_.CountRpc(method, status.code());
  if (!status.ok()) {
    // A caller that left, or one that we sent away at shutdown, is nothing to act on.
    const bool ours = status.code() == Code::kInternal || status.code() == Code::kDataLoss ||
                      (status.code() == Code::kUnavailable && ReasonOf(status) != Reason::kCancelled);
    const auto write = ours ? log::Level::kError : log::Level::kInfo;
    log::Write(write, "call failed",
               {{"rpc", std::string(method)}, {"peer", NameOf(caller)}, {"error", Describe(status)}});
  }
  return ToGrpcStatus(status);
}

Status RpcRunner::Audit(const RpcRule& rule, const Caller& caller, std::string request,
                        const Status& outcome) {
  const Status appended = audit_.Append({.at = clock_.Now(),
                                         .operator_name = NameOf(caller),
                                         .role = std::string(RoleName(caller.role)),
                                         .rpc = std::string(rule.method),
                                         .request = AuditLine(std::move(request)),
                                         .outcome = outcome.ok() ? "OK" : ReasonIdOf(outcome)});
  if (!appended.ok()) {
    // The effect stands; that it is not in the audit log must not go unnoticed on either side.
    log::Error("audit entry lost", {{"rpc", std::string(rule.method)}, {"error", Describe(appended)}});
  }
  return appended;
}

}  // namespace sealift::controller
