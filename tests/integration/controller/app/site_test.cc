// Whom the controller names to nodes of a site, and whom it lets nodes serve.
#include "sealift/v1/site.grpc.pb.h"
#include "tests/integration/controller/app/controller_fixture.h"

namespace sealift::controller {
namespace {

class SiteTest : public ControllerTest {
 protected:
  void SetUp() override {
    ControllerTest::SetUp();
    for (int i = 1; i <= 4; ++i) EnrolNode(i, {{"site", "lab"}});
    EnrolNode(5, {{"site", "office"}});
    EnrolNode(6);
    Publish({"1.0"});
    object_ = Sha256(AsBytes("image of 1.0"));
  }
  std::unique_ptr<v1::SiteService::Stub> Stub(const test::TestCertificate& certificate) {
    return v1::SiteService::NewStub(ChannelTo(server_->addresses().fleet, &certificate));
  }
  std::unique_ptr<v1::SiteService::Stub> Stub(int number) { return Stub(NodeCertificate(number)); }
  v1::LocateResponse Locate(int number, const Sha256Digest& object, const std::string& failed = {}) {
    v1::LocateRequest request;
    request.set_digest(wire::ToWire(object));
    if (!failed.empty()) request.add_failed(failed);
    v1::LocateResponse response;
    EXPECT_TRUE(Stub(number)->Locate(Context().get(), request, &response).ok());
    return response;
  }
  v1::LocateResponse Locate(int number) { return Locate(number, object_); }
  grpc::Status Offer(int number, const Sha256Digest& object, const std::string& address) {
    v1::OfferRequest request;
    request.add_digests(wire::ToWire(object));
    request.set_address(address);
    v1::OfferResponse response;
    return Stub(number)->Offer(Context().get(), request, &response);
  }
  static bool Fetches(const v1::LocateResponse& advice) {
    return !advice.has_holder() && advice.wait_ms() == 0;
  }
  static bool Waits(const v1::LocateResponse& advice) { return !advice.has_holder() && advice.wait_ms() > 0; }
  bool Admits(int number, const std::string& certificate) {
    v1::AdmitPeerRequest request;
    request.set_certificate(certificate);
    v1::AdmitPeerResponse response;
    EXPECT_TRUE(Stub(number)->AdmitPeer(Context().get(), request, &response).ok());
    return response.admitted();
  }
  static std::string Der(const test::TestCertificate& certificate) {
    return ToText(Certificate::FromPem(certificate.Pem())->der());
  }
  void SetAdmission(int number, Admission admission) {
    ASSERT_TRUE(stores_->nodes().SetAdmission(Id(number), admission).ok());
  }
  Sha256Digest object_;
};

TEST_F(SiteTest, OneFetchesTheOthersOfItsSiteAskIt) {
  EXPECT_TRUE(Fetches(Locate(1)));
  EXPECT_TRUE(Waits(Locate(2)));
  ASSERT_TRUE(Offer(1, object_, "10.0.0.1:7445").ok());
  const auto advice = Locate(2);
  EXPECT_EQ(advice.holder().node_id(), Id(1).text());
  EXPECT_EQ(advice.holder().address(), "10.0.0.1:7445");
  // Not those of another site, nor those of none, who never wait.
  EXPECT_TRUE(Fetches(Locate(5)));
  EXPECT_TRUE(Fetches(Locate(6)));
  EXPECT_TRUE(Fetches(Locate(6)));
  // The turn is given back.
  ASSERT_TRUE(Offer(1, object_, "").ok());
  EXPECT_TRUE(Fetches(Locate(3)));
}

TEST_F(SiteTest, NodesThatAreNotInGoodStandingAreNeitherNamedNorTold) {
  for (int i = 1; i <= 3; ++i) ASSERT_TRUE(Offer(i, object_, "10.0.0.1:7445").ok());
  SetAdmission(1, Admission::kQuarantined);
  SetAdmission(2, Admission::kRevoked);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Locate(4).holder().node_id(), Id(3).text());
  ASSERT_TRUE(stores_->node_status().RecordVerdict(Id(3), Verdict{.trust = Trust::kUntrusted}).ok());
  EXPECT_TRUE(Fetches(Locate(4)));
  // They ask in vain themselves, and their offers are nothing.
  ASSERT_TRUE(Offer(4, object_, "10.0.0.4:7445").ok());
  EXPECT_TRUE(Fetches(Locate(3)));
  ASSERT_TRUE(Offer(3, object_, "10.0.0.3:7445").ok());
  ASSERT_TRUE(Offer(4, object_, "").ok());
  EXPECT_TRUE(Fetches(Locate(4)));
}

TEST_F(SiteTest, TellsWhoIsToBeServed) {
  EXPECT_TRUE(Admits(1, Der(NodeCertificate(2))));
  EXPECT_FALSE(Admits(1, Der(NodeCertificate(5)))) << "of another site";
  EXPECT_FALSE(Admits(1, Der(NodeCertificate(6)))) << "of none";
  EXPECT_FALSE(Admits(6, Der(NodeCertificate(6)))) << "no site is no common site";
  EXPECT_FALSE(Admits(1, Der(NodeCertificate(9)))) << "unknown";
  EXPECT_FALSE(Admits(1, Der(OperatorCertificate("operator"))));
  EXPECT_FALSE(Admits(1, "no certificate"));
  EXPECT_FALSE(Admits(1, std::string(100'000, 'x')));
  const auto foreign = test::MakeCa("node ca");
  EXPECT_FALSE(Admits(
      1,
      Der(test::Issue({.common_name = "node", .subject_alt_name = "URI:" + Id(2).SubjectUri()}, &foreign))));
  EXPECT_FALSE(Admits(
      1, Der(test::Issue(
             {.common_name = "node", .subject_alt_name = "URI:" + Id(2).SubjectUri(), .not_after = -60},
             &node_ca_))));
  // One certificate is revoked, not its node.
  const auto lost = NodeCertificate(2);
  ASSERT_TRUE(stores_->certificates()
                  .Revoke(Certificate::FromPem(lost.Pem())->fingerprint(), "lost", clock_.Now())
                  .ok());
  EXPECT_FALSE(Admits(1, Der(lost)));
  EXPECT_TRUE(Admits(1, Der(NodeCertificate(2))));
  SetAdmission(2, Admission::kQuarantined);
  EXPECT_FALSE(Admits(1, Der(NodeCertificate(2))));
}

TEST_F(SiteTest, AnOfferNamesAnAddressThatNeedsNoLookUpAndOnlyObjectsThatAreOurs) {
  for (const char* bad : {"example.org:7445", "10.0.0.1", "10.0.0.1:22", "10.0.0.1:70000", "10.0.0.1:7445x",
                          "/etc/passwd:7445", ":7445"})
    EXPECT_EQ(Offer(1, object_, bad).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << bad;
  EXPECT_TRUE(Offer(1, object_, "[fd00::1]:7445").ok());
  EXPECT_EQ(Locate(2).holder().address(), "[fd00::1]:7445");
  const Sha256Digest unknown = Sha256(AsBytes("unknown"));
  EXPECT_TRUE(Offer(1, unknown, "10.0.0.1:7445").ok());
  EXPECT_TRUE(Fetches(Locate(2, unknown)));
  EXPECT_TRUE(Fetches(Locate(3, unknown))) << "nobody waits for what is not there";
  v1::OfferRequest many;
  many.set_address("10.0.0.1:7445");
  for (int i = 0; i < 257; ++i) many.add_digests(wire::ToWire(unknown));
  v1::OfferResponse response;
  EXPECT_EQ(Stub(1)->Offer(Context().get(), many, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(SiteTest, IsForNodesOnly) {
  const auto stub = Stub(OperatorCertificate("custodian"));
  v1::GetSiteResponse response;
  EXPECT_EQ(stub->GetSite(Context().get(), {}, &response).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  ASSERT_TRUE(Stub(1)->GetSite(Context().get(), {}, &response).ok());
  EXPECT_EQ(response.site(), "lab");
  EXPECT_EQ(response.node_cas(), node_ca_.Pem());
}

}  // namespace
}  // namespace sealift::controller
