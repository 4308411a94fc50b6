// What operators say about who may become a node, and what they are told.
#include <fmt/format.h>

#include "sealift/v1/admission.grpc.pb.h"
#include "tests/integration/controller/app/controller_fixture.h"

namespace sealift::controller {
namespace {

class AdmissionTest : public ControllerTest {
 protected:
  std::unique_ptr<v1::AdmissionService::Stub> Stub(const std::string& role) {
    const auto certificate = OperatorCertificate(role);
    return v1::AdmissionService::NewStub(ChannelTo(server_->addresses().fleet, &certificate));
  }
  static std::string Digest(char digit) { return std::string(64, digit); }
  Result<v1::ImportInventoryResponse> Import(const std::string& csv) {
    v1::ImportInventoryRequest request;
    request.set_csv(csv);
    v1::ImportInventoryResponse response;
    const grpc::Status status = Stub("approver")->ImportInventory(Context().get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }
  v1::ListInventoryResponse Inventory(bool missing) {
    v1::ListInventoryRequest request;
    request.set_not_enrolled(missing);
    v1::ListInventoryResponse response;
    EXPECT_TRUE(Stub("viewer")->ListInventory(Context().get(), request, &response).ok());
    return response;
  }
  Result<v1::CreateJoinTokenResponse> Create(std::uint32_t uses, std::int64_t lifetime_ms) {
    v1::CreateJoinTokenRequest request;
    request.set_uses(uses);
    request.set_lifetime_ms(lifetime_ms);
    request.set_note("pallet 7");
    (*request.mutable_labels())["site"] = "lab";
    v1::CreateJoinTokenResponse response;
    const grpc::Status status = Stub("approver")->CreateJoinToken(Context().get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }
};

TEST_F(AdmissionTest, AnInventoryIsTakenWholeOrNotAtAll) {
  EXPECT_EQ(ReasonOf(Import("serial,ek_digest,labels\nA," + Digest('a') + ",\nB,short,\n").status()),
            Reason::kInventoryInvalid);
  EXPECT_EQ(Inventory(false).entries_size(), 0);
  const auto taken =
      Import("serial,ek_digest,labels\nA," + Digest('a') + ",site=lab\nB," + Digest('b') + ",\n");
  ASSERT_TRUE(taken.ok()) << Describe(taken.status());
  EXPECT_EQ(taken->added(), 2u);
  const auto listed = Inventory(true);
  ASSERT_EQ(listed.entries_size(), 2);
  EXPECT_EQ(listed.entries(0).serial(), "A");
  EXPECT_EQ(listed.entries(0).labels().at("site"), "lab");
  EXPECT_EQ(listed.entries(0).listed_by(), "anna");

  v1::WithdrawEkRequest withdraw;
  withdraw.set_ek_digest(listed.entries(1).ek_digest());
  v1::WithdrawEkResponse withdrawn;
  EXPECT_TRUE(Stub("approver")->WithdrawEk(Context().get(), withdraw, &withdrawn).ok());
  EXPECT_EQ(ReasonOf(StatusFromGrpc(Stub("approver")->WithdrawEk(Context().get(), withdraw, &withdrawn))),
            Reason::kEkNotListed);
  EXPECT_EQ(Inventory(true).entries_size(), 1);
  // The audit log has all of it, failures too.
  const auto audit = stores_->audit().List(0, 100).value();
  ASSERT_EQ(audit.size(), 4u);
  EXPECT_EQ(audit[0].outcome, "INVENTORY_INVALID");
  EXPECT_NE(audit[1].request.find("added=2"), std::string::npos);
  EXPECT_EQ(audit[3].outcome, "EK_NOT_LISTED");
}

TEST_F(AdmissionTest, ATokenIsShownOnceAndKeptAsAHash) {
  for (const auto& [uses, lifetime] : {std::pair<std::uint32_t, std::int64_t>{0, 3'600'000},
                                       {10'001, 3'600'000},
                                       {1, 59'999},
                                       {1, 31LL * 24 * 3'600'000},
                                       {1, -1}}) {
    EXPECT_EQ(ReasonOf(Create(uses, lifetime).status()), Reason::kInvalidArgument) << uses << " " << lifetime;
  }
  const auto made = Create(3, 3'600'000);
  ASSERT_TRUE(made.ok()) << Describe(made.status());
  EXPECT_EQ(made->token().state(), v1::JoinToken::USABLE);
  ASSERT_TRUE(HashJoinToken(made->secret()).has_value());
  for (const char* name : {"controller.db", "controller.db-wal"}) {
    const auto bytes = ReadFile(dir_->path() / "state" / name);
    ASSERT_TRUE(bytes.ok());
    EXPECT_EQ(AsText(*bytes).find(made->secret().substr(20)), std::string_view::npos) << name;
  }
  const Sha256Digest machine = Sha256(AsBytes("machine"));
  ASSERT_TRUE(stores_->join_tokens().Redeem(*HashJoinToken(made->secret()), machine, clock_.Now()).ok());

  v1::RevokeJoinTokenRequest revoke;
  revoke.set_id(made->token().id());
  v1::JoinToken revoked;
  ASSERT_TRUE(Stub("approver")->RevokeJoinToken(Context().get(), revoke, &revoked).ok());
  EXPECT_EQ(revoked.state(), v1::JoinToken::REVOKED);
  v1::ListJoinTokensResponse list;
  ASSERT_TRUE(Stub("viewer")->ListJoinTokens(Context().get(), v1::ListJoinTokensRequest(), &list).ok());
  ASSERT_EQ(list.tokens_size(), 1);
  EXPECT_EQ(list.tokens(0).used(), 1u);
  EXPECT_EQ(list.tokens(0).note(), "pallet 7");
  EXPECT_EQ(list.DebugString().find(made->secret()), std::string::npos);
  const std::vector<AuditRecord> audited = stores_->audit().List(0, 100).value();
  for (const AuditRecord& record : audited) {
    EXPECT_EQ(record.request.find(made->secret()), std::string::npos);
  }
}

TEST_F(AdmissionTest, AReplacedBoardLosesItsConnectionAtOnce) {
  EnrolNode(1);
  const auto node = NodeStub(1);
  v1::CheckInRequest check_in;
  check_in.set_state(v1::IDLE);
  check_in.mutable_running()->set_boot_id("boot");
  v1::CheckInResponse answer;
  const auto certificate = NodeCertificate(1);
  const auto own = v1::NodeService::NewStub(ChannelTo(server_->addresses().fleet, &certificate));
  ASSERT_TRUE(stores_->certificates()
                  .RecordIssued({.sha256 = Certificate::FromPem(certificate.Pem())->fingerprint(),
                                 .subject = Id(1).SubjectUri(),
                                 .issued = clock_.Now(),
                                 .not_after = clock_.Now() + std::chrono::hours(24)})
                  .ok());
  ASSERT_TRUE(own->CheckIn(Context().get(), check_in, &answer).ok());
  v1::ReplaceEkRequest replace;
  replace.set_node_id(Id(1).text());
  replace.set_ek_digest(std::string(32, 'n'));
  v1::ReplaceEkResponse replaced;
  ASSERT_TRUE(Stub("approver")->ReplaceEk(Context().get(), replace, &replaced).ok());
  EXPECT_EQ(ReasonOf(StatusFromGrpc(own->CheckIn(Context().get(), check_in, &answer))),
            Reason::kCertificateRevoked);
  EXPECT_EQ(wire::ToWire(stores_->nodes().Get(Id(1))->ek_digest), std::string(32, 'n'));
}

TEST_F(AdmissionTest, RefusalsAreSeenByEveryOperator) {
  EnrolNode(1);
  ASSERT_TRUE(stores_->refusals()
                  .Record({.ek_digest = stores_->nodes().Get(Id(1))->ek_digest,
                           .node_id = std::nullopt,
                           .reason = "EK_CLAIMED",
                           .message = "another machine",
                           .origin = "192.0.2.1",
                           .last = clock_.Now()})
                  .ok());
  v1::ListRefusalsRequest request;
  request.set_node_id(Id(1).text());
  v1::ListRefusalsResponse response;
  ASSERT_TRUE(Stub("viewer")->ListRefusals(Context().get(), request, &response).ok());
  ASSERT_EQ(response.refusals_size(), 1);
  EXPECT_EQ(response.refusals(0).reason(), "EK_CLAIMED");
  EXPECT_EQ(response.refusals(0).node_id(), Id(1).text());
}

// A policy that cannot be kept stops the daemon; it never means "everybody".
TEST_F(AdmissionTest, APolicyThatCannotBeKeptIsNotLoaded) {
  const auto load = [&](const std::string& enrolment) {
    return ParseControllerConfig(
        "state_dir = \"s\"\nkeys = \"k\"\ntokens = [\"online=pkcs11:\"]\n[enrolment]\n" + enrolment,
        "/etc/sealift/controller.toml");
  };
  EXPECT_EQ(load("")->admission, (AdmissionPolicy{.ek_list = true}));
  EXPECT_EQ(load("tpm_makers = \"m\"\n")->admission, DefaultAdmissionPolicy(true));
  EXPECT_EQ(load("tpm_makers = \"m\"\nadmit = \"ek-list\"\n")->admission, (AdmissionPolicy{.ek_list = true}));
  for (const char* text : {"admit = \"\"\n", "admit = \"join-token\"\n", "admit = \"approval ek-list\"\n",
                           "tpm_makers = \"m\"\nadmit = \"all\"\n"}) {
    EXPECT_EQ(ReasonOf(load(text).status()), Reason::kPolicyUnenforceable) << text;
  }
  server_->Stop();
  server_.reset();
  std::filesystem::create_directory(dir_->path() / "no-makers");
  auto config = ParseControllerConfig(
      "state_dir = \"state\"\nkeys = \".\"\ntokens = [\"online=pkcs11:token=none\"]\n[listen]\nfleet = "
      "\"127.0.0.1:0\"\nenrolment = \"127.0.0.1:0\"\n[tuf]\nroot = \"1.root.json\"\n[enrolment]\ntpm_makers "
      "= "
      "\"no-makers\"\n",
      dir_->path() / "controller.toml");
  ASSERT_TRUE(config.ok());
  OnlineKeys keys{.tuf = {tuf_snapshot_, tuf_timestamp_},
                  .node_ca = node_ca_.key,
                  .node_ca_certificate = *Certificate::FromPem(node_ca_.Pem()),
                  .tls = {tls_.Pem(), tls_.KeyPem()}};
  EXPECT_EQ(ReasonOf(ControllerServer::Start(*config, std::move(keys), clock_, {}).status()),
            Reason::kPolicyUnenforceable);
}

}  // namespace
}  // namespace sealift::controller
