#include "shared/order/order.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "shared/crypto/hash.h"
#include "shared/order/dsse.h"
#include "tests/support/order_world.h"

namespace sealift::order {
namespace {

using nlohmann::json;

class OrderTest : public testing::Test {
 protected:
  Reason ReasonFor(const std::string& order) { return ReasonOf(VerifyOrder(order, context_).status()); }
  Reason ReasonFor(const OrderParts& parts) { return ReasonFor(MakeOrder(parts, *world_.orders_).value()); }
  // The envelope's payload changed and signed again by the orders key: what a stolen controller can do.
  std::string Resigned(const std::string& order, const std::function<void(json&)>& change) {
    DsseEnvelope envelope = ParseEnvelope(order).value();
    json payload = json::parse(AsText(envelope.payload));
    change(payload);
    return FormatEnvelope(
        SignEnvelope(*world_.orders_, envelope.payload_type, ToBytes(payload.dump()), "test").value());
  }

  test::OrderWorld world_;
  OrderContext context_ = world_.Context();
};

TEST_F(OrderTest, TwoPersonsAndTheControllerTogetherAreBelieved) {
  const ChangeRequest request = world_.Request(Action::kRetry, {{"version", "1.2.0"}});
  const auto verified = VerifyOrder(world_.Order(request), context_);
  ASSERT_TRUE(verified.ok()) << Describe(verified.status());
  EXPECT_EQ(verified->request(), request);
  EXPECT_EQ(verified->digest(), Sha256(AsBytes(CanonicalRequest(request))));
  EXPECT_EQ(verified->approver(), (Person{"bert", "approver"}));
}

TEST_F(OrderTest, EveryActionSurvivesItsOneForm) {
  for (const auto& [action, parameters] : std::vector<std::pair<Action, std::map<std::string, std::string>>>{
           {Action::kReset, {}},
           {Action::kRaiseEpoch, {{"epoch", "4"}}},
           {Action::kRetry, {{"version", "1.2.0"}}},
           {Action::kRollback, {{"version", "1.1.0"}}},
           {Action::kUpgradeRecovery, {}},
           {Action::kReplaceRecoveryKey, {}},
           {Action::kSelectEntry, {{"entry", "recovery"}}}}) {
    const ChangeRequest request = world_.Request(action, parameters);
    const auto parsed = ParseChangeRequest(CanonicalRequest(request));
    ASSERT_TRUE(parsed.ok()) << Describe(parsed.status());
    EXPECT_EQ(*parsed, request);
    EXPECT_EQ(ParseAction(ActionName(action)).value(), action);
    EXPECT_TRUE(VerifyOrder(world_.Order(request), context_).ok()) << ActionName(action);
  }
}

TEST_F(OrderTest, AnotherMachinesOrderIsForeign) {
  const std::string order = world_.Order(world_.Request(Action::kReset));
  context_.ek_digest = Sha256(AsBytes("another"));
  EXPECT_EQ(ReasonFor(order), Reason::kOrderForeign);
}

TEST_F(OrderTest, AnOrderCountsOnce) {
  const std::string order = world_.Order(world_.Request(Action::kReset));
  ASSERT_TRUE(VerifyOrder(order, context_).ok());
  context_.nonce = NonceFor(world_.ek_, 8);
  EXPECT_EQ(ReasonFor(order), Reason::kOrderReplayed);
  context_.nonce.clear();
  EXPECT_EQ(ReasonFor(order), Reason::kOrderReplayed);
}

TEST_F(OrderTest, NoncesOfMachinesAndCountsDiffer) {
  EXPECT_EQ(NonceFor(world_.ek_, 7).size(), kNonceBytes);
  EXPECT_NE(NonceFor(world_.ek_, 7), NonceFor(world_.ek_, 8));
  EXPECT_NE(NonceFor(world_.ek_, 7), NonceFor(Sha256(AsBytes("another")), 7));
}

TEST_F(OrderTest, AnOrderEnds) {
  const ChangeRequest request = world_.Request(Action::kReset);
  context_.now = request.expires;
  EXPECT_EQ(ReasonFor(world_.Order(request)), Reason::kOrderExpired);
  context_.now = request.expires - std::chrono::milliseconds(1);
  EXPECT_NE(ReasonFor(world_.Order(request)), Reason::kOrderExpired);
}

TEST_F(OrderTest, TheDelegationEnds) {
  OrderParts parts = world_.Parts(world_.Request(Action::kReset));
  Delegation delegation = world_.delegation();
  delegation.expires = world_.now_ + std::chrono::seconds(30);
  parts.delegation = MakeDelegation(delegation, *world_.root_).value();
  EXPECT_EQ(ReasonFor(parts), Reason::kOrderExpired);
}

TEST_F(OrderTest, AForeignRootDelegatesNothing) {
  OrderParts parts = world_.Parts(world_.Request(Action::kReset));
  const auto other = SoftwareSigner::Generate(KeyType::kEcP256).value();
  parts.delegation = MakeDelegation(world_.delegation(), *other).value();
  EXPECT_EQ(ReasonFor(parts), Reason::kOrderSignatureInvalid);
}

TEST_F(OrderTest, AKeyThatIsNotDelegatedOrdersNothing) {
  const OrderParts parts = world_.Parts(world_.Request(Action::kReset));
  EXPECT_EQ(ReasonFor(MakeOrder(parts, *world_.root_).value()), Reason::kOrderSignatureInvalid);
  const auto other = SoftwareSigner::Generate(KeyType::kEcP256).value();
  EXPECT_EQ(ReasonFor(MakeOrder(parts, *other).value()), Reason::kOrderSignatureInvalid);
}

// What whoever holds the controller's keys may try.
TEST_F(OrderTest, TheControllerAloneCanChangeNothingOfARequest) {
  const std::string order = world_.Order(world_.Request(Action::kRetry, {{"version", "1.2.0"}}));
  for (const auto& [key, value] :
       std::map<std::string, json>{{"action", "rollback"},
                                   {"created", ToUnixMs(world_.now_) - 1000},
                                   {"expires", ToUnixMs(world_.now_) + 3 * 24 * 3600 * 1000},
                                   {"id", std::string(32, 'b')},
                                   {"parameters", {{"version", "1.2.1"}}},
                                   {"reason", ""},
                                   {"requester", "bert"}}) {
    EXPECT_EQ(ReasonFor(Resigned(order, [&](json& payload) { payload["request"][key] = value; })),
              Reason::kOrderUnapproved)
        << key;
  }
  EXPECT_EQ(ReasonFor(Resigned(order, [](json& payload) { payload["approver"] = payload["requester"]; })),
            Reason::kOrderUnapproved);
  EXPECT_EQ(ReasonFor(Resigned(order, [](json& payload) { payload.erase("approver"); })),
            Reason::kOrderMalformed);
}

TEST_F(OrderTest, OnePersonIsNotEnough) {
  const ChangeRequest request = world_.Request(Action::kReset);
  const std::string canonical = CanonicalRequest(request);
  OrderParts parts = world_.Parts(request);
  // Herself, with the certificate of her other duty.
  parts.approver = test::OrderWorld::Sign(world_.MakePerson("anna", "approver"), canonical);
  EXPECT_EQ(ReasonFor(parts), Reason::kOrderUnapproved);
  // Two names, one key.
  test::TestCertificate twin = world_.MakePerson("twin", "approver");
  parts = world_.Parts(request);
  const Person anna{"anna", "operator"};
  const Person other{"twin", "approver"};
  EXPECT_EQ(ReasonOf(CheckTwoPersons(request, anna, parts.requester, other, parts.requester)),
            Reason::kOrderUnapproved);
  EXPECT_TRUE(
      CheckTwoPersons(request, anna, parts.requester, other, test::OrderWorld::Sign(twin, canonical)).ok());
}

TEST_F(OrderTest, RolesDecideWhoMayAskAndApprove) {
  const ChangeRequest request = world_.Request(Action::kReset);
  const std::string canonical = CanonicalRequest(request);
  for (const char* role : {"viewer", "operator", "custodian"}) {
    OrderParts parts = world_.Parts(request);
    parts.approver = test::OrderWorld::Sign(world_.MakePerson("dora", role), canonical);
    EXPECT_EQ(ReasonFor(parts), Reason::kOrderUnapproved) << role;
  }
  for (const char* role : {"viewer", "approver"}) {
    OrderParts parts = world_.Parts(request);
    parts.requester = test::OrderWorld::Sign(world_.MakePerson("anna", role), canonical);
    EXPECT_EQ(ReasonFor(parts), Reason::kOrderUnapproved) << role;
  }
  ChangeRequest release = world_.Request(Action::kReleaseRecoveryKey);
  EXPECT_EQ(ReasonFor(world_.Parts(release)), Reason::kOrderUnapproved);
  release.requester = "carl";
  EXPECT_TRUE(VerifyOrder(world_.Order(release), context_).ok());
}

TEST_F(OrderTest, ForeignAndEndedCertificatesApproveNothing) {
  const ChangeRequest request = world_.Request(Action::kReset);
  const std::string canonical = CanonicalRequest(request);
  OrderParts parts = world_.Parts(request);
  parts.approver = test::OrderWorld::Sign(world_.MakePerson("bert", "approver", -7200, -3600), canonical);
  EXPECT_EQ(ReasonFor(parts), Reason::kOrderUnapproved);
  const test::OrderWorld elsewhere;
  parts.approver = elsewhere.SignAs("bert", canonical);
  EXPECT_EQ(ReasonFor(parts), Reason::kOrderUnapproved);
  parts.approver = world_.SignAs("bert", canonical + " ");
  EXPECT_EQ(ReasonFor(parts), Reason::kOrderUnapproved);
}

TEST_F(OrderTest, AClockThatRunsBehindDoesNotBlockAnOrder) {
  const std::string order = world_.Order(world_.Request(Action::kReset));
  context_.now = world_.now_ - std::chrono::hours(24 * 365 * 5);
  EXPECT_TRUE(VerifyOrder(order, context_).ok());
}

TEST_F(OrderTest, ADelegationIsNoOrder) {
  EXPECT_EQ(ReasonFor(world_.DelegationText()), Reason::kOrderMalformed);
}

TEST_F(OrderTest, AnyChangedByteIsRefused) {
  const std::string order = world_.Order(world_.Request(Action::kReset));
  for (std::size_t at = 0; at < order.size(); at += 7) {
    std::string changed = order;
    changed[at] = changed[at] == 'A' ? 'B' : 'A';
    const auto verified = VerifyOrder(changed, context_);
    if (!verified.ok()) continue;
    // The key id is a hint outside of what is signed.
    EXPECT_EQ(ParseEnvelope(changed)->payload, ParseEnvelope(order)->payload);
    EXPECT_EQ(ParseEnvelope(changed)->signatures.front().signature,
              ParseEnvelope(order)->signatures.front().signature);
  }
}

TEST_F(OrderTest, RequestsThatMakeNoSenseHaveNoForm) {
  const auto refused = [&](const std::function<void(ChangeRequest&)>& change) {
    ChangeRequest request = world_.Request(Action::kRaiseEpoch, {{"epoch", "3"}});
    change(request);
    return ReasonOf(CheckChangeRequest(request)) == Reason::kOrderMalformed;
  };
  EXPECT_FALSE(refused([](ChangeRequest&) {}));
  EXPECT_TRUE(refused([](ChangeRequest& request) { request.id = "ABC"; }));
  EXPECT_TRUE(refused([](ChangeRequest& request) { request.nonce.pop_back(); }));
  EXPECT_TRUE(refused([](ChangeRequest& request) { request.nonce.clear(); }));
  EXPECT_TRUE(refused([](ChangeRequest& request) { request.reason = "two\nlines"; }));
  EXPECT_TRUE(refused([](ChangeRequest& request) { request.requester.clear(); }));
  EXPECT_TRUE(refused([](ChangeRequest& request) { request.expires = request.created; }));
  EXPECT_TRUE(refused(
      [](ChangeRequest& request) { request.expires = request.created + std::chrono::hours(24 * 40); }));
  for (const char* epoch : {"", "0", "03", "-1", "1000001", "3x"})
    EXPECT_TRUE(refused([&](ChangeRequest& request) { request.parameters["epoch"] = epoch; })) << epoch;
  EXPECT_TRUE(refused([](ChangeRequest& request) { request.parameters.clear(); }));
  EXPECT_TRUE(refused([](ChangeRequest& request) { request.parameters["version"] = "1"; }));
}

TEST_F(OrderTest, OnlyTheOneFormIsARequest) {
  const std::string canonical = CanonicalRequest(world_.Request(Action::kRetry, {{"version", "1.2.0"}}));
  ASSERT_TRUE(ParseChangeRequest(canonical).ok());
  const auto reason = [](const std::string& text) { return ReasonOf(ParseChangeRequest(text).status()); };
  EXPECT_EQ(reason(" " + canonical), Reason::kOrderMalformed);
  EXPECT_EQ(reason(canonical + "\n"), Reason::kOrderMalformed);
  json more = json::parse(canonical);
  more["force"] = true;
  EXPECT_EQ(reason(more.dump()), Reason::kOrderMalformed);
  json other = json::parse(canonical);
  other["action"] = "self-destruct";
  EXPECT_EQ(reason(other.dump()), Reason::kOrderUnsupported);
  json newer = json::parse(canonical);
  newer["schema"] = 2;
  EXPECT_EQ(reason(newer.dump()), Reason::kOrderMalformed);
}

TEST(DsseTest, EncodesAsTheSpecificationsExample) {
  EXPECT_EQ(ToText(PreAuthenticationEncoding("http://example.com/HelloWorld", AsBytes("hello world"))),
            "DSSEv1 29 http://example.com/HelloWorld 11 hello world");
}

TEST(DsseTest, RefusesWhatIsNoEnvelope) {
  for (const char* text : {"", "[]", "{}", R"({"payload":"","payloadType":"x","signatures":[]})",
                           R"({"payload":"!","payloadType":"x","signatures":[{"keyid":"","sig":"AA=="}]})",
                           R"({"payload":"","payload":"","payloadType":"x","signatures":[{"sig":"AA=="}]})",
                           R"({"payload":"","payloadType":"x","signatures":[{"sig":"AA==","more":1}]})"}) {
    EXPECT_EQ(ReasonOf(ParseEnvelope(text).status()), Reason::kOrderMalformed) << text;
  }
  EXPECT_TRUE(ParseEnvelope(R"({"payload":"","payloadType":"x","signatures":[{"sig":"AA=="}]})").ok());
}

}  // namespace
}  // namespace sealift::order
