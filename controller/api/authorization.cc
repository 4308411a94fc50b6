#include "controller/api/authorization.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace sealift::controller {
namespace {

constexpr std::uint8_t Bit(Role role) { return static_cast<std::uint8_t>(role); }
constexpr std::uint8_t kAnonymous = Bit(Role::kAnonymous);
constexpr std::uint8_t kNode = Bit(Role::kNode);
constexpr std::uint8_t kOperator = Bit(Role::kOperator);
constexpr std::uint8_t kApprover = Bit(Role::kApprover);
constexpr std::uint8_t kCustodian = Bit(Role::kCustodian);
// Everyone with an operator's certificate may look.
constexpr std::uint8_t kReaders = Bit(Role::kViewer) | kOperator | kApprover | kCustodian;

constexpr bool kReads = false;
constexpr bool kMutates = true;

// No role contains another: whoever holds two duties holds two certificates, and the audit log tells them
// apart.
constexpr auto kRules = std::to_array<RpcRule>({
    {"/sealift.v1.EnrolmentService/Begin", kAnonymous, kReads},
    {"/sealift.v1.EnrolmentService/Complete", kAnonymous, kReads},

    {"/sealift.v1.NodeService/CheckIn", kNode, kReads},
    {"/sealift.v1.NodeService/Report", kNode, kReads},
    {"/sealift.v1.NodeService/Attest", kNode, kReads},
    {"/sealift.v1.NodeService/EscrowRecoveryKey", kNode, kReads},
    {"/sealift.v1.NodeService/GetMetadata", kNode, kReads},
    {"/sealift.v1.NodeService/FetchContent", kNode, kReads},

    {"/sealift.v1.SiteService/Locate", kNode, kReads},
    {"/sealift.v1.SiteService/Offer", kNode, kReads},
    {"/sealift.v1.SiteService/GetSite", kNode, kReads},
    {"/sealift.v1.SiteService/AdmitPeer", kNode, kReads},

    {"/sealift.v1.FleetService/ListNodes", kReaders, kReads},
    {"/sealift.v1.FleetService/GetNode", kReaders, kReads},
    {"/sealift.v1.FleetService/ListReleases", kReaders, kReads},
    {"/sealift.v1.FleetService/GetRollout", kReaders, kReads},
    {"/sealift.v1.FleetService/ListRollouts", kReaders, kReads},
    {"/sealift.v1.FleetService/WatchRollout", kReaders, kReads},
    {"/sealift.v1.FleetService/ListAudit", kReaders, kReads},
    {"/sealift.v1.FleetService/GetMetadata", kReaders, kReads},
    {"/sealift.v1.FleetService/ListRequests", kReaders, kReads},
    {"/sealift.v1.FleetService/GetRequest", kReaders, kReads},

    {"/sealift.v1.FleetService/CreateRequest", kOperator | kCustodian, kMutates},
    {"/sealift.v1.FleetService/CancelRequest", kOperator | kApprover | kCustodian, kMutates},

    {"/sealift.v1.FleetService/CreateRollout", kOperator, kMutates},
    {"/sealift.v1.FleetService/SetRolloutState", kOperator, kMutates},
    {"/sealift.v1.FleetService/UploadContent", kOperator, kMutates},
    {"/sealift.v1.FleetService/PublishTargets", kOperator, kMutates},
    {"/sealift.v1.FleetService/SetNodeLabels", kOperator, kMutates},

    {"/sealift.v1.FleetService/AdmitEk", kApprover, kMutates},
    {"/sealift.v1.FleetService/SetNodeAdmission", kApprover, kMutates},
    {"/sealift.v1.FleetService/ApproveRequest", kApprover, kMutates},

    {"/sealift.v1.FleetService/RevokeCertificate", kCustodian, kMutates},
    {"/sealift.v1.FleetService/FetchRecoveryKey", kCustodian, kMutates},

    {"/sealift.v1.AdmissionService/ListInventory", kReaders, kReads},
    {"/sealift.v1.AdmissionService/ListJoinTokens", kReaders, kReads},
    {"/sealift.v1.AdmissionService/ListRefusals", kReaders, kReads},
    {"/sealift.v1.AdmissionService/ImportInventory", kApprover, kMutates},
    {"/sealift.v1.AdmissionService/WithdrawEk", kApprover, kMutates},
    {"/sealift.v1.AdmissionService/CreateJoinToken", kApprover, kMutates},
    {"/sealift.v1.AdmissionService/RevokeJoinToken", kApprover, kMutates},
    {"/sealift.v1.AdmissionService/ReplaceEk", kApprover, kMutates},
    {"/sealift.v1.AttestationService/ListVerdicts", kReaders, kReads},
    {"/sealift.v1.AttestationService/GetEvidence", kReaders, kReads},

    {"/sealift.v1.SecretService/ListSecrets", kReaders, kReads},
    {"/sealift.v1.SecretService/GetSecret", kReaders, kReads},
    {"/sealift.v1.SecretService/PutSecret", kApprover, kMutates},
    {"/sealift.v1.SecretService/RevokeSecret", kApprover, kMutates},
    {"/sealift.v1.NodeSecretService/BeginFetchSecret", kNode, kReads},
    {"/sealift.v1.NodeSecretService/FetchSecret", kNode, kReads},

    {"/sealift.v1.BaselineService/ListBaselines", kReaders, kReads},
    {"/sealift.v1.BaselineService/GetBaseline", kReaders, kReads},
    {"/sealift.v1.BaselineService/ApproveBaseline", kApprover, kMutates},
    {"/sealift.v1.BaselineService/WithdrawBaseline", kApprover, kMutates},

    {"/sealift.v1.BuildService/Build", kOperator, kMutates},

    {"/sealift.v1.ContentService/FetchObject", kReaders, kReads},
    {"/sealift.v1.ContentService/ImportRelease", kOperator, kMutates},
    {"/sealift.v1.ContentService/Collect", kOperator, kMutates},

    {"/grpc.health.v1.Health/Check", kAnonymous | kNode | kReaders, kReads},
    {"/grpc.health.v1.Health/Watch", kReaders, kReads},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", kReaders, kReads},
});

}  // namespace

std::string_view RoleName(Role role) {
  switch (role) {
    case Role::kAnonymous:
      return "anonymous";
    case Role::kNode:
      return "node";
    case Role::kViewer:
      return "viewer";
    case Role::kOperator:
      return "operator";
    case Role::kApprover:
      return "approver";
    case Role::kCustodian:
      return "custodian";
  }
  return "unknown";
}

Result<Role> OperatorRoleFromName(std::string_view name) {
  for (const Role role : {Role::kViewer, Role::kOperator, Role::kApprover, Role::kCustodian}) {
    if (RoleName(role) == name) return role;
  }
  return MakeError(Code::kInvalidArgument, Reason::kCertificateInvalid,
                   fmt::format("read operator's role: '{}' is none", name.substr(0, 40)));
}

std::span<const RpcRule> RpcRules() { return kRules; }

const RpcRule* FindRule(std::string_view method) {
  const auto found =
      std::find_if(kRules.begin(), kRules.end(), [&](const RpcRule& rule) { return rule.method == method; });
  return found == kRules.end() ? nullptr : &*found;
}

Status CheckRole(std::string_view method, Role role) {
  const RpcRule* rule = FindRule(method);
  if (rule != nullptr && (rule->roles & Bit(role)) != 0) return OkStatus();
  return MakeError(Code::kPermissionDenied, Reason::kRpcNotPermitted,
                   fmt::format("call {}: role {} may not", method.substr(0, 120), RoleName(role)));
}

}  // namespace sealift::controller
