#include "node-agent/order/order_keeper.h"

#include "shared/crypto/hash.h"
#include "tests/unit/node-agent/order/order_fixture.h"

namespace sealift::agent {
namespace {

class OrderKeeperTest : public OrderMachine {};

TEST_F(OrderKeeperTest, AnOrderIsCarriedOutOnceAndItsNonceIsSpent) {
  const std::string order = Order(order::Action::kRetry, {{"version", "1.2.0"}});
  const Bytes before = keeper_->Nonce();
  EXPECT_EQ(before, order::NonceFor(world_.ek_, 7));
  keeper_->TakeOrders({order});
  ASSERT_EQ(actions_.performed.size(), 1u);
  EXPECT_EQ(actions_.performed[0].parameters.at("version"), "1.2.0");
  EXPECT_EQ(Outcome(order).state, OutcomeState::kDone);
  EXPECT_EQ(counters_.value, 8u);
  EXPECT_NE(keeper_->Nonce(), before);
  keeper_->TakeOrders({order});
  EXPECT_EQ(actions_.performed.size(), 1u) << "again";
  keeper_->OnKnown({DigestOf(order)});
  EXPECT_TRUE(keeper_->outcomes().empty());
  keeper_->TakeOrders({order});
  EXPECT_EQ(actions_.performed.size(), 1u) << "again, when its outcome is forgotten";
  EXPECT_EQ(Outcome(order).reason, "ORDER_REPLAYED");
}

TEST_F(OrderKeeperTest, RefusalsAreToldWithTheirReason) {
  const std::string foreign = [&] {
    test::OrderWorld other;
    order::ChangeRequest request = other.Request(order::Action::kReset);
    return other.Order(request);
  }();
  keeper_->TakeOrders({foreign});
  EXPECT_EQ(Outcome(foreign).state, OutcomeState::kRefused);
  EXPECT_EQ(Outcome(foreign).reason, "ORDER_SIGNATURE_INVALID");

  order::ChangeRequest request = world_.Request(order::Action::kReset);
  request.ek_digest.bytes[0] ^= 1;
  const std::string another = world_.Order(request);
  keeper_->TakeOrders({another});
  EXPECT_EQ(Outcome(another).reason, "ORDER_FOREIGN");

  const std::string late = Order(order::Action::kReset);
  clock_.Advance(std::chrono::hours(25));
  keeper_->TakeOrders({late});
  EXPECT_EQ(Outcome(late).reason, "ORDER_EXPIRED");
  EXPECT_TRUE(actions_.staged.empty());
  EXPECT_EQ(counters_.value, 7u);
  EXPECT_FALSE(keeper_->busy());
}

TEST_F(OrderKeeperTest, WhatIsNoOrderIsPassedOver) {
  keeper_->TakeOrders({"", "{}", world_.DelegationText()});
  EXPECT_TRUE(keeper_->outcomes().empty());
  EXPECT_FALSE(keeper_->busy());
}

TEST_F(OrderKeeperTest, WhatIsNotPossibleNowIsRefusedAndCostsNoNonce) {
  actions_.possible = MakeError(Code::kFailedPrecondition, Reason::kEpochTooLow, "passive is of epoch 1");
  const std::string order = Order(order::Action::kRaiseEpoch, {{"epoch", "2"}});
  keeper_->TakeOrders({order});
  EXPECT_EQ(Outcome(order).state, OutcomeState::kRefused);
  EXPECT_EQ(Outcome(order).reason, "EPOCH_TOO_LOW");
  EXPECT_EQ(counters_.value, 7u);
}

TEST_F(OrderKeeperTest, WithoutARootOrACounterThereAreNoOrders) {
  counters_.broken = MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "gone");
  Start();
  EXPECT_TRUE(keeper_->Nonce().empty());
  keeper_->TakeOrders({Order(order::Action::kRetry, {{"version", "1"}})});
  EXPECT_TRUE(actions_.performed.empty());
  counters_.broken = OkStatus();
  EXPECT_FALSE(keeper_->Nonce().empty());

  OrderKeeper none({.orders_root = std::nullopt, .boot_id = "b"},
                   {.tpm = *tpm_, .counters = counters_, .actions = actions_, .log = log_, .clock = clock_});
  none.Resume();
  none.TakeOrders({Order(order::Action::kRetry, {{"version", "1"}})});
  EXPECT_TRUE(none.Nonce().empty());
  EXPECT_TRUE(none.outcomes().empty());
}

// New recovery keys wait for somebody to reboot the machine; until then it obeys others, a reset above all.
TEST_F(OrderKeeperTest, AnEffectThatTakesBootsWaitsBesideOthers) {
  actions_.result = false;
  const std::string order = Order(order::Action::kReplaceRecoveryKey);
  keeper_->TakeOrders({order});
  EXPECT_FALSE(keeper_->busy());
  EXPECT_EQ(Outcome(order).state, OutcomeState::kAccepted);
  keeper_->OnKnown({DigestOf(order)});
  keeper_->TakeOrders({order});
  EXPECT_EQ(actions_.performed.size(), 1u) << "again";
  EXPECT_TRUE(keeper_->outcomes().empty()) << "it is neither refused nor begun anew";
  order::ChangeRequest reset = world_.Request(order::Action::kReset);
  reset.nonce = keeper_->Nonce();
  const std::string second = world_.Order(reset);
  keeper_->TakeOrders({second});
  EXPECT_EQ(actions_.staged, second);

  Start("boot-2");
  keeper_->Step();
  actions_.ended = MakeError(Code::kUnavailable, Reason::kStateMissing, "not mounted yet");
  keeper_->Step();
  EXPECT_EQ(log_.record.waiting.size(), 1u);
  actions_.ended = true;
  keeper_->Step();
  EXPECT_EQ(Outcome(order).state, OutcomeState::kDone);
  EXPECT_EQ(actions_.asked_after.back(), order::ReadOrderLabel(order)->request.id);
  EXPECT_TRUE(log_.record.waiting.empty());
}

TEST_F(OrderKeeperTest, ATpmThatDoesNotAnswerDropsNoOrder) {
  const std::string order = Order(order::Action::kRetry, {{"version", "1"}});
  actions_.result = MakeError(Code::kUnavailable, Reason::kEspIo, "not now");
  keeper_->TakeOrders({order});
  ASSERT_EQ(log_.record.stage, OrderStage::kConsumed);
  counters_.broken = MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "in lockout");
  Start("boot-2");
  actions_.result = true;
  keeper_->Step();
  EXPECT_TRUE(keeper_->busy());
  EXPECT_TRUE(keeper_->outcomes().empty());
  EXPECT_EQ(actions_.performed.size(), 1u) << "nothing is done that is not proven";
  counters_.broken = OkStatus();
  clock_.Advance(std::chrono::seconds(6));
  keeper_->Step();
  EXPECT_EQ(Outcome(order).state, OutcomeState::kDone);
  EXPECT_EQ(counters_.value, 8u);
}

TEST_F(OrderKeeperTest, ACounterThatDoesNotCountNowIsAskedAgain) {
  const std::string order = Order(order::Action::kRetry, {{"version", "1"}});
  keeper_->Nonce();
  counters_.broken = MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "in lockout");
  keeper_->TakeOrders({order});
  EXPECT_TRUE(keeper_->busy());
  EXPECT_TRUE(actions_.performed.empty());
  counters_.broken = OkStatus();
  clock_.Advance(std::chrono::seconds(6));
  keeper_->Step();
  EXPECT_EQ(Outcome(order).state, OutcomeState::kDone);
  EXPECT_EQ(counters_.value, 8u);
}

// It was good when its nonce was spent: a night without power is no reason to leave it half done.
TEST_F(OrderKeeperTest, WhatWasBegunInTimeIsGoneOnWithLate) {
  const std::string order = Order(order::Action::kRetry, {{"version", "1"}});
  actions_.result = MakeError(Code::kUnavailable, Reason::kEspIo, "not now");
  keeper_->TakeOrders({order});
  clock_.Advance(std::chrono::hours(30));
  actions_.result = true;
  Start("boot-2");
  keeper_->Step();
  EXPECT_EQ(Outcome(order).state, OutcomeState::kDone);
  // What was only accepted is too late.
  const std::string late = [&] {
    order::ChangeRequest request = world_.Request(order::Action::kRetry, {{"version", "1"}});
    request.nonce = order::NonceFor(world_.ek_, counters_.value);
    return world_.Order(request);
  }();
  log_.record = {.stage = OrderStage::kAccepted,
                 .envelope = late,
                 .accepted = world_.now_ + std::chrono::minutes(1),
                 .boot_id = "boot-2"};
  Start("boot-3");
  keeper_->Step();
  EXPECT_EQ(Outcome(late).reason, "ORDER_EXPIRED");
}

TEST_F(OrderKeeperTest, AFailureIsTriedAgainOnlyWhereThatMayHelp) {
  actions_.result = MakeError(Code::kUnavailable, Reason::kEspIo, "not now");
  const std::string order = Order(order::Action::kSelectEntry, {{"entry", "recovery"}});
  keeper_->TakeOrders({order});
  EXPECT_TRUE(keeper_->busy());
  keeper_->Step();
  EXPECT_EQ(actions_.performed.size(), 1u) << "not at once";
  clock_.Advance(std::chrono::seconds(6));
  actions_.result = MakeError(Code::kFailedPrecondition, Reason::kFirmwareRefused, "never");
  keeper_->Step();
  EXPECT_FALSE(keeper_->busy());
  EXPECT_EQ(Outcome(order).state, OutcomeState::kFailed);
  EXPECT_EQ(Outcome(order).reason, "FIRMWARE_REFUSED");
}

// --- resets

TEST_F(OrderKeeperTest, AResetIsStagedToldAndRebootedInto) {
  const std::string order = Order(order::Action::kReset);
  keeper_->TakeOrders({order});
  EXPECT_EQ(actions_.staged, order);
  EXPECT_EQ(Outcome(order).state, OutcomeState::kAccepted);
  EXPECT_EQ(counters_.value, 7u) << "the early unit spends the nonce when the volume was made anew";
  EXPECT_EQ(actions_.reboots, 0) << "nobody heard of it yet";
  keeper_->OnKnown({DigestOf(order)});
  keeper_->Step();
  EXPECT_EQ(actions_.reboots, 1);
  keeper_->Step();
  EXPECT_EQ(actions_.reboots, 1);
  clock_.Advance(std::chrono::minutes(6));
  keeper_->Step();
  EXPECT_EQ(actions_.reboots, 2) << "asked for again";
}

TEST_F(OrderKeeperTest, AResetNeedsNoController) {
  keeper_->TakeOrders({Order(order::Action::kReset)});
  clock_.Advance(std::chrono::seconds(31));
  keeper_->Step();
  EXPECT_EQ(actions_.reboots, 1);
}

TEST_F(OrderKeeperTest, TheNextBootTellsWhatItDid) {
  const std::string order = Order(order::Action::kReset);
  keeper_->TakeOrders({order});
  // Early boot: made anew, spent, told. The state went with the volume.
  counters_.value = 8;
  log_.record = {};
  actions_.early = OrderOutcome{DigestOf(order), OutcomeState::kDone, "", "", clock_.Now()};
  Start("boot-2");
  EXPECT_EQ(Outcome(order).state, OutcomeState::kDone);
  EXPECT_TRUE(actions_.staged.empty()) << "the file goes";
  EXPECT_EQ(log_.record.outcomes.size(), 1u) << "kept until it is known";
}

TEST_F(OrderKeeperTest, AResetThatTheEarlyBootDidNotCarryOutFails) {
  const std::string order = Order(order::Action::kReset);
  keeper_->TakeOrders({order});
  Start("boot-2");
  keeper_->Step();
  EXPECT_EQ(Outcome(order).state, OutcomeState::kFailed);
  EXPECT_TRUE(actions_.staged.empty());
  EXPECT_FALSE(keeper_->busy());
  // A copy of it on the ESP would be obeyed some day.
  EXPECT_EQ(counters_.value, 8u);
}

TEST_F(OrderKeeperTest, AResetThatWasNotStagedIsSpent) {
  const std::string order = Order(order::Action::kReset);
  power_ = {.steps = 0, .cut_at = 1};
  keeper_->TakeOrders({order});
  power_ = {};
  Start();
  actions_.stage = MakeError(Code::kFailedPrecondition, Reason::kEspIo, "the ESP is full");
  keeper_->Step();
  EXPECT_EQ(Outcome(order).state, OutcomeState::kFailed);
  EXPECT_EQ(counters_.value, 8u);
}

// Without the state partition nobody knows what lies on the ESP.
TEST_F(OrderKeeperTest, AStagedResetIsLeftAloneWithoutTheStatePartition) {
  const std::string order = Order(order::Action::kReset);
  keeper_->TakeOrders({order});
  log_.available = false;
  Start("boot-2");
  keeper_->Step();
  EXPECT_EQ(actions_.staged, order);
  log_.available = true;
  log_.record = {};
  Start("boot-3");
  EXPECT_TRUE(actions_.staged.empty());
}

TEST_F(OrderKeeperTest, OutcomesThatArePickedUpAreBounded) {
  OrderRecord full;
  for (std::uint8_t i = 0; i < kMaxOutcomes; ++i)
    full.outcomes.push_back({.request_digest = Sha256(Bytes(1, i)), .state = OutcomeState::kDone});
  log_.record = full;
  actions_.early = OrderOutcome{Sha256(AsBytes("reset")), OutcomeState::kDone, "", "", clock_.Now()};
  Start("boot-2");
  EXPECT_EQ(keeper_->outcomes().size(), kMaxOutcomes);
  EXPECT_EQ(keeper_->outcomes().back().request_digest, actions_.early->request_digest);
  EXPECT_EQ(log_.record.outcomes.size(), kMaxOutcomes) << "and can be read again";
}

TEST_F(OrderKeeperTest, AMessageIsNotCutInsideACharacter) {
  std::string message(511, 'x');
  message += "\u00e4\u00e4";
  actions_.possible = MakeError(Code::kFailedPrecondition, Reason::kEpochTooLow, message);
  const std::string order = Order(order::Action::kRaiseEpoch, {{"epoch", "2"}});
  keeper_->TakeOrders({order});
  EXPECT_EQ(Outcome(order).message, std::string(511, 'x'));
}

TEST_F(OrderKeeperTest, WhyTheEarlyBootRefusedAResetIsTold) {
  const std::string order = Order(order::Action::kReset);
  keeper_->TakeOrders({order});
  actions_.early =
      OrderOutcome{DigestOf(order), OutcomeState::kRefused, "ORDER_EXPIRED", "late", clock_.Now()};
  Start("boot-2");
  keeper_->Step();
  EXPECT_EQ(Outcome(order).state, OutcomeState::kRefused);
  EXPECT_EQ(Outcome(order).reason, "ORDER_EXPIRED");
  EXPECT_FALSE(keeper_->busy());
}

// --- records that lie

TEST_F(OrderKeeperTest, APlantedRecordIsWorthWhatItProves) {
  for (const OrderStage stage : {OrderStage::kAccepted, OrderStage::kConsumed, OrderStage::kStaged}) {
    log_.record = {.stage = stage, .envelope = "{}", .boot_id = "boot-1", .outcomes = {}};
    Start();
    keeper_->Step();
    EXPECT_FALSE(keeper_->busy());
    // An order of another machine, or of a nonce that is long gone.
    order::ChangeRequest request = world_.Request(order::Action::kReset);
    request.nonce = order::NonceFor(world_.ek_, 3);
    log_.record = {.stage = stage, .envelope = world_.Order(request), .boot_id = "boot-1", .outcomes = {}};
    Start();
    keeper_->Step();
    EXPECT_FALSE(keeper_->busy());
  }
  EXPECT_TRUE(actions_.performed.empty());
  EXPECT_TRUE(actions_.staged.empty());
  EXPECT_EQ(actions_.reboots, 0);
  EXPECT_EQ(counters_.value, 7u);
}

TEST_F(OrderKeeperTest, ARecordThatWasPutBackOrdersNothing) {
  const std::string order = Order(order::Action::kRetry, {{"version", "1.2.0"}});
  keeper_->TakeOrders({order});
  keeper_->OnKnown({DigestOf(order)});
  counters_.value = 9;  // Another order since.
  log_.record = {.stage = OrderStage::kAccepted, .envelope = order, .boot_id = "boot-1", .outcomes = {}};
  Start();
  keeper_->Step();
  EXPECT_EQ(actions_.performed.size(), 1u);
}

// --- the power goes

TEST_F(OrderKeeperTest, WhereverThePowerGoesAnOrderIsCarriedOutAndItsNonceSpentOnce) {
  const std::string order = Order(order::Action::kRaiseEpoch, {{"epoch", "2"}});
  int cuts = 0;
  for (int cut = 0; cut < 20; ++cut) {
    power_ = {};
    counters_.value = 7;
    log_.record = {};
    actions_.performed.clear();
    Start();
    power_ = {.steps = 0, .cut_at = cut};
    keeper_->TakeOrders({order});
    const bool was_cut = power_.off();
    cuts += was_cut ? 1 : 0;
    power_ = {};
    Start("boot-2");
    keeper_->Step();
    // What was not accepted yet comes again.
    keeper_->TakeOrders({order});
    keeper_->Step();
    EXPECT_GE(actions_.performed.size(), 1u) << cut;
    EXPECT_EQ(counters_.value, 8u) << cut;
    EXPECT_EQ(Outcome(order).state, OutcomeState::kDone) << cut;
    EXPECT_FALSE(keeper_->busy()) << cut;
    if (!was_cut) break;
  }
  EXPECT_EQ(cuts, 5) << "accepted, spent, written, done, told";
}

TEST_F(OrderKeeperTest, WhereverThePowerGoesAResetIsStagedOrNotBegun) {
  const std::string order = Order(order::Action::kReset);
  for (int cut = 0; cut < 4; ++cut) {
    power_ = {};
    log_.record = {};
    actions_.staged.clear();
    Start();
    power_ = {.steps = 0, .cut_at = cut};
    keeper_->TakeOrders({order});
    power_ = {};
    Start("boot-1");
    keeper_->Step();
    keeper_->TakeOrders({order});
    EXPECT_EQ(actions_.staged, order) << cut;
    EXPECT_EQ(Outcome(order).state, OutcomeState::kAccepted) << cut;
  }
}

}  // namespace
}  // namespace sealift::agent
