// What surrounds every handler: the caller, the audit entry of a mutating call, counters, one log line for an
// error, and a net under exceptions. Thread-safe.
#pragma once

#include <grpcpp/server_context.h>

#include <functional>
#include <string>
#include <string_view>

#include "controller/api/access_gate.h"
#include "controller/api/ports.h"
#include "controller/fleet/stores.h"
#include "shared/base/clock.h"

namespace sealift::controller {

class RpcRunner {
 public:
  // Borrows all four.
  RpcRunner(AccessGate& gate, AuditStore& audit, Metrics& metrics, const Clock& clock)
      : gate_(gate), audit_(audit), metrics_(metrics), clock_(clock) {}

  using Handler = std::function<Status(const Caller&)>;
  // `method`: as in the authorisation table. `request`: one line for the audit log; evaluated for mutating
  // calls only.
  grpc::Status Run(const grpc::ServerContextBase& context, std::string_view method,
                   const std::function<std::string()>& request, const Handler& handler);

  // The two halves of Run, for a handler that answers later and changes nothing an audit log wants to know.
  Result<Caller> Enter(const grpc::ServerContextBase& context) { return gate_.CallerOf(context); }
  grpc::Status Leave(std::string_view method, const Caller& caller, const Status& status);

 private:
  Status Audit(const RpcRule& rule, const Caller& caller, std::string request, const Status& outcome);

  AccessGate& gate_;
  AuditStore& audit_;
  Metrics& metrics_;
  const Clock& clock_;
};

}  // namespace sealift::controller
