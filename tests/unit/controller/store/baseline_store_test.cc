// Baselines in SQLite, and the judge above them: a fleet of machines that propose, confirm and differ.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controller/attest/baseline_review.h"
#include "controller/attest/firmware_judge.h"
#include "controller/store/sqlite_stores.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"
#include "tests/support/firmware_log.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

using test::FirmwareLog;
using test::ReasonIdFrom;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr std::uint32_t kMachines = 3;
const UnixMillis kNow = FromUnixMs(1'800'000'000'000);

NodeId Id(int number) { return NodeId::Parse(fmt::format("01890000-0000-7000-8000-{:012}", number)).value(); }

class BaselineStoreTest : public ::testing::Test {
 protected:
  BaselineStore& store() { return stores_->baselines(); }
  void SetUp() override {
    for (int i = 0; i < 20; ++i) {
      Node node{.id = Id(i), .ak_public = {1}};
      node.ek_digest.bytes[0] = static_cast<std::uint8_t>(i);
      node.admission = Admission::kAdmitted;
      ASSERT_TRUE(stores_->nodes().Enrol(node).ok());
    }
  }
  static Hardware Model(const std::string& firmware) {
    return {.model = {.vendor = "Maker", .product = "R740"}, .firmware_version = firmware};
  }
  // What the node's next quote leads to.
  Verdict Quote(int node, const FirmwareLog& log, const std::optional<Hardware>& claimed,
                Trust so_far = Trust::kTrusted) {
    Verdict verdict{.trust = so_far};
    for (const std::uint32_t pcr : kFirmwarePcrs)
      verdict.findings.push_back({.pcr = pcr, .outcome = "unpredicted"});
    const auto baseline = judge_.Judge(Id(node), claimed, log.Measure(), true, kNow, verdict);
    EXPECT_TRUE(baseline.ok()) << Describe(baseline.status());
    return verdict;
  }
  Verdict Quote(int node, const std::string& firmware) {
    return Quote(node, FirmwareLog::Of(firmware, fmt::format("disk {}", node), fmt::format("{}", node)),
                 Model(firmware));
  }
  std::vector<ReviewedBaseline> Review() {
    return ReviewBaselines(store().List(std::nullopt, kMachines, 100).value());
  }
  void ApproveOnly() {
    const auto all = Review();
    ASSERT_THAT(all, SizeIs(1));
    ASSERT_TRUE(store().Approve(all[0].record.baseline.id, "anna", kNow).ok());
  }

  const TempDir folder_ = TempDir::Create("baselines").value();
  std::unique_ptr<SqliteStores> stores_ = SqliteStores::Open(folder_.path()).value();
  FirmwareJudge judge_{stores_->baselines(), {.machines = kMachines, .outlier = Trust::kUntrusted}};
};

TEST_F(BaselineStoreTest, FirstMachinesProposeAndTheMajorityConfirms) {
  for (int i = 0; i < 2; ++i) EXPECT_THAT(Quote(i, "2.1").notes, ElementsAre("BASELINE_UNAPPROVED"));
  auto reviewed = Review();
  ASSERT_THAT(reviewed, SizeIs(1));
  EXPECT_EQ(reviewed[0].standing, BaselineStanding::kProposed);
  EXPECT_EQ(reviewed[0].record.nodes, 2u);
  EXPECT_EQ(reviewed[0].record.baseline.model, Model("2.1").model);
  // The same machine again is one machine.
  Quote(1, "2.1");
  EXPECT_EQ(Review()[0].record.nodes, 2u);
  Quote(2, "2.1");
  EXPECT_EQ(Review()[0].standing, BaselineStanding::kConfirmed);
  EXPECT_THAT(store().NodesOf(reviewed[0].record.baseline.id, 10).value(), ElementsAre(Id(0), Id(1), Id(2)));
  EXPECT_THAT(store().NodesOf(reviewed[0].record.baseline.id, 2).value(), SizeIs(2));
}

TEST_F(BaselineStoreTest, HalfOfTheMachinesIsNoMajority) {
  for (int i = 0; i < 3; ++i) Quote(i, "2.1");
  FirmwareLog other = FirmwareLog::Of("2.1", "disk", "1");
  other.Add(2, tpm::kEvEfiBootServicesDriver, "another card");
  for (int i = 3; i < 6; ++i) Quote(i, other, Model("2.1"));
  for (const ReviewedBaseline& one : Review()) EXPECT_FALSE(one.record.confirmed);
  Quote(6, "2.1");
  const auto reviewed = Review();
  EXPECT_TRUE(reviewed[0].record.confirmed);
  EXPECT_EQ(reviewed[0].record.nodes, 4u);
  EXPECT_EQ(reviewed[1].standing, BaselineStanding::kOutlier);
}

TEST_F(BaselineStoreTest, AFirmwareUpdateIsOneProposalAndNoAlarmOnceMachinesAgree) {
  for (int i = 0; i < 10; ++i) Quote(i, "2.1");
  ApproveOnly();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Quote(i, "2.1").trust, Trust::kTrusted);
  int alarms = 0;
  for (int i = 0; i < 6; ++i) alarms += Quote(i, "2.2").trust == Trust::kTrusted ? 0 : 1;
  // Until three machines show it, each could be the only one.
  EXPECT_EQ(alarms, 2);
  for (int i = 0; i < 6; ++i) {
    const Verdict verdict = Quote(i, "2.2");
    EXPECT_EQ(verdict.trust, Trust::kTrusted);
    EXPECT_THAT(verdict.notes, ElementsAre("BASELINE_UNAPPROVED"));
  }
  auto reviewed = Review();
  ASSERT_THAT(reviewed, SizeIs(2));
  EXPECT_EQ(reviewed[0].standing, BaselineStanding::kApproved);
  EXPECT_EQ(reviewed[0].record.nodes, 4u);
  EXPECT_EQ(reviewed[1].standing, BaselineStanding::kConfirmed);
  EXPECT_EQ(reviewed[1].record.nodes, 6u);
  ASSERT_TRUE(store().Approve(reviewed[1].record.baseline.id, "anna", kNow).ok());
  for (int i = 0; i < 10; ++i) {
    const Verdict verdict = Quote(i, i < 6 ? "2.2" : "2.1");
    EXPECT_EQ(verdict.trust, Trust::kTrusted);
    EXPECT_THAT(verdict.notes, IsEmpty());
  }
}

TEST_F(BaselineStoreTest, ALonelyImplantIsAnOutlierWhateverVersionItClaims) {
  for (int i = 0; i < 5; ++i) Quote(i, "2.1");
  ApproveOnly();
  FirmwareLog implant = FirmwareLog::Of("2.1", "disk", "4");
  implant.events[1].data = ToBytes(AsBytes("an implant"));
  for (const char* version : {"2.1", "never seen"}) {
    const Verdict verdict = Quote(4, implant, Model(version));
    EXPECT_EQ(verdict.trust, Trust::kUntrusted) << version;
    EXPECT_THAT(verdict.reasons, ElementsAre("EVENT_NOT_ALLOWED"));
  }
  // Nor does another model's name help, or none.
  const Hardware other{.model = {.vendor = "Other", .product = "Thing"}, .firmware_version = "1"};
  EXPECT_EQ(Quote(4, implant, other).trust, Trust::kUntrusted);
  EXPECT_EQ(Quote(4, implant, std::nullopt).trust, Trust::kUntrusted);
  EXPECT_EQ(store().HardwareOf(Id(4)).value()->hardware.model, Model("").model);
}

TEST_F(BaselineStoreTest, WhoSaysNothingOfItsModelAndWhoIsNotTrustedHaveNoSay) {
  const Verdict silent = Quote(0, FirmwareLog::Of("2.1", "d", "s"), std::nullopt);
  EXPECT_EQ(silent.findings[0].outcome, "unpredicted");
  EXPECT_THAT(silent.notes, IsEmpty());
  Quote(1, FirmwareLog::Of("2.1", "d", "s"), Model("2.1"), Trust::kUntrusted);
  EXPECT_THAT(Review(), IsEmpty());
}

TEST_F(BaselineStoreTest, ProposalsThatNobodyShowsGoAndApprovedOnesStay) {
  Quote(0, "2.1");
  const Sha256Digest first = Review()[0].record.baseline.id;
  Quote(0, "2.2");
  ASSERT_THAT(Review(), SizeIs(1));
  const Sha256Digest second = Review()[0].record.baseline.id;
  EXPECT_NE(first, second);
  EXPECT_EQ(ReasonIdFrom(store().Approve(first, "anna", kNow)), "BASELINE_UNKNOWN");
  ASSERT_TRUE(store().Approve(second, "anna", kNow).ok());
  // The first approval stays.
  ASSERT_TRUE(store().Approve(second, "berta", kNow + std::chrono::hours(1)).ok());
  EXPECT_EQ(Review()[0].record.approved_by, "anna");
  Quote(0, "2.3");
  EXPECT_THAT(Review(), SizeIs(2));
  ASSERT_TRUE(store().Withdraw(second).ok());
  EXPECT_THAT(Review(), SizeIs(1));
  EXPECT_EQ(ReasonIdFrom(store().Withdraw(second)), "BASELINE_UNKNOWN");
}

TEST_F(BaselineStoreTest, WithdrawnBaselinesBlockNothingAnyMore) {
  for (int i = 0; i < 3; ++i) Quote(i, "2.1");
  ApproveOnly();
  EXPECT_EQ(Quote(3, "2.2").trust, Trust::kUntrusted);
  ASSERT_TRUE(store().Withdraw(store().Approved(Model("").model).value()[0].id).ok());
  EXPECT_EQ(Quote(3, "2.2").trust, Trust::kTrusted);
  EXPECT_THAT(store().Approved(Model("").model).value(), IsEmpty());
}

TEST_F(BaselineStoreTest, FoundByTheBeginningOfItsId) {
  Quote(0, "2.1");
  Quote(1, "2.2");
  const auto reviewed = Review();
  const Baseline& wanted = reviewed[1].record.baseline;
  EXPECT_EQ(store().Find(wanted.id.hex().substr(0, 16), kMachines)->baseline, wanted);
  EXPECT_EQ(store().Find(wanted.id.hex(), kMachines)->baseline, wanted);
  for (const char* unknown : {"", "zz", "%"}) {
    EXPECT_EQ(ReasonIdFrom(store().Find(unknown, kMachines)), "BASELINE_UNKNOWN") << unknown;
  }
  EXPECT_THAT(store().List(HardwareModel{.vendor = "Maker", .product = "other"}, kMachines, 10).value(),
              IsEmpty());
  EXPECT_THAT(store().List(Model("").model, kMachines, 1).value(), SizeIs(1));
}

// --- lists of revoked images

TEST_F(BaselineStoreTest, AnotherDbxIsAcceptedWhenEnoughMachinesShowItOrSomebodyApproves) {
  RevocationsStore& store = stores_->revocations();
  const Sha256Digest renewed = Sha256(AsBytes("dbx 2"));
  const Sha256Digest odd = Sha256(AsBytes("dbx of one machine"));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(store.Record(Id(i), renewed, kNow).ok());
  ASSERT_TRUE(store.Record(Id(9), odd, kNow).ok());
  EXPECT_THAT(store.Accepted(kMachines).value(), IsEmpty());
  ASSERT_TRUE(store.Record(Id(1), renewed, kNow).ok());
  ASSERT_TRUE(store.Record(Id(2), renewed, kNow).ok());
  EXPECT_THAT(store.Accepted(kMachines).value(), ElementsAre(renewed));
  auto listed = store.List(kMachines, 10).value();
  ASSERT_THAT(listed, SizeIs(2));
  EXPECT_EQ(listed[0].event, renewed);
  EXPECT_EQ(listed[0].nodes, 3u);
  EXPECT_TRUE(listed[0].confirmed);
  EXPECT_FALSE(listed[1].confirmed);
  EXPECT_THAT(store.NodesOf(odd, 10).value(), ElementsAre(Id(9)));
  ASSERT_TRUE(store.Approve(odd, "anna", kNow).ok());
  EXPECT_THAT(store.Accepted(kMachines).value(), SizeIs(2));
  EXPECT_EQ(store.List(kMachines, 1)->front().approved_by, "anna");
  // Machines come and go; approved lists stay, others only while somebody shows them.
  ASSERT_TRUE(store.Record(Id(9), renewed, kNow).ok());
  EXPECT_EQ(store.ShownBy(Id(9)).value(), renewed);
  EXPECT_THAT(store.List(kMachines, 10).value(), SizeIs(2));
  ASSERT_TRUE(store.Withdraw(odd).ok());
  EXPECT_EQ(ReasonIdFrom(store.Withdraw(odd)), "BASELINE_UNKNOWN");
  EXPECT_EQ(ReasonIdFrom(store.Approve(odd, "anna", kNow)), "BASELINE_UNKNOWN");
  for (const int i : {0, 1, 2, 9}) ASSERT_TRUE(store.Forget(Id(i)).ok());
  ASSERT_TRUE(store.Forget(Id(3)).ok());
  EXPECT_THAT(store.List(kMachines, 10).value(), IsEmpty());
  EXPECT_FALSE(store.ShownBy(Id(9))->has_value());
}

// --- the policy's view of nodes and rollouts

TEST_F(BaselineStoreTest, QuarantineNeverPassesItsShare) {
  PolicyStore& policy = stores_->policy();
  // 20 nodes: two are a tenth.
  EXPECT_EQ(policy.QuarantineWithin(Id(0), 10).value(), PolicyStore::Quarantine::kDone);
  EXPECT_EQ(policy.QuarantineWithin(Id(0), 10).value(), PolicyStore::Quarantine::kNotAdmitted);
  EXPECT_EQ(policy.QuarantineWithin(Id(1), 10).value(), PolicyStore::Quarantine::kDone);
  EXPECT_EQ(policy.QuarantineWithin(Id(2), 10).value(), PolicyStore::Quarantine::kLimit);
  EXPECT_EQ(stores_->nodes().Get(Id(1))->admission, Admission::kQuarantined);
  EXPECT_EQ(stores_->nodes().Get(Id(2))->admission, Admission::kAdmitted);
  // Those that an operator revoked are no part of the fleet.
  ASSERT_TRUE(stores_->nodes().SetAdmission(Id(0), Admission::kRevoked).ok());
  EXPECT_EQ(policy.QuarantineWithin(Id(2), 10).value(), PolicyStore::Quarantine::kLimit);
  EXPECT_EQ(policy.QuarantineWithin(Id(2), 11).value(), PolicyStore::Quarantine::kDone);
}

class PolicyEnforcerTest : public BaselineStoreTest {
 protected:
  PolicyEnforcer Enforcer(const AttestationPolicy& policy) {
    return PolicyEnforcer(policy, {.store = stores_->policy(),
                                   .audit = stores_->audit(),
                                   .engine = engine_,
                                   .clock = clock_,
                                   .count = [this](std::string_view act) { acts_.emplace_back(act); },
                                   .alert = [this](const PolicyAct& act) { told_.push_back(act); }});
  }
  static Verdict Bad(Trust trust, const char* reason) { return {.trust = trust, .reasons = {reason}}; }
  Node NodeWith(int number, const std::optional<Verdict>& last) {
    Node node = stores_->nodes().Get(Id(number)).value();
    node.last_verdict = last;
    return node;
  }
  std::vector<std::string> Audited() {
    std::vector<std::string> lines;
    const auto audit = stores_->audit().List(0, 100).value();
    for (const AuditRecord& record : audit) {
      EXPECT_EQ(record.operator_name, "controller");
      EXPECT_EQ(record.role, "policy");
      lines.push_back(record.rpc + " " + record.outcome);
    }
    return lines;
  }
  Rollout StartRollout(std::vector<int> nodes) {
    Rollout rollout{.id = "r1", .channel = "stable", .version = "2", .request_key = "k"};
    Wave wave{.size = "100%"};
    for (const int number : nodes) wave.nodes.push_back({.node_id = Id(number)});
    rollout.waves.push_back(std::move(wave));
    return stores_->rollouts().Create(rollout).value();
  }

  SystemClock clock_;
  RolloutEngine engine_{stores_->nodes(), stores_->rollouts(), clock_};
  std::vector<std::string> acts_;
  std::vector<PolicyAct> told_;
};

TEST_F(PolicyEnforcerTest, ActsOnceWhenAVerdictTurnsBad) {
  PolicyEnforcer enforcer = Enforcer({});
  const Verdict bad = Bad(Trust::kUntrusted, "EVENT_NOT_ALLOWED");
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(0, std::nullopt), bad).ok());
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(0, Verdict{.trust = Trust::kTrusted}), bad).ok());
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(0, bad), bad).ok());
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(0, bad), Verdict{.trust = Trust::kTrusted}).ok());
  EXPECT_THAT(acts_, ElementsAre("alert", "alert"));
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(0, bad), Bad(Trust::kUntrusted, "QUOTE_PCR_MISMATCH")).ok());
  EXPECT_THAT(Audited(), ElementsAre("attestation/alert OK", "attestation/alert OK", "attestation/alert OK"));
  // Nobody is quarantined who was not to be.
  EXPECT_EQ(stores_->nodes().Get(Id(0))->admission, Admission::kAdmitted);
}

TEST_F(PolicyEnforcerTest, QuarantinesWithinTheLimitAndSaysWhenItIsReached) {
  const auto actions = ParseTrustActions("x", "quarantine").value();
  PolicyEnforcer enforcer =
      Enforcer({.on_untrusted = actions, .on_unknown = {.alert = false}, .quarantine_percent = 5});
  for (const int node : {0, 1}) {
    ASSERT_TRUE(enforcer.OnVerdict(NodeWith(node, std::nullopt), Bad(Trust::kUntrusted, "X")).ok());
    ASSERT_TRUE(enforcer.OnVerdict(NodeWith(node, std::nullopt), Bad(Trust::kUnknown, "X")).ok());
  }
  EXPECT_EQ(stores_->nodes().Get(Id(0))->admission, Admission::kQuarantined);
  EXPECT_EQ(stores_->nodes().Get(Id(1))->admission, Admission::kAdmitted);
  EXPECT_THAT(acts_, ElementsAre("quarantine", "quarantine-limit"));
  EXPECT_THAT(Audited(), ElementsAre("attestation/quarantine OK", "attestation/quarantine QUARANTINE_LIMIT"));
}

TEST_F(PolicyEnforcerTest, PausesTheRolloutsInWhichTheNodeTakesPart) {
  StartRollout({0, 1});
  PolicyEnforcer enforcer = Enforcer({.on_untrusted = ParseTrustActions("x", "pause-rollouts").value(),
                                      .on_unknown = {},
                                      .quarantine_percent = 0});
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(5, std::nullopt), Bad(Trust::kUntrusted, "X")).ok());
  EXPECT_EQ(stores_->rollouts().Get("r1")->state, RolloutState::kRunning);
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(1, std::nullopt), Bad(Trust::kUntrusted, "X")).ok());
  EXPECT_EQ(stores_->rollouts().Get("r1")->state, RolloutState::kPaused);
  // A second node's turn finds nothing to pause.
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(0, std::nullopt), Bad(Trust::kUntrusted, "X")).ok());
  EXPECT_THAT(acts_, ElementsAre("pause-rollout"));
  EXPECT_THAT(Audited(), ElementsAre("attestation/pause-rollout OK"));
}

TEST_F(PolicyEnforcerTest, TellsWhatItDidWhereAlertIsAmongTheActions) {
  StartRollout({0, 1});
  PolicyEnforcer enforcer = Enforcer(
      {.on_untrusted = ParseTrustActions("x", "alert quarantine deny-renewal pause-rollouts").value(),
       .on_unknown = ParseTrustActions("x", "deny-renewal pause-rollouts").value(),
       .quarantine_percent = 5});
  // Done and audited, and nobody is told.
  ASSERT_TRUE(enforcer.DeniesRenewal(Id(0), Bad(Trust::kUnknown, "X")).value());
  EXPECT_THAT(told_, IsEmpty());
  const Verdict bad = Bad(Trust::kUntrusted, "EVENT_NOT_ALLOWED");
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(0, std::nullopt), bad).ok());
  ASSERT_TRUE(enforcer.OnVerdict(NodeWith(1, std::nullopt), bad).ok());
  ASSERT_TRUE(enforcer.DeniesRenewal(Id(1), bad).value());
  std::vector<std::string> told;
  for (const PolicyAct& act : told_) {
    told.push_back(act.act);
    EXPECT_EQ(act.trust, Trust::kUntrusted);
    EXPECT_THAT(act.reasons, ElementsAre("EVENT_NOT_ALLOWED"));
    EXPECT_NE(act.at, UnixMillis());
  }
  EXPECT_THAT(
      told, ElementsAre("alert", "quarantine", "pause-rollout", "alert", "quarantine-limit", "deny-renewal"));
  EXPECT_EQ(told_[2].rollout, "r1");
  EXPECT_EQ(told_[2].node, Id(0));
}

TEST_F(PolicyEnforcerTest, DeniesCertificatesWhereToldTo) {
  PolicyEnforcer enforcer = Enforcer({.on_untrusted = ParseTrustActions("x", "deny-renewal").value(),
                                      .on_unknown = {},
                                      .quarantine_percent = 0});
  EXPECT_TRUE(enforcer.DeniesRenewal(Id(0), Bad(Trust::kUntrusted, "X")).value());
  EXPECT_FALSE(enforcer.DeniesRenewal(Id(0), Bad(Trust::kUnknown, "X")).value());
  EXPECT_FALSE(enforcer.DeniesRenewal(Id(0), Verdict{.trust = Trust::kTrusted}).value());
  EXPECT_THAT(Audited(), ElementsAre("attestation/deny-renewal OK"));
}

TEST(AttestationPolicyTest, WhatCannotBeEnforcedIsNotLoaded) {
  for (const char* words : {"", " ", "alarm", "alert alert", "none alert", "alert,quarantine", "Alert"}) {
    EXPECT_EQ(ReasonIdFrom(ParseTrustActions("attestation.on_untrusted", words)), "POLICY_UNENFORCEABLE")
        << words;
  }
  EXPECT_EQ(ParseTrustActions("x", "none").value(), TrustActions{.alert = false});
  EXPECT_EQ(ParseTrustActions("x", "alert quarantine deny-renewal pause-rollouts").value(),
            (TrustActions{.alert = true, .quarantine = true, .deny_renewal = true, .pause_rollouts = true}));
  EXPECT_TRUE(CheckAttestationPolicy({}).ok());
  AttestationPolicy policy;
  policy.on_unknown.quarantine = true;
  EXPECT_EQ(ReasonIdFrom(CheckAttestationPolicy(policy)), "POLICY_UNENFORCEABLE");
  policy.quarantine_percent = 1;
  EXPECT_TRUE(CheckAttestationPolicy(policy).ok());
  policy.on_unknown.quarantine = false;
  EXPECT_EQ(ReasonIdFrom(CheckAttestationPolicy(policy)), "POLICY_UNENFORCEABLE");
}

}  // namespace
}  // namespace sealift::controller
