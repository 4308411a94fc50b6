#include "controller/api/authorization.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "sealift/v1/admission.pb.h"
#include "sealift/v1/attestation.pb.h"
#include "sealift/v1/baseline.pb.h"
#include "sealift/v1/build.pb.h"
#include "sealift/v1/content.pb.h"
#include "sealift/v1/enrolment.pb.h"
#include "sealift/v1/fleet.pb.h"
#include "sealift/v1/node.pb.h"
#include "sealift/v1/secret.pb.h"
#include "sealift/v1/site.pb.h"

namespace sealift::controller {
namespace {

std::set<std::string> MethodsOfOurServices() {
  std::set<std::string> methods;
  for (const auto* file :
       {v1::BeginRequest::descriptor()->file(), v1::CheckInRequest::descriptor()->file(),
        v1::ListNodesRequest::descriptor()->file(), v1::BuildRequest::descriptor()->file(),
        v1::ListRefusalsRequest::descriptor()->file(), v1::ListVerdictsRequest::descriptor()->file(),
        v1::ListSecretsRequest::descriptor()->file(), v1::CollectRequest::descriptor()->file(),
        v1::ListBaselinesRequest::descriptor()->file(), v1::LocateRequest::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        methods.insert("/" + file->service(s)->full_name() + "/" + file->service(s)->method(m)->name());
      }
    }
  }
  return methods;
}

TEST(AuthorizationTest, TableHasEveryMethodOnceAndNoOther) {
  std::set<std::string> in_table;
  for (const RpcRule& rule : RpcRules()) {
    EXPECT_TRUE(in_table.insert(std::string(rule.method)).second) << rule.method << " is there twice";
    EXPECT_NE(rule.roles, 0) << rule.method;
  }
  const std::set<std::string> ours = MethodsOfOurServices();
  EXPECT_GE(ours.size(), 30u);
  for (const std::string& method : ours)
    EXPECT_TRUE(in_table.contains(method)) << method << " is not in the table";
  for (const std::string& method : in_table) {
    EXPECT_TRUE(ours.contains(method) || method.rfind("/grpc.", 0) == 0) << method << " does not exist";
  }
}

TEST(AuthorizationTest, WhatIsNotInTheTableIsDenied) {
  for (const char* method : {"", "/", "/sealift.v1.FleetService/", "/sealift.v1.FleetService/listNodes",
                             "/sealift.v1.FleetService/ListNodes ", "/other.Service/Do"}) {
    for (const Role role : {Role::kAnonymous, Role::kNode, Role::kCustodian}) {
      EXPECT_EQ(ReasonOf(CheckRole(method, role)), Reason::kRpcNotPermitted) << method;
    }
  }
}

TEST(AuthorizationTest, NodesAndOperatorsShareNothingButHealth) {
  for (const RpcRule& rule : RpcRules()) {
    const bool node = CheckRole(rule.method, Role::kNode).ok();
    const bool viewer = CheckRole(rule.method, Role::kViewer).ok();
    if (rule.method != "/grpc.health.v1.Health/Check") {
      EXPECT_FALSE(node && viewer) << rule.method;
    }
  }
}

TEST(AuthorizationTest, ViewerChangesNothingAndEveryChangeIsAudited) {
  for (const RpcRule& rule : RpcRules()) {
    const bool viewer = CheckRole(rule.method, Role::kViewer).ok();
    EXPECT_FALSE(rule.mutating && viewer) << rule.method;
    // Whatever only some operators may do is a change.
    const bool some = CheckRole(rule.method, Role::kOperator).ok() ||
                      CheckRole(rule.method, Role::kApprover).ok() ||
                      CheckRole(rule.method, Role::kCustodian).ok();
    EXPECT_EQ(rule.mutating, some && !viewer) << rule.method;
  }
}

// Written out once more, so that a duty handed to another role by mistake shows.
TEST(AuthorizationTest, EachDutyBelongsToItsRole) {
  const std::map<Role, std::set<std::string>> duties{
      {Role::kOperator,
       {"CreateRollout", "SetRolloutState", "UploadContent", "PublishTargets", "SetNodeLabels",
        "CreateRequest", "CancelRequest"}},
      {Role::kApprover, {"AdmitEk", "SetNodeAdmission", "ApproveRequest", "CancelRequest"}},
      {Role::kCustodian, {"RevokeCertificate", "FetchRecoveryKey", "CreateRequest", "CancelRequest"}},
  };
  const std::set<std::string> readings{"ListNodes",    "GetNode",      "ListReleases", "GetRollout",
                                       "ListRollouts", "WatchRollout", "ListAudit",    "GetMetadata",
                                       "ListRequests", "GetRequest"};
  const std::string service = "/sealift.v1.FleetService/";
  for (const RpcRule& rule : RpcRules()) {
    if (rule.method.rfind(service, 0) != 0) continue;
    const std::string name(rule.method.substr(service.size()));
    for (const Role role : {Role::kViewer, Role::kOperator, Role::kApprover, Role::kCustodian}) {
      const bool expected =
          readings.contains(name) || (duties.contains(role) && duties.at(role).contains(name));
      EXPECT_EQ(CheckRole(rule.method, role).ok(), expected) << name << " by " << RoleName(role);
    }
  }
}

TEST(AuthorizationTest, NobodyWithoutACertificateReachesMoreThanEnrolmentAndHealth) {
  std::set<std::string> open;
  for (const RpcRule& rule : RpcRules()) {
    if (CheckRole(rule.method, Role::kAnonymous).ok()) open.insert(std::string(rule.method));
  }
  EXPECT_EQ(open, (std::set<std::string>{"/grpc.health.v1.Health/Check", "/sealift.v1.EnrolmentService/Begin",
                                         "/sealift.v1.EnrolmentService/Complete"}));
}

}  // namespace
}  // namespace sealift::controller
