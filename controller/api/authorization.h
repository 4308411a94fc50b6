// Who may call what: one table, deny by default.
//
// Immutable. docs/authorization.md is this table in words; tests/unit/controller/api proves that every method
// of every service is in it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace sealift::controller {

// Bits, so that a rule can name several.
enum class Role : std::uint8_t {
  // No certificate at all: the enrolment listener only.
  kAnonymous = 1,
  kNode = 2,
  kViewer = 4,
  kOperator = 8,
  kApprover = 16,
  kCustodian = 32,
};

std::string_view RoleName(Role role);
// Of operators: "viewer", "operator", "approver", "custodian". Errors: INVALID_ARGUMENT/CERTIFICATE_INVALID.
Result<Role> OperatorRoleFromName(std::string_view name);

struct RpcRule {
  // As in the HTTP/2 :path: "/sealift.v1.FleetService/ListNodes".
  std::string_view method;
  std::uint8_t roles;
  // Goes to the audit log.
  bool mutating;
};

std::span<const RpcRule> RpcRules();
// Null: no such method, nobody may call it.
const RpcRule* FindRule(std::string_view method);
// Errors: PERMISSION_DENIED/RPC_NOT_PERMITTED.
Status CheckRole(std::string_view method, Role role);

}  // namespace sealift::controller
