// From a person's wish to a node's obedience: requests, approvals, orders and recovery keys over real calls.
#include "controller/fleet/epoch_base.h"
#include "controller/fleet/request.h"
#include "shared/escrow/escrow.h"
#include "shared/order/order.h"
#include "tests/integration/controller/app/controller_fixture.h"

namespace sealift::controller {
namespace {

class OrdersTest : public ControllerTest {
 protected:
  struct Person {
    test::TestCertificate certificate;
    std::unique_ptr<v1::FleetService::Stub> fleet;
    std::string Sign(const std::string& canonical) const {
      return ToText(*certificate.key->SignMessage(AsBytes(canonical), "test"));
    }
  };

  void SetUp() override {
    ControllerTest::SetUp();
    EnrolNode(1);
    EnrolNode(2);
    node_ = NodeStub(1);
    ek_ = stores_->nodes().Get(Id(1))->ek_digest;
    nonce_ = order::NonceFor(ek_, 3);
    TellNonce(nonce_);
    anna_ = MakePerson("anna", "operator");
    bert_ = MakePerson("bert", "approver");
    carl_ = MakePerson("carl", "custodian");
  }

  Person MakePerson(const std::string& name, const std::string& role) {
    Person person{
        .certificate = test::Issue(
            {.common_name = name, .subject_alt_name = "URI:sealift:operator:" + name + "?role=" + role},
            &operator_ca_),
        .fleet = nullptr};
    person.fleet = v1::FleetService::NewStub(ChannelTo(server_->addresses().fleet, &person.certificate));
    return person;
  }
  v1::CheckInResponse TellNonce(const Bytes& nonce, const v1::OrderOutcome* outcome = nullptr) {
    v1::CheckInRequest request;
    request.set_state(v1::IDLE);
    request.mutable_running()->set_boot_id("boot");
    request.set_order_nonce(ToText(nonce));
    if (outcome != nullptr) *request.add_order_outcomes() = *outcome;
    v1::CheckInResponse response;
    const grpc::Status status = node_->CheckIn(Context().get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  order::ChangeRequest Wish(order::Action action, const std::string& requester = "anna") const {
    const UnixMillis now = SystemClock().Now();
    return {.id = HexEncode(RandomBytes(16)),
            .action = action,
            .node = Id(1),
            .ek_digest = ek_,
            .nonce = nonce_,
            .requester = requester,
            .reason = "it is worn",
            .created = now,
            .expires = now + std::chrono::hours(1)};
  }
  static Result<v1::ChangeRequest> Create(const Person& person, const order::ChangeRequest& wish) {
    v1::CreateRequestRequest request;
    request.set_canonical(order::CanonicalRequest(wish));
    request.set_signature(person.Sign(request.canonical()));
    v1::ChangeRequest response;
    const grpc::Status status = person.fleet->CreateRequest(Context().get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }
  static Result<v1::ChangeRequest> Approve(const Person& person, const v1::ChangeRequest& made,
                                           const std::string& signature = {}) {
    v1::ApproveRequestRequest request;
    request.set_id(made.id());
    request.set_signature(signature.empty() ? person.Sign(made.canonical()) : signature);
    v1::ChangeRequest response;
    const grpc::Status status = person.fleet->ApproveRequest(Context().get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }
  static Result<v1::ChangeRequest> Cancel(const Person& person, const std::string& id) {
    v1::CancelRequestRequest request;
    request.set_id(id);
    request.set_reason("a mistake");
    v1::ChangeRequest response;
    const grpc::Status status = person.fleet->CancelRequest(Context().get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }
  v1::ChangeRequest Get(const std::string& id) {
    v1::GetRequestRequest request;
    request.set_id(id);
    v1::ChangeRequest response;
    EXPECT_TRUE(anna_.fleet->GetRequest(Context().get(), request, &response).ok());
    return response;
  }
  static Result<v1::FetchRecoveryKeyResponse> Fetch(const Person& person, const std::string& id) {
    v1::FetchRecoveryKeyRequest request;
    request.set_request_id(id);
    v1::FetchRecoveryKeyResponse response;
    const grpc::Status status = person.fleet->FetchRecoveryKey(Context().get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }
  Result<v1::EscrowRecoveryKeyResponse> Escrow(const escrow::Subject& subject, const std::string& volume) {
    const auto blob = escrow::Escrow(SecretBytes(AsBytes("the key")), subject, escrow_->public_key(),
                                     escrow::OaepHash::kSha1);
    EXPECT_TRUE(blob.ok()) << Describe(blob.status());
    v1::EscrowRecoveryKeyRequest request;
    request.set_blob(escrow::Format(*blob));
    request.set_volume(volume);
    request.set_luks_uuid(subject.luks_uuid);
    request.set_slot(subject.slot);
    v1::EscrowRecoveryKeyResponse response;
    const grpc::Status status = node_->EscrowRecoveryKey(Context().get(), request, &response);
    if (!status.ok()) return StatusFromGrpc(status);
    return response;
  }
  escrow::Subject Subject() const {
    return {.ek_digest = ek_,
            .volume = "persistent",
            .luks_uuid = "6f9e1f0e-8a2b-4c3d-9e4f-000000000001",
            .slot = 1};
  }
  order::OrderContext NodeContext() const {
    return {.orders_root = orders_root_->public_key(),
            .ek_digest = ek_,
            .nonce = nonce_,
            .now = SystemClock().Now()};
  }

  std::unique_ptr<v1::NodeService::Stub> node_;
  Sha256Digest ek_;
  Bytes nonce_;
  Person anna_, bert_, carl_;
  std::shared_ptr<SoftwareSigner> escrow_ = SoftwareSigner::Generate(KeyType::kRsa, 3072).value();
};

TEST_F(OrdersTest, AnApprovedRequestReachesItsNodeAndItsOutcomeComesBack) {
  const auto made = Create(anna_, Wish(order::Action::kReset));
  ASSERT_TRUE(made.ok()) << Describe(made.status());
  EXPECT_EQ(made->state(), v1::ChangeRequest::OPEN);
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 0) << "nobody approved it";
  const auto approved = Approve(bert_, *made);
  ASSERT_TRUE(approved.ok()) << Describe(approved.status());
  EXPECT_EQ(approved->state(), v1::ChangeRequest::APPROVED);
  EXPECT_EQ(approved->approver(), "bert");

  const v1::CheckInResponse told = TellNonce(nonce_);
  ASSERT_EQ(told.signed_orders_size(), 1);
  const auto verified = order::VerifyOrder(told.signed_orders(0), NodeContext());
  ASSERT_TRUE(verified.ok()) << Describe(verified.status());
  EXPECT_EQ(verified->request().action, order::Action::kReset);
  EXPECT_EQ(Get(made->id()).state(), v1::ChangeRequest::DELIVERED);
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 1) << "the first answer may have been lost";

  v1::OrderOutcome outcome;
  outcome.set_request_digest(made->digest());
  outcome.set_state(v1::OrderOutcome::DONE);
  outcome.set_at_unix_ms(5);
  ASSERT_TRUE(stores_->nodes().RecordEpoch(Id(1), {.lowest = 3, .base = 100}).ok());
  const v1::CheckInResponse known = TellNonce(order::NonceFor(ek_, 4), &outcome);
  ASSERT_EQ(known.known_outcomes_size(), 1);
  EXPECT_EQ(known.known_outcomes(0), made->digest());
  EXPECT_EQ(Get(made->id()).state(), v1::ChangeRequest::DONE);
  // A machine that opened no volume begins its epoch from another base.
  EXPECT_EQ(stores_->nodes().Get(Id(1))->certified_epoch->base, kAnyEpochBase);
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 0);
  // All of it is in the audit log, by name.
  const auto audit = stores_->audit().List(0, 100);
  ASSERT_TRUE(audit.ok());
  ASSERT_EQ(audit->size(), 2u);
  EXPECT_EQ((*audit)[0].operator_name, "anna");
  EXPECT_NE((*audit)[0].request.find("action=reset"), std::string::npos) << (*audit)[0].request;
  EXPECT_EQ((*audit)[1].operator_name, "bert");
}

TEST_F(OrdersTest, WhoIsRevokedIsNotHeardAnyMore) {
  const auto revoke = [&](const Person& person) {
    ASSERT_TRUE(stores_->certificates()
                    .Revoke(Sha256(Certificate::FromPem(person.certificate.Pem()).value().der()), "stolen",
                            SystemClock().Now())
                    .ok());
  };
  const auto made = Create(anna_, Wish(order::Action::kReset));
  ASSERT_TRUE(made.ok());
  ASSERT_TRUE(Approve(bert_, *made).ok());
  const auto open = Create(anna_, Wish(order::Action::kReset));
  ASSERT_TRUE(open.ok());
  // The approver of what waits for its node.
  revoke(bert_);
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 0);
  EXPECT_EQ(Get(made->id()).state(), v1::ChangeRequest::FAILED);
  EXPECT_EQ(Get(made->id()).outcome().reason(), "CERTIFICATE_REVOKED");
  // The requester of what others would approve.
  const Person dora = MakePerson("dora", "approver");
  const Person ella = MakePerson("ella", "operator");
  revoke(anna_);
  EXPECT_EQ(ReasonOf(Approve(dora, *open).status()), Reason::kCertificateRevoked);
  // Of what the node has been given already, nothing is sent again.
  const auto third = Create(ella, Wish(order::Action::kReset, "ella"));
  ASSERT_TRUE(third.ok()) << Describe(third.status());
  ASSERT_TRUE(Approve(dora, *third).ok());
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 1);
  revoke(dora);
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 0);
}

TEST_F(OrdersTest, AReasonCutInsideACharacterLeavesTheAuditLogReadable) {
  v1::CancelRequestRequest request;
  request.set_id("1234");
  std::string reason(255, 'x');
  for (int i = 0; i < 200; ++i) reason += "\u00fc";
  request.set_reason(reason);
  v1::ChangeRequest response;
  EXPECT_FALSE(anna_.fleet->CancelRequest(Context().get(), request, &response).ok());
  v1::ListAuditRequest list;
  v1::ListAuditResponse listed;
  const grpc::Status status = anna_.fleet->ListAudit(Context().get(), list, &listed);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(listed.entries_size(), 1);
}

TEST_F(OrdersTest, NobodyApprovesHisOwnRequest) {
  const auto made = Create(anna_, Wish(order::Action::kReset));
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(ReasonOf(Approve(MakePerson("anna", "approver"), *made).status()), Reason::kApprovalByRequester);
  for (const Person* person : {&anna_, &carl_})
    EXPECT_EQ(ReasonOf(Approve(*person, *made).status()), Reason::kRpcNotPermitted);
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 0);
  EXPECT_EQ(Get(made->id()).state(), v1::ChangeRequest::OPEN);
}

TEST_F(OrdersTest, AnApprovalIsASignatureOverThisRequestByTheCaller) {
  const auto made = Create(anna_, Wish(order::Action::kReset));
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(ReasonOf(Approve(bert_, *made, bert_.Sign(made->canonical() + " ")).status()),
            Reason::kApprovalInvalid);
  EXPECT_EQ(ReasonOf(Approve(bert_, *made, anna_.Sign(made->canonical())).status()),
            Reason::kApprovalInvalid);
  EXPECT_EQ(ReasonOf(Approve(bert_, *made, "x").status()), Reason::kApprovalInvalid);
  EXPECT_TRUE(Approve(bert_, *made).ok());
  EXPECT_EQ(ReasonOf(Approve(bert_, *made).status()), Reason::kRequestStateWrong) << "twice";
}

TEST_F(OrdersTest, WhatANodeWouldRefuseIsRefusedAtOnce) {
  const auto refused = [&](const std::function<void(order::ChangeRequest&)>& change) {
    order::ChangeRequest wish = Wish(order::Action::kReset);
    change(wish);
    return ReasonOf(Create(anna_, wish).status());
  };
  EXPECT_EQ(refused([](order::ChangeRequest& wish) { wish.ek_digest.bytes[5] ^= 1; }), Reason::kOrderForeign);
  EXPECT_EQ(refused([](order::ChangeRequest& wish) { wish.node = Id(2); }), Reason::kOrderForeign);
  EXPECT_EQ(refused([](order::ChangeRequest& wish) { wish.node = Id(7); }), Reason::kNodeUnknown);
  EXPECT_EQ(refused([](order::ChangeRequest& wish) { wish.nonce[3] ^= 1; }), Reason::kOrderReplayed);
  EXPECT_EQ(refused([](order::ChangeRequest& wish) { wish.requester = "bert"; }), Reason::kOrderUnapproved);
  EXPECT_EQ(refused([](order::ChangeRequest& wish) {
              wish.created -= std::chrono::hours(3);
              wish.expires -= std::chrono::hours(2);
            }),
            Reason::kOrderExpired);
  EXPECT_EQ(ReasonOf(Create(bert_, Wish(order::Action::kReset, "bert")).status()), Reason::kRpcNotPermitted);
  // Signed by another's key.
  v1::CreateRequestRequest request;
  request.set_canonical(order::CanonicalRequest(Wish(order::Action::kReset)));
  request.set_signature(bert_.Sign(request.canonical()));
  v1::ChangeRequest response;
  EXPECT_EQ(ReasonOf(StatusFromGrpc(anna_.fleet->CreateRequest(Context().get(), request, &response))),
            Reason::kApprovalInvalid);
}

TEST_F(OrdersTest, AnotherNodeIsNotGivenIt) {
  const auto made = Create(anna_, Wish(order::Action::kReset));
  ASSERT_TRUE(made.ok() && Approve(bert_, *made).ok());
  node_ = NodeStub(2);
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 0);
  // Nor can it tell how another's order ended.
  v1::OrderOutcome outcome;
  outcome.set_request_digest(made->digest());
  outcome.set_state(v1::OrderOutcome::DONE);
  EXPECT_EQ(TellNonce(nonce_, &outcome).known_outcomes_size(), 1) << "it need not repeat itself";
  EXPECT_EQ(Get(made->id()).state(), v1::ChangeRequest::APPROVED);
}

TEST_F(OrdersTest, AnOrderOfAnEarlierNonceFailsInsteadOfWaitingForEver) {
  const auto made = Create(anna_, Wish(order::Action::kReset));
  ASSERT_TRUE(made.ok() && Approve(bert_, *made).ok());
  EXPECT_EQ(TellNonce({}).signed_orders_size(), 0);
  EXPECT_EQ(Get(made->id()).state(), v1::ChangeRequest::APPROVED) << "a node that cannot take orders now";
  EXPECT_EQ(TellNonce(order::NonceFor(ek_, 4)).signed_orders_size(), 0);
  const v1::ChangeRequest failed = Get(made->id());
  EXPECT_EQ(failed.state(), v1::ChangeRequest::FAILED);
  EXPECT_EQ(failed.outcome().reason(), "ORDER_REPLAYED");
}

TEST_F(OrdersTest, AQuarantinedNodeIsToldNothing) {
  const auto made = Create(anna_, Wish(order::Action::kReset));
  ASSERT_TRUE(made.ok() && Approve(bert_, *made).ok());
  ASSERT_TRUE(stores_->nodes().SetAdmission(Id(1), Admission::kQuarantined).ok());
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 0);
}

TEST_F(OrdersTest, ItsRequesterOrAnApproverCancelsARequest) {
  const auto first = Create(anna_, Wish(order::Action::kReset));
  const auto second = Create(anna_, Wish(order::Action::kUpgradeRecovery));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(ReasonOf(Cancel(MakePerson("dora", "operator"), first->id()).status()), Reason::kRpcNotPermitted);
  EXPECT_EQ(Cancel(anna_, first->id())->state(), v1::ChangeRequest::CANCELLED);
  EXPECT_EQ(ReasonOf(Approve(bert_, *first).status()), Reason::kRequestStateWrong);
  ASSERT_TRUE(Approve(bert_, *second).ok());
  const auto cancelled = Cancel(bert_, second->id().substr(0, 12));
  ASSERT_TRUE(cancelled.ok()) << Describe(cancelled.status());
  EXPECT_EQ(cancelled->outcome().message(), "cancelled by bert: a mistake");
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 0);
  v1::ListRequestsRequest list;
  list.set_open_only(true);
  v1::ListRequestsResponse listed;
  ASSERT_TRUE(anna_.fleet->ListRequests(Context().get(), list, &listed).ok());
  EXPECT_EQ(listed.requests_size(), 0);
  list.set_open_only(false);
  ASSERT_TRUE(anna_.fleet->ListRequests(Context().get(), list, &listed).ok());
  EXPECT_EQ(listed.requests_size(), 2);
}

TEST_F(OrdersTest, WithoutAGoodDelegationNothingIsApproved) {
  const auto made = Create(anna_, Wish(order::Action::kReset));
  ASSERT_TRUE(made.ok());
  const auto file = dir_->path() / order::kDelegationFile;
  const auto other = SoftwareSigner::Generate(KeyType::kEcP256).value();
  const order::Delegation delegation{.orders = {orders_->public_key()},
                                     .operator_cas = {*Certificate::FromPem(operator_ca_.Pem())},
                                     .issued = SystemClock().Now() - std::chrono::hours(2),
                                     .expires = SystemClock().Now() - std::chrono::hours(1)};
  ASSERT_TRUE(WriteFileAtomically(file, AsBytes(*order::MakeDelegation(delegation, *other))).ok());
  EXPECT_EQ(ReasonOf(Approve(bert_, *made).status()), Reason::kOrderSignatureInvalid);
  ASSERT_TRUE(WriteFileAtomically(file, AsBytes(*order::MakeDelegation(delegation, *orders_root_))).ok());
  EXPECT_EQ(ReasonOf(Approve(bert_, *made).status()), Reason::kOrderExpired);
  std::filesystem::remove(file);
  EXPECT_FALSE(Approve(bert_, *made).ok());
  EXPECT_EQ(Get(made->id()).state(), v1::ChangeRequest::OPEN);
  WriteFiles();
  EXPECT_TRUE(Approve(bert_, *made).ok()) << "a new one needs no restart";
}

TEST_F(OrdersTest, ARecoveryKeyTakesTwoPersonsAndIsReplacedAfterwards) {
  EXPECT_EQ(ReasonOf(Create(carl_, Wish(order::Action::kReleaseRecoveryKey, "carl")).status()),
            Reason::kRecoveryKeyUnknown);
  const auto stored = Escrow(Subject(), "persistent");
  ASSERT_TRUE(stored.ok()) << Describe(stored.status());
  EXPECT_EQ(ReasonOf(Create(anna_, Wish(order::Action::kReleaseRecoveryKey)).status()),
            Reason::kOrderUnapproved);
  const auto made = Create(carl_, Wish(order::Action::kReleaseRecoveryKey, "carl"));
  ASSERT_TRUE(made.ok()) << Describe(made.status());
  EXPECT_EQ(ReasonOf(Fetch(carl_, made->id()).status()), Reason::kRequestStateWrong);
  ASSERT_TRUE(Approve(bert_, *made).ok());
  EXPECT_EQ(TellNonce(nonce_).signed_orders_size(), 0) << "it would replace the key before it was used";
  EXPECT_EQ(ReasonOf(Fetch(MakePerson("dora", "custodian"), made->id()).status()), Reason::kRpcNotPermitted);
  EXPECT_EQ(ReasonOf(Fetch(bert_, made->id()).status()), Reason::kRpcNotPermitted);

  const auto fetched = Fetch(carl_, made->id());
  ASSERT_TRUE(fetched.ok()) << Describe(fetched.status());
  ASSERT_EQ(fetched->blobs_size(), 1);
  EXPECT_EQ(wire::ToWire(Sha256(AsBytes(fetched->blobs(0).blob()))), stored->blob_digest());
  EXPECT_EQ(escrow::Parse(fetched->blobs(0).blob())->subject, Subject());
  const v1::CheckInResponse told = TellNonce(nonce_);
  ASSERT_EQ(told.signed_orders_size(), 1);
  EXPECT_EQ(order::VerifyOrder(told.signed_orders(0), NodeContext())->request().action,
            order::Action::kReleaseRecoveryKey);
  v1::GetNodeRequest by_id;
  by_id.set_id(Id(1).text());
  v1::Node node;
  ASSERT_TRUE(anna_.fleet->GetNode(Context().get(), by_id, &node).ok());
  ASSERT_EQ(node.escrowed_keys_size(), 1);
  EXPECT_GT(node.escrowed_keys(0).released_unix_ms(), 0);
  EXPECT_EQ(node.order_nonce(), ToText(nonce_));
}

// The node was given another order between release and its next call: nobody may believe that the key will be
// replaced.
TEST_F(OrdersTest, AReleasedKeyThatNobodyReplacesIsTold) {
  ASSERT_TRUE(Escrow(Subject(), "persistent").ok());
  order::ChangeRequest without = Wish(order::Action::kReleaseRecoveryKey, "carl");
  without.nonce.clear();
  EXPECT_EQ(ReasonOf(Create(carl_, without).status()), Reason::kOrderReplayed);
  const auto made = Create(carl_, Wish(order::Action::kReleaseRecoveryKey, "carl"));
  ASSERT_TRUE(made.ok()) << Describe(made.status());
  ASSERT_TRUE(Approve(bert_, *made).ok());
  ASSERT_TRUE(Fetch(carl_, made->id()).ok());
  Bytes later = nonce_;
  later[31] ^= 1;
  EXPECT_EQ(TellNonce(later).signed_orders_size(), 0);
  const auto record = stores_->requests().Get(made->id());
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(record->state, RequestState::kFailed);
  ASSERT_TRUE(record->outcome);
  EXPECT_NE(record->outcome->message.find("replace-recovery-key"), std::string::npos);
}

TEST_F(OrdersTest, ANodeEscrowsKeysOfItsOwnVolumesOnly) {
  escrow::Subject foreign = Subject();
  foreign.ek_digest.bytes[0] ^= 1;
  EXPECT_EQ(ReasonOf(Escrow(foreign, "persistent").status()), Reason::kEscrowMalformed);
  EXPECT_EQ(ReasonOf(Escrow(Subject(), "oem").status()), Reason::kEscrowMalformed);
  v1::EscrowRecoveryKeyRequest request;
  request.set_blob("{}");
  v1::EscrowRecoveryKeyResponse response;
  EXPECT_EQ(ReasonOf(StatusFromGrpc(node_->EscrowRecoveryKey(Context().get(), request, &response))),
            Reason::kEscrowMalformed);
  request.set_blob(std::string(9000, ' '));
  EXPECT_EQ(ReasonOf(StatusFromGrpc(node_->EscrowRecoveryKey(Context().get(), request, &response))),
            Reason::kInvalidArgument);
  EXPECT_TRUE(stores_->escrow().List(Id(1))->empty());
}

}  // namespace
}  // namespace sealift::controller
