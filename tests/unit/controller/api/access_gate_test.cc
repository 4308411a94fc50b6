#include "controller/api/access_gate.h"

#include <gtest/gtest.h>

#include <set>

#include "controller/api/enrolment_service.h"
#include "tests/support/test_pki.h"

namespace sealift::controller {
namespace {

constexpr char kNodeUri[] = "URI:sealift:node:01890000-0000-7000-8000-000000000001";
constexpr char kListNodes[] = "/sealift.v1.FleetService/ListNodes";
constexpr char kCheckIn[] = "/sealift.v1.NodeService/CheckIn";

class MemoryCertificates final : public CertificateStore {
 public:
  Status RecordIssued(const IssuedCertificate&) override { return OkStatus(); }
  Status Revoke(const Sha256Digest& sha256, const std::string&, UnixMillis) override {
    revoked_.insert(sha256);
    return OkStatus();
  }
  Result<bool> IsRevoked(const Sha256Digest& sha256) override {
    if (broken) return MakeError(Code::kUnavailable, Reason::kStoreFailed, "use database: gone");
    return revoked_.contains(sha256);
  }
  bool broken = false;

 private:
  std::set<Sha256Digest> revoked_;
};

class AccessGateTest : public ::testing::Test {
 protected:
  static Certificate Parsed(const test::TestCertificate& certificate) {
    auto parsed = Certificate::FromPem(certificate.Pem());
    SEALIFT_CHECK(parsed.ok());
    return *parsed;
  }
  AccessGateTest()
      : node_ca_(test::MakeCa("node ca")),
        operator_ca_(test::MakeCa("operator ca")),
        gate_({.node_cas = {Parsed(node_ca_)},
               .operator_cas = {Parsed(operator_ca_)},
               .on_refusal = [this](std::string_view method, Code) { refused_.emplace_back(method); }},
              certificates_, clock_) {}

  Reason Identify(const test::TestCertificate& certificate) {
    return ReasonOf(
        IdentifyCertificate(Parsed(certificate), {Parsed(node_ca_)}, {Parsed(operator_ca_)}, clock_.Now())
            .status());
  }

  test::TestCertificate node_ca_, operator_ca_;
  MemoryCertificates certificates_;
  FakeClock clock_{SystemClock().Now()};
  std::vector<std::string> refused_;
  AccessGate gate_;
};

TEST_F(AccessGateTest, NodeIsWhoTheNodeCaSays) {
  const auto certificate = test::Issue({.common_name = "x", .subject_alt_name = kNodeUri}, &node_ca_);
  const auto caller =
      IdentifyCertificate(Parsed(certificate), {Parsed(node_ca_)}, {Parsed(operator_ca_)}, clock_.Now());
  ASSERT_TRUE(caller.ok()) << Describe(caller.status());
  EXPECT_EQ(caller->role, Role::kNode);
  EXPECT_EQ(caller->node->text(), "01890000-0000-7000-8000-000000000001");
  EXPECT_EQ(caller->certificate, Parsed(certificate).fingerprint());
}

TEST_F(AccessGateTest, OperatorIsWhoTheOperatorCaSays) {
  for (const Role role : {Role::kViewer, Role::kOperator, Role::kApprover, Role::kCustodian}) {
    const auto certificate =
        test::Issue({.common_name = "anna",
                     .subject_alt_name = "URI:sealift:operator:anna?role=" + std::string(RoleName(role))},
                    &operator_ca_);
    const auto caller =
        IdentifyCertificate(Parsed(certificate), {Parsed(node_ca_)}, {Parsed(operator_ca_)}, clock_.Now());
    ASSERT_TRUE(caller.ok()) << Describe(caller.status());
    EXPECT_EQ(caller->role, role);
    EXPECT_EQ(caller->operator_name, "anna");
    EXPECT_FALSE(caller->node);
  }
}

TEST_F(AccessGateTest, NameDoesNotMakeWhatTheIssuerDoesNot) {
  const std::string custodian = "URI:sealift:operator:anna?role=custodian";
  const auto ca = test::MakeCa("node ca");  // same name, another key
  auto sub_request = test::CertificateRequest{.common_name = "sub", .ca = true};
  const auto sub_ca = test::Issue(sub_request, &operator_ca_);
  const struct {
    const char* what;
    test::TestCertificate certificate;
  } cases[] = {
      {"node CA names an operator",
       test::Issue({.common_name = "n", .subject_alt_name = custodian}, &node_ca_)},
      {"operator CA names a node",
       test::Issue({.common_name = "n", .subject_alt_name = kNodeUri}, &operator_ca_)},
      {"CA of the same name", test::Issue({.common_name = "n", .subject_alt_name = kNodeUri}, &ca)},
      {"CA below the operator CA", test::Issue({.common_name = "n", .subject_alt_name = custodian}, &sub_ca)},
      {"two names", test::Issue({.common_name = "n",
                                 .subject_alt_name = custodian + ",URI:sealift:operator:b?role=viewer"},
                                &operator_ca_)},
      {"no name", test::Issue({.common_name = "n"}, &operator_ca_)},
      {"only a common name and a DNS name",
       test::Issue({.common_name = "sealift:operator:anna?role=custodian", .subject_alt_name = "DNS:x"},
                   &operator_ca_)},
      {"no role",
       test::Issue({.common_name = "n", .subject_alt_name = "URI:sealift:operator:anna"}, &operator_ca_)},
      {"unknown role",
       test::Issue({.common_name = "n", .subject_alt_name = "URI:sealift:operator:a?role=root"},
                   &operator_ca_)},
      {"role of a node",
       test::Issue({.common_name = "n", .subject_alt_name = "URI:sealift:operator:a?role=node"},
                   &operator_ca_)},
      {"nobody", test::Issue({.common_name = "n", .subject_alt_name = "URI:sealift:operator:?role=viewer"},
                             &operator_ca_)},
      {"self-signed", test::Issue({.common_name = "n", .subject_alt_name = custodian}, nullptr)},
      {"server certificate",
       test::Issue({.common_name = "n", .subject_alt_name = kNodeUri, .extended_key_usage = "serverAuth"},
                   &node_ca_)},
      {"the CA itself",
       test::Issue({.common_name = "n", .subject_alt_name = custodian, .ca = true}, nullptr)},
  };
  for (const auto& c : cases) EXPECT_EQ(Identify(c.certificate), Reason::kCertificateInvalid) << c.what;
  EXPECT_EQ(
      Identify(test::Issue({.common_name = "n", .subject_alt_name = "URI:sealift:node:../x"}, &node_ca_)),
      Reason::kMalformed);
}

TEST_F(AccessGateTest, TimeIsCheckedForEachCallNotForEachConnection) {
  const auto certificate =
      test::Issue({.common_name = "x", .subject_alt_name = kNodeUri, .not_after = 600}, &node_ca_);
  EXPECT_TRUE(gate_.Admit(kCheckIn, certificate.Pem()).ok());
  clock_.Advance(std::chrono::seconds(590));
  EXPECT_TRUE(gate_.Admit(kCheckIn, certificate.Pem()).ok());
  clock_.Advance(std::chrono::seconds(20));
  EXPECT_EQ(ReasonOf(gate_.Admit(kCheckIn, certificate.Pem())), Reason::kCertificateExpired);
}

TEST_F(AccessGateTest, RevocationWorksAtOnce) {
  const auto certificate = test::Issue({.common_name = "x", .subject_alt_name = kNodeUri}, &node_ca_);
  EXPECT_TRUE(gate_.Admit(kCheckIn, certificate.Pem()).ok());
  ASSERT_TRUE(certificates_.Revoke(Parsed(certificate).fingerprint(), "lost", clock_.Now()).ok());
  EXPECT_EQ(ReasonOf(gate_.Admit(kCheckIn, certificate.Pem())), Reason::kCertificateRevoked);
}

TEST_F(AccessGateTest, StoreThatCannotAnswerDenies) {
  const auto certificate = test::Issue({.common_name = "x", .subject_alt_name = kNodeUri}, &node_ca_);
  certificates_.broken = true;
  EXPECT_EQ(ReasonOf(gate_.Admit(kCheckIn, certificate.Pem())), Reason::kStoreFailed);
}

TEST_F(AccessGateTest, RefusalsAreToldWithoutTheCallersText) {
  EXPECT_EQ(ReasonOf(gate_.Admit(kListNodes, "")), Reason::kRpcNotPermitted);
  EXPECT_EQ(ReasonOf(gate_.Admit("/made.up/Name", "")), Reason::kRpcNotPermitted);
  EXPECT_EQ(ReasonOf(gate_.Admit(kListNodes, "garbage")), Reason::kCertificateInvalid);
  EXPECT_EQ(refused_, (std::vector<std::string>{kListNodes, "unknown", kListNodes}));
}

TEST(OriginOfPeer, IsTheAddressWithoutWhatAMachineMayChooseFreely) {
  EXPECT_EQ(OriginOfPeer("ipv4:192.0.2.7:5000"), "192.0.2.7");
  EXPECT_EQ(OriginOfPeer("ipv6:%5B2001:db8:1:2:aaaa::1%5D:5000"), "20010db800010002");
  EXPECT_EQ(OriginOfPeer("ipv6:[2001:db8:1:2:bbbb::2]:6000"), "20010db800010002");
  EXPECT_EQ(OriginOfPeer("unknown"), "unknown");
}

}  // namespace
}  // namespace sealift::controller
