// Every RPC, by every kind of caller, against the table.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include "controller/api/authorization.h"
#include "tests/integration/controller/app/controller_fixture.h"

namespace sealift::controller {
namespace {

class AccessTest : public ControllerTest {
 protected:
  // The gate looks at the path alone, so an empty unary call asks it the same question as a real one.
  Status Call(const std::shared_ptr<grpc::Channel>& channel, std::string_view method) {
    return Ask(channel, method, "").status();
  }

  // `message` and the answer as they are on the wire.
  Result<std::string> Ask(const std::shared_ptr<grpc::Channel>& channel, std::string_view method,
                          const std::string& message) {
    grpc::GenericStub stub(channel);
    // A health watch that was admitted never ends by itself.
    const auto patience = method == "/grpc.health.v1.Health/Watch" ? std::chrono::milliseconds(500)
                                                                   : std::chrono::milliseconds(20'000);
    const auto context = wire::MakeContext(patience);
    grpc::CompletionQueue queue;
    // Without fields it is a message all the same.
    const grpc::Slice slice(message);
    const auto call =
        stub.PrepareUnaryCall(context.get(), std::string(method), grpc::ByteBuffer(&slice, 1), &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool good = false;
    queue.Next(&tag, &good);
    if (!status.ok()) return StatusFromGrpc(status);
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(response.Dump(&slices).ok());
    std::string answer;
    for (const grpc::Slice& one : slices)
      answer.append(reinterpret_cast<const char*>(one.begin()), one.size());
    return answer;
  }
  // Of grpc.health.v1: 1 serving, 2 not serving.
  int Health(const std::string& address, const std::string& service) {
    std::string request = service;
    if (!service.empty()) request.insert(0, {'\x0a', static_cast<char>(service.size())});
    const auto certificate = OperatorCertificate("viewer");
    const auto answer =
        Ask(ChannelTo(address, address == server_->addresses().fleet ? &certificate : nullptr),
            "/grpc.health.v1.Health/Check", request);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() && answer->size() == 2 && answer->front() == '\x08' ? answer->back() : -1;
  }

  static bool Refused(const Status& status) {
    switch (ReasonOf(status)) {
      case Reason::kRpcNotPermitted:
      case Reason::kCertificateInvalid:
      case Reason::kCertificateRevoked:
      case Reason::kCertificateExpired:
      case Reason::kPeerUnreachable:
        return true;
      default:
        return false;
    }
  }

  void ExpectRefusedEverywhere(const std::string& address, const test::TestCertificate* certificate,
                               Reason reason, const char* who) {
    const auto channel = ChannelTo(address, certificate);
    for (const RpcRule& rule : RpcRules()) {
      EXPECT_EQ(ReasonOf(Call(channel, rule.method)), reason) << rule.method << " by " << who;
    }
    // A listener that is dead refuses everybody; this one serves who may be served.
    const auto viewer = OperatorCertificate("viewer");
    EXPECT_TRUE(Call(ChannelTo(address, &viewer), "/sealift.v1.FleetService/ListNodes").ok()) << who;
  }
};

TEST_F(AccessTest, EachRoleReachesWhatTheTableSaysAndNothingElse) {
  EnrolNode(1);
  const struct {
    Role role;
    test::TestCertificate certificate;
  } callers[] = {{Role::kNode, NodeCertificate(1)},
                 {Role::kViewer, OperatorCertificate("viewer")},
                 {Role::kOperator, OperatorCertificate("operator")},
                 {Role::kApprover, OperatorCertificate("approver")},
                 {Role::kCustodian, OperatorCertificate("custodian")}};
  for (const auto& caller : callers) {
    const auto channel = ChannelTo(server_->addresses().fleet, &caller.certificate);
    for (const RpcRule& rule : RpcRules()) {
      const Status status = Call(channel, rule.method);
      const bool allowed = CheckRole(rule.method, caller.role).ok();
      EXPECT_EQ(Refused(status), !allowed)
          << rule.method << " by " << RoleName(caller.role) << ": " << Describe(status);
      if (!allowed) {
        EXPECT_EQ(ReasonOf(status), Reason::kRpcNotPermitted) << rule.method;
      }
    }
    EXPECT_EQ(ReasonOf(Call(channel, "/sealift.v1.FleetService/NoSuchMethod")), Reason::kRpcNotPermitted);
    EXPECT_EQ(ReasonOf(Call(channel, "/grpc.channelz.v1.Channelz/GetServers")), Reason::kRpcNotPermitted);
  }
}

TEST_F(AccessTest, WithoutACertificateTheFleetListenerIsClosed) {
  ExpectRefusedEverywhere(server_->addresses().fleet, nullptr, Reason::kPeerUnreachable, "nobody");
}

TEST_F(AccessTest, StrangersReachEnrolmentAndHealthOnly) {
  const auto channel = ChannelTo(server_->addresses().enrolment, nullptr);
  for (const RpcRule& rule : RpcRules()) {
    EXPECT_EQ(Refused(Call(channel, rule.method)), !CheckRole(rule.method, Role::kAnonymous).ok())
        << rule.method;
  }
}

TEST_F(AccessTest, HealthTellsOfCertificatesThatEndSoon) {
  EXPECT_EQ(Health(server_->addresses().fleet, "sealift.certificates"), 1);
  server_.reset();
  inventory_.keys = {
      {.role = "node-ca", .has_certificate = true, .not_after = clock_.Now() + std::chrono::hours(24 * 89)}};
  Start();
  for (const std::string& address : {server_->addresses().fleet, server_->addresses().enrolment}) {
    EXPECT_EQ(Health(address, "sealift.certificates"), 2);
    EXPECT_EQ(Health(address, ""), 1);
  }
}

TEST_F(AccessTest, CertificateOfAnOperatorMeansNothingAtTheEnrolmentListener) {
  const auto custodian = OperatorCertificate("custodian");
  EXPECT_EQ(ReasonOf(Call(ChannelTo(server_->addresses().enrolment, &custodian),
                          "/sealift.v1.FleetService/ListNodes")),
            Reason::kRpcNotPermitted);
}

TEST_F(AccessTest, RevokedCertificatesReachNothing) {
  EnrolNode(1);
  for (const auto& certificate : {NodeCertificate(1), OperatorCertificate("custodian")}) {
    const auto channel = ChannelTo(server_->addresses().fleet, &certificate);
    EXPECT_FALSE(Refused(Call(channel, "/grpc.health.v1.Health/Check")));
    ASSERT_TRUE(stores_->certificates()
                    .Revoke(Certificate::FromPem(certificate.Pem())->fingerprint(), "test", clock_.Now())
                    .ok());
    // On the connection that was open before.
    EXPECT_EQ(ReasonOf(Call(channel, "/grpc.health.v1.Health/Check")), Reason::kCertificateRevoked);
    ExpectRefusedEverywhere(server_->addresses().fleet, &certificate, Reason::kCertificateRevoked,
                            "a revoked one");
  }
}

TEST_F(AccessTest, ExpiredCertificatesReachNothing) {
  const auto expired = test::Issue({.common_name = "x",
                                    .subject_alt_name = "URI:sealift:operator:anna?role=custodian",
                                    .not_before = -7200,
                                    .not_after = -60},
                                   &operator_ca_);
  ExpectRefusedEverywhere(server_->addresses().fleet, &expired, Reason::kPeerUnreachable, "an expired one");
  EnrolNode(1);
  const auto node = test::Issue({.common_name = "node",
                                 .subject_alt_name = "URI:" + Id(1).SubjectUri(),
                                 .not_before = -7200,
                                 .not_after = -60},
                                &node_ca_);
  ExpectRefusedEverywhere(server_->addresses().fleet, &node, Reason::kPeerUnreachable, "an expired node");
}

TEST_F(AccessTest, CertificateThatExpiresOnAnOpenConnectionIsRefused) {
  const auto brief = test::Issue(
      {.common_name = "x", .subject_alt_name = "URI:sealift:operator:anna?role=viewer", .not_after = 2},
      &operator_ca_);
  const auto channel = ChannelTo(server_->addresses().fleet, &brief);
  EXPECT_TRUE(Call(channel, "/sealift.v1.FleetService/ListNodes").ok());
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  Status status;
  while (status.ok() && std::chrono::steady_clock::now() < give_up) {
    status = Call(channel, "/sealift.v1.FleetService/ListNodes");
  }
  EXPECT_EQ(ReasonOf(status), Reason::kCertificateExpired) << Describe(status);
}

TEST_F(AccessTest, NodeCaCannotMakeOperators) {
  const auto forged = test::Issue(
      {.common_name = "x", .subject_alt_name = "URI:sealift:operator:anna?role=custodian"}, &node_ca_);
  ExpectRefusedEverywhere(server_->addresses().fleet, &forged, Reason::kCertificateInvalid,
                          "a node CA's operator");
}

TEST_F(AccessTest, OperatorCaCannotMakeNodes) {
  EnrolNode(1);
  const auto forged =
      test::Issue({.common_name = "x", .subject_alt_name = "URI:" + Id(1).SubjectUri()}, &operator_ca_);
  ExpectRefusedEverywhere(server_->addresses().fleet, &forged, Reason::kCertificateInvalid,
                          "an operator CA's node");
}

TEST_F(AccessTest, CertificateOfAStrangerIsRefused) {
  const auto other_ca = test::MakeCa("operator ca");
  const auto forged = test::Issue(
      {.common_name = "x", .subject_alt_name = "URI:sealift:operator:anna?role=custodian"}, &other_ca);
  ExpectRefusedEverywhere(server_->addresses().fleet, &forged, Reason::kPeerUnreachable, "another CA's");
}

}  // namespace
}  // namespace sealift::controller
