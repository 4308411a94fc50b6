// What every implementation of the controller's stores must do. Include it, define a factory, instantiate:
//
//   INSTANTIATE_TEST_SUITE_P(Sqlite, StoreContract, ::testing::Values(&MakeSqliteBackend));
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <semaphore>
#include <thread>

#include "controller/fleet/stores.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {

// Owns the stores and whatever is behind them, empty at first.
class StoreBackend {
 public:
  virtual ~StoreBackend() = default;
  virtual NodeStore& nodes() = 0;
  virtual NodeStatusStore& node_status() = 0;
  virtual RolloutStore& rollouts() = 0;
  virtual ReleaseStore& releases() = 0;
  virtual AdmissionStore& admission() = 0;
  virtual EvidenceStore& evidence() = 0;
  virtual AuditStore& audit() = 0;
  virtual CertificateStore& certificates() = 0;
  virtual RequestStore& requests() = 0;
  virtual EscrowStore& escrow() = 0;
};

using StoreBackendFactory = std::unique_ptr<StoreBackend> (*)();

class StoreContract : public ::testing::TestWithParam<StoreBackendFactory> {
 protected:
  void SetUp() override {
    backend_ = GetParam()();
    ASSERT_NE(backend_, nullptr);
  }

  static NodeId Id(int number) {
    auto id = NodeId::Parse(fmt::format("01890000-0000-7000-8000-{:012}", number));
    SEALIFT_CHECK(id.ok());
    return *id;
  }
  static Sha256Digest Digest(int number) {
    Sha256Digest digest;
    digest.bytes[0] = static_cast<std::uint8_t>(number);
    return digest;
  }
  static Node NewNode(int number) {
    Node node{.id = Id(number), .ek_digest = Digest(number), .ak_public = {1, 0, 2}};
    node.admission = Admission::kAdmitted;
    node.labels = {{"site", number % 2 == 0 ? "even" : "odd"}};
    node.enrolled = FromUnixMs(1000 + number);
    node.certificate_not_after = FromUnixMs(2000);
    return node;
  }
  Node Enrol(int number) {
    const Node node = NewNode(number);
    EXPECT_TRUE(backend_->nodes().Enrol(node).ok());
    return node;
  }
  static NodeStatus SomeStatus() {
    return {.state = UpdateState::kFellBack,
            .running = {.version = "1", .image_digest = Digest(7), .role = "passive", .boot_id = "b\"1"},
            .staged_version = "2",
            .failures = {{"2", "FELL_BACK", "three \xff boots", FromUnixMs(5)}},
            .healthy = true,
            .agent_version = "0.1",
            .findings = {{"JOURNAL_SHORT", "it ends before \xff"}},
            .order_nonce = Bytes(32, 9),
            .epoch = EpochStatus{.lowest = 2, .base = 40, .image = 3, .passive = 2, .recovery = 1},
            .volumes = {{.name = "persistent",
                         .state = VolumeState::kRefused,
                         .luks_uuid = "u",
                         .reason = "VOLUME_FOREIGN",
                         .message = "not ours",
                         .without_pcr7 = true}},
            .fetch = FetchStatus{.fetched = 5, .size = 1ull << 33}};
  }
  static RequestRecord NewRequest(int node, char id, order::Action action = order::Action::kReset) {
    RequestRecord record{.request = {.id = std::string(32, id),
                                     .action = action,
                                     .node = Id(node),
                                     .ek_digest = Digest(node),
                                     .nonce = Bytes(32, 5),
                                     .requester = "anna",
                                     .reason = "worn \xc3\xa9",
                                     .created = FromUnixMs(10),
                                     .expires = FromUnixMs(20)},
                         .requester = {.certificate = {1}, .signature = {2}}};
    record.canonical = order::CanonicalRequest(record.request);
    record.digest = Sha256(AsBytes(record.canonical));
    return record;
  }
  static Verdict SomeVerdict() {
    return {.trust = Trust::kUntrusted,
            .reasons = {"QUOTE_PCR_MISMATCH"},
            .findings = {{.pcr = 11,
                          .outcome = "mismatch",
                          .expected = {Digest(1), Digest(2)},
                          .found = Digest(3),
                          .first_difference = "event 7"}},
            .release_version = "1",
            .release_id = ReleaseId{Digest(9)},
            .decided = FromUnixMs(77),
            .degraded_boot = true,
            .boot_id = "b1"};
  }
  Rollout NewRollout(const std::string& id, const std::vector<int>& nodes) {
    Rollout rollout{
        .id = id, .channel = "stable", .version = "2", .release_id = {Digest(2)}, .selector = "site=odd"};
    rollout.created = FromUnixMs(10);
    rollout.created_by = "anna";
    std::vector<NodeId> ids;
    for (const int node : nodes) ids.push_back(Id(node));
    auto waves = CutWaves({"1", "100%"}, ids);
    SEALIFT_CHECK(waves.ok());
    rollout.waves = *waves;
    return rollout;
  }

  std::unique_ptr<StoreBackend> backend_;
};

TEST_P(StoreContract, NodeComesBackAsItWasEnrolled) {
  const Node node = Enrol(1);
  const auto got = backend_->nodes().Get(node.id);
  ASSERT_TRUE(got.ok()) << Describe(got.status());
  EXPECT_EQ(got->ek_digest, node.ek_digest);
  EXPECT_EQ(got->ak_public, node.ak_public);
  EXPECT_EQ(got->admission, node.admission);
  EXPECT_EQ(got->labels, node.labels);
  EXPECT_EQ(got->enrolled, node.enrolled);
  EXPECT_EQ(got->certificate_not_after, node.certificate_not_after);
  EXPECT_FALSE(got->last_verdict);
  EXPECT_FALSE(got->desired);
  const auto by_ek = backend_->nodes().FindByEk(node.ek_digest);
  ASSERT_TRUE(by_ek.ok() && by_ek->has_value());
  EXPECT_EQ((*by_ek)->id, node.id);
  EXPECT_FALSE(backend_->nodes().FindByEk(Digest(99))->has_value());
}

TEST_P(StoreContract, EkBelongsToOneNode) {
  Enrol(1);
  Node thief = NewNode(2);
  thief.ek_digest = Digest(1);
  EXPECT_EQ(backend_->nodes().Enrol(thief).code(), Code::kAlreadyExists);
  EXPECT_EQ(backend_->nodes().Get(thief.id).status().code(), Code::kNotFound);
}

TEST_P(StoreContract, EnrollingAgainKeepsWhatOperatorsSet) {
  Node node = Enrol(1);
  ASSERT_TRUE(backend_->nodes().SetLabels(node.id, {{"rack", "3"}}).ok());
  ASSERT_TRUE(backend_->nodes().SetAdmission(node.id, Admission::kQuarantined).ok());
  node.ak_public = {9};
  node.certificate_not_after = FromUnixMs(9999);
  ASSERT_TRUE(backend_->nodes().Enrol(node).ok());
  const auto got = backend_->nodes().Get(node.id);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->labels, (std::map<std::string, std::string>{{"rack", "3"}}));
  EXPECT_EQ(got->admission, Admission::kQuarantined);
  EXPECT_EQ(got->ak_public, Bytes{9});
  EXPECT_EQ(got->certificate_not_after, FromUnixMs(9999));
}

TEST_P(StoreContract, InstallRecordAndEpochComeBack) {
  Node node = Enrol(1);
  EXPECT_FALSE(backend_->nodes().Get(node.id)->install);
  EXPECT_FALSE(backend_->nodes().Get(node.id)->certified_epoch);
  EXPECT_FALSE(backend_->node_status().ViewForCheckIn(node.id)->certified_epoch);
  node.install = InstallRecord{
      .config_digest = Digest(4), .config_source = "image", .version = "1", .installed = FromUnixMs(7)};
  ASSERT_TRUE(backend_->nodes().Enrol(node).ok());
  const CertifiedEpoch epoch{.lowest = 3, .base = 1u << 31, .at = FromUnixMs(8)};
  ASSERT_TRUE(backend_->nodes().RecordEpoch(node.id, epoch).ok());
  EXPECT_EQ(backend_->nodes().RecordEpoch(Id(9), epoch).code(), Code::kNotFound);
  // A renewal without a record keeps the one there is.
  const auto record = node.install;
  node.install.reset();
  ASSERT_TRUE(backend_->nodes().Enrol(node).ok());
  EXPECT_EQ(backend_->nodes().Get(node.id)->install, record);
  EXPECT_EQ(backend_->nodes().Get(node.id)->certified_epoch, epoch);
  EXPECT_EQ(backend_->node_status().ViewForCheckIn(node.id)->certified_epoch, epoch.lowest);
}

TEST_P(StoreContract, RequestsMoveFromOneStateToTheNext) {
  Enrol(1);
  const RequestRecord made = NewRequest(1, 'a');
  ASSERT_TRUE(backend_->requests().Create(made).ok());
  EXPECT_EQ(*backend_->requests().Create(made), made) << "made again";
  RequestRecord other = NewRequest(1, 'a');
  other.request.reason = "another";
  other.canonical = order::CanonicalRequest(other.request);
  EXPECT_EQ(backend_->requests().Create(other).status().code(), Code::kAlreadyExists);
  EXPECT_EQ(*backend_->requests().Get("aaaa"), made);
  EXPECT_EQ(ReasonOf(backend_->requests().Get("b").status()), Reason::kRequestUnknown);
  EXPECT_EQ(ReasonOf(backend_->requests().Get("").status()), Reason::kRequestUnknown);
  EXPECT_EQ(**backend_->requests().FindByDigest(made.digest), made);
  EXPECT_FALSE(backend_->requests().FindByDigest(Digest(77))->has_value());
  EXPECT_TRUE(backend_->node_status().ViewForCheckIn(Id(1))->orders.empty()) << "nobody approved it";

  RequestRecord approved = made;
  approved.state = RequestState::kApproved;
  approved.approver = {.certificate = {3}, .signature = {4}};
  approved.approver_name = "bert";
  approved.approved = FromUnixMs(12);
  approved.envelope = "{}";
  ASSERT_TRUE(backend_->requests().Move(approved, RequestState::kOpen).ok());
  EXPECT_EQ(ReasonOf(backend_->requests().Move(approved, RequestState::kOpen)), Reason::kRequestStateWrong);
  EXPECT_EQ(*backend_->requests().Get(made.request.id), approved);
  const auto waiting = backend_->node_status().ViewForCheckIn(Id(1))->orders;
  ASSERT_EQ(waiting.size(), 1u);
  EXPECT_EQ(waiting[0].envelope, "{}");
  EXPECT_EQ(waiting[0].nonce, made.request.nonce);
  EXPECT_EQ(waiting[0].expires, made.request.expires);

  RequestRecord done = approved;
  done.state = RequestState::kDone;
  done.outcome = OrderOutcome{made.digest, OutcomeState::kDone, "", "it \xff did", FromUnixMs(13)};
  ASSERT_TRUE(backend_->requests().Move(done, RequestState::kApproved).ok());
  EXPECT_EQ(backend_->requests().Get(made.request.id)->state, RequestState::kDone);
  EXPECT_TRUE(backend_->node_status().ViewForCheckIn(Id(1))->orders.empty());
}

TEST_P(StoreContract, RequestsAreListedByNodeAndState) {
  ASSERT_TRUE(backend_->requests().Create(NewRequest(1, 'a')).ok());
  ASSERT_TRUE(backend_->requests().Create(NewRequest(2, 'b')).ok());
  RequestRecord cancelled = NewRequest(1, 'c');
  ASSERT_TRUE(backend_->requests().Create(cancelled).ok());
  cancelled.state = RequestState::kCancelled;
  ASSERT_TRUE(backend_->requests().Move(cancelled, RequestState::kOpen).ok());
  const auto ids = [&](const RequestQuery& query) {
    std::string out;
    const auto found = backend_->requests().List(query);
    EXPECT_TRUE(found.ok());
    for (const RequestRecord& record : *found) out += record.request.id.substr(0, 1);
    return out;
  };
  EXPECT_EQ(ids({}), "cba");
  EXPECT_EQ(ids({.limit = 1}), "c");
  EXPECT_EQ(ids({.node = Id(1)}), "ca");
  EXPECT_EQ(ids({.open_only = true}), "ba");
}

// A released recovery key is replaced afterwards, never before: the one released has to open the disk.
TEST_P(StoreContract, ReplacementOfARecoveryKeyWaitsForItsRelease) {
  Enrol(1);
  RequestRecord record = NewRequest(1, 'a', order::Action::kReleaseRecoveryKey);
  ASSERT_TRUE(backend_->requests().Create(record).ok());
  record.state = RequestState::kApproved;
  record.envelope = "{}";
  ASSERT_TRUE(backend_->requests().Move(record, RequestState::kOpen).ok());
  EXPECT_TRUE(backend_->node_status().ViewForCheckIn(Id(1))->orders.empty());
  record.state = RequestState::kDelivered;
  ASSERT_TRUE(backend_->requests().Move(record, RequestState::kApproved).ok());
  EXPECT_EQ(backend_->node_status().ViewForCheckIn(Id(1))->orders.size(), 1u);
}

TEST_P(StoreContract, EscrowedKeysAreKeptNewestFirst) {
  const auto key = [&](int number) {
    return EscrowedKey{.node = Id(1),
                       .volume = "persistent",
                       .luks_uuid = "u",
                       .slot = static_cast<std::uint32_t>(number),
                       .blob = "blob " + std::to_string(number),
                       .blob_digest = Digest(number),
                       .stored = FromUnixMs(number)};
  };
  for (int number = 1; number <= 20; ++number) ASSERT_TRUE(backend_->escrow().Put(key(number)).ok());
  ASSERT_TRUE(backend_->escrow().Put(key(20)).ok()) << "again";
  auto kept = backend_->escrow().List(Id(1));
  ASSERT_TRUE(kept.ok());
  ASSERT_EQ(kept->size(), kMaxEscrowedKeys);
  EXPECT_EQ(kept->front(), key(20));
  EXPECT_EQ(kept->back(), key(5));
  EXPECT_TRUE(backend_->escrow().List(Id(2))->empty());
  ASSERT_TRUE(backend_->escrow().MarkReleased(Id(1), FromUnixMs(99)).ok());
  EXPECT_EQ(backend_->escrow().List(Id(1))->front().released, FromUnixMs(99));
}

TEST_P(StoreContract, LabelsOfTheImageAreAdoptedOnlyBeforeTheFirstCheckIn) {
  Enrol(1);
  std::map<std::string, std::string> offered{{"site", "claimed"}, {"zone", "z"}, {"NO KEY", "x"}};
  const auto left_out = backend_->nodes().AdoptLabels(Id(1), offered);
  ASSERT_TRUE(left_out.ok()) << Describe(left_out.status());
  EXPECT_EQ(*left_out, std::vector<std::string>{"NO KEY"});
  std::map<std::string, std::string> expected{{"site", "odd"}, {"zone", "z"}};
  EXPECT_EQ(backend_->nodes().Get(Id(1))->labels, expected);
  offered = {{"late", "x"}};
  ASSERT_TRUE(backend_->node_status().RecordStatus(Id(1), {}, FromUnixMs(1), std::nullopt).ok());
  EXPECT_TRUE(backend_->nodes().AdoptLabels(Id(1), offered)->empty());
  EXPECT_EQ(backend_->nodes().Get(Id(1))->labels, expected);
}

TEST_P(StoreContract, AdmittingAPendingNodeOverwritesNoDecision) {
  const std::map<std::string, std::string> before = Enrol(1).labels;
  const std::map<std::string, std::string> given{{"rack", "3"}};
  for (const Admission decided : {Admission::kAdmitted, Admission::kQuarantined, Admission::kRevoked}) {
    ASSERT_TRUE(backend_->nodes().SetAdmission(Id(1), decided).ok());
    EXPECT_EQ(*backend_->nodes().AdmitPending(Id(1), given), decided);
    EXPECT_EQ(backend_->nodes().Get(Id(1))->admission, decided);
    EXPECT_EQ(backend_->nodes().Get(Id(1))->labels, before);
  }
  ASSERT_TRUE(backend_->nodes().SetAdmission(Id(1), Admission::kPending).ok());
  EXPECT_EQ(*backend_->nodes().AdmitPending(Id(1), given), Admission::kAdmitted);
  EXPECT_EQ(backend_->nodes().Get(Id(1))->admission, Admission::kAdmitted);
  EXPECT_EQ(backend_->nodes().Get(Id(1))->labels, given);
}

TEST_P(StoreContract, ListPagesAndSelects) {
  for (int i = 1; i <= 5; ++i) Enrol(i);
  NodeQuery query{.selector = *Selector::Parse("site=odd"), .limit = 2};
  auto page = backend_->nodes().List(query);
  ASSERT_TRUE(page.ok());
  ASSERT_EQ(page->size(), 2u);
  EXPECT_EQ((*page)[0].id, Id(1));
  EXPECT_EQ((*page)[1].id, Id(3));
  query.after_id = (*page)[1].id.text();
  page = backend_->nodes().List(query);
  ASSERT_EQ(page->size(), 1u);
  EXPECT_EQ((*page)[0].id, Id(5));
  EXPECT_EQ(backend_->nodes().List({.id_prefix = Id(4).text()})->size(), 1u);
  EXPECT_EQ(backend_->nodes().List({.id_prefix = "0189"})->size(), 5u);
  EXPECT_EQ(backend_->nodes().List({.id_prefix = "02"})->size(), 0u);
}

TEST_P(StoreContract, UnknownNodeIsSaid) {
  const Status missing[] = {
      backend_->nodes().Get(Id(1)).status(),
      backend_->nodes().SetLabels(Id(1), {}),
      backend_->nodes().SetAdmission(Id(1), Admission::kRevoked),
      backend_->nodes().AdmitPending(Id(1), {}).status(),
      backend_->nodes().AdoptLabels(Id(1), {}).status(),
      backend_->node_status().ViewForCheckIn(Id(1)).status(),
      backend_->node_status().RecordStatus(Id(1), {}, FromUnixMs(1), std::nullopt).status(),
      backend_->node_status().RecordVerdict(Id(1), {}),
      backend_->node_status().TakeQuoteNonce(Id(1), FromUnixMs(1)).status()};
  for (const Status& status : missing) EXPECT_EQ(ReasonOf(status), Reason::kNodeUnknown) << Describe(status);
}

TEST_P(StoreContract, StatusAndVerdictComeBack) {
  const Node node = Enrol(1);
  NodeStatus status = SomeStatus();
  const auto& recorded = backend_->node_status().RecordStatus(node.id, status, FromUnixMs(49), std::nullopt);
  ASSERT_TRUE(recorded.ok());
  EXPECT_TRUE(*recorded);
  EXPECT_FALSE(*backend_->node_status().RecordStatus(node.id, status, FromUnixMs(50), std::nullopt));
  ASSERT_TRUE(backend_->node_status().RecordVerdict(node.id, SomeVerdict()).ok());
  const auto got = backend_->nodes().Get(node.id);
  ASSERT_TRUE(got.ok()) << Describe(got.status());
  EXPECT_EQ(got->last_seen, FromUnixMs(50));
  EXPECT_EQ(got->last_verdict, SomeVerdict());
  // Bytes that are no UTF-8 are replaced, nothing else changes.
  status.failures[0].message = "three \xef\xbf\xbd boots";
  status.findings[0].message = "it ends before \xef\xbf\xbd";
  EXPECT_EQ(got->status, status);
  const auto view = backend_->node_status().ViewForCheckIn(node.id);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->admission, Admission::kAdmitted);
  EXPECT_EQ(view->last_seen, FromUnixMs(50));
  EXPECT_EQ(view->last_trust, Trust::kUntrusted);
  EXPECT_EQ(view->last_decided, FromUnixMs(77));
  EXPECT_EQ(view->last_verdict_boot_id, "b1");
}

TEST_P(StoreContract, StatusRecordedLaterIsThereWhenItIsTold) {
  const Node node = Enrol(1);
  auto& store = backend_->node_status();
  constexpr int kCalls = 50;
  std::binary_semaphore all_told{0};
  std::atomic<int> told = 0;
  std::atomic<int> wrong = 0;
  for (int i = 1; i <= kCalls; ++i) {
    NodeStatus status;
    status.agent_version = std::to_string(i);
    store.RecordStatusLater(
        node.id, status, FromUnixMs(i), std::nullopt, [&, i](const Result<bool>& differs) {
          const auto stored = backend_->nodes().Get(node.id);
          if (!differs.ok() || !*differs || !stored.ok() || stored->last_seen < FromUnixMs(i)) ++wrong;
          if (++told == kCalls) all_told.release();
        });
  }
  all_told.acquire();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(backend_->nodes().Get(node.id)->status.agent_version, std::to_string(kCalls));
  store.RecordStatusLater(Id(9), {}, FromUnixMs(1), std::nullopt, [&](const Result<bool>& differs) {
    EXPECT_EQ(ReasonOf(differs.status()), Reason::kNodeUnknown);
    all_told.release();
  });
  all_told.acquire();
}

TEST_P(StoreContract, NonceIsGivenOnceAndOnlyInTime) {
  const Node node = Enrol(1);
  auto& store = backend_->node_status();
  EXPECT_FALSE(store.TakeQuoteNonce(node.id, FromUnixMs(1))->has_value());
  ASSERT_TRUE(
      store.RecordStatus(node.id, {}, FromUnixMs(1), NodeStatusStore::QuoteNonce{{1, 2}, FromUnixMs(100)})
          .ok());
  // A check-in without a nonce leaves the one handed out.
  ASSERT_TRUE(store.RecordStatus(node.id, {}, FromUnixMs(2), std::nullopt).ok());
  EXPECT_EQ(*store.TakeQuoteNonce(node.id, FromUnixMs(99)), (Bytes{1, 2}));
  EXPECT_FALSE(store.TakeQuoteNonce(node.id, FromUnixMs(99))->has_value());
  ASSERT_TRUE(
      store.RecordStatus(node.id, {}, FromUnixMs(1), NodeStatusStore::QuoteNonce{{3}, FromUnixMs(100)}).ok());
  EXPECT_FALSE(store.TakeQuoteNonce(node.id, FromUnixMs(100))->has_value());
  EXPECT_FALSE(store.TakeQuoteNonce(node.id, FromUnixMs(99))->has_value());
}

TEST_P(StoreContract, RolloutComesBack) {
  const Rollout rollout = NewRollout("r1", {1, 2, 3});
  const auto created = backend_->rollouts().Create(rollout);
  ASSERT_TRUE(created.ok()) << Describe(created.status());
  EXPECT_EQ(*created, rollout);
  EXPECT_EQ(*backend_->rollouts().Get("r1"), rollout);
  EXPECT_EQ(*backend_->rollouts().Get("r"), rollout);
  for (const char* unknown : {"", "x", "r11", "r1~"}) {
    EXPECT_EQ(ReasonOf(backend_->rollouts().Get(unknown).status()), Reason::kRolloutUnknown) << unknown;
  }
}

TEST_P(StoreContract, SameRequestKeyGivesTheSameRollout) {
  Rollout rollout = NewRollout("r1", {1});
  rollout.request_key = "key";
  ASSERT_TRUE(backend_->rollouts().Create(rollout).ok());
  Rollout again = NewRollout("r2", {1});
  again.request_key = "key";
  const auto created = backend_->rollouts().Create(again);
  ASSERT_TRUE(created.ok());
  EXPECT_EQ(created->id, "r1");
  EXPECT_EQ(backend_->rollouts().ListNewest(9)->size(), 1u);
}

TEST_P(StoreContract, RequestKeyOfAnotherRolloutIsRefused) {
  Rollout rollout = NewRollout("r1", {1});
  rollout.request_key = "key";
  ASSERT_TRUE(backend_->rollouts().Create(rollout).ok());
  const std::vector<std::function<void(Rollout&)>> changes = {
      [](Rollout& r) { r.channel = "edge"; },       [](Rollout& r) { r.version = "3"; },
      [](Rollout& r) { r.release_id.digest = {}; }, [](Rollout& r) { r.selector = ""; },
      [](Rollout& r) { r.waves[0].size = "50%"; },  [](Rollout& r) { r.waves.pop_back(); },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Rollout other = NewRollout("r2", {1});
    other.request_key = "key";
    changes[i](other);
    EXPECT_EQ(backend_->rollouts().Create(other).status().code(), Code::kAlreadyExists) << i;
  }
  EXPECT_EQ(backend_->rollouts().ListNewest(9)->size(), 1u);
  // The fleet may have grown since.
  Rollout retried = NewRollout("r2", {1, 2});
  retried.request_key = "key";
  EXPECT_EQ(backend_->rollouts().Create(retried)->id, "r1");
}

TEST_P(StoreContract, NodeIsInOneActiveRolloutOfAChannel) {
  const auto first = backend_->rollouts().Create(NewRollout("r1", {1, 2}));
  ASSERT_TRUE(first.ok());
  const auto overlapping = backend_->rollouts().Create(NewRollout("r2", {2, 3}));
  EXPECT_EQ(ReasonOf(overlapping.status()), Reason::kRolloutOverlaps);
  EXPECT_NE(MessageOf(overlapping.status()).find("r1"), std::string::npos);
  EXPECT_TRUE(backend_->rollouts().Create(NewRollout("r3", {3})).ok());
  Rollout ended = *first;
  ended.state = RolloutState::kAborted;
  ASSERT_TRUE(backend_->rollouts().Save(ended, {}).ok());
  EXPECT_TRUE(backend_->rollouts().Create(NewRollout("r4", {2})).ok());
  EXPECT_EQ(backend_->rollouts().ListActive()->size(), 2u);
  EXPECT_EQ(*backend_->rollouts().CountActive(), 2u);
  EXPECT_EQ(backend_->rollouts().ListNewest(9)->size(), 3u);
}

// A node has one desired release, whichever channel it comes from.
TEST_P(StoreContract, NodeIsInOneActiveRolloutOfAllChannels) {
  ASSERT_TRUE(backend_->rollouts().Create(NewRollout("r1", {1, 2})).ok());
  Rollout edge = NewRollout("r2", {2});
  edge.channel = "edge";
  EXPECT_EQ(ReasonOf(backend_->rollouts().Create(edge).status()), Reason::kRolloutOverlaps);
}

TEST_P(StoreContract, RolloutTakesBackOnlyItsOwnOrder) {
  Enrol(1);
  Rollout first = *backend_->rollouts().Create(NewRollout("r1", {1}));
  const Desired of_another{"edge", "2", {Digest(2)}};
  ASSERT_TRUE(backend_->rollouts().Save(first, {{Id(1), of_another}}).ok());
  ++first.revision;
  ASSERT_TRUE(backend_->rollouts().Save(first, {{Id(1), std::nullopt}}).ok());
  EXPECT_EQ(backend_->nodes().Get(Id(1))->desired, of_another);
  ++first.revision;
  const Desired of_another_release{"stable", "2", {Digest(3)}};
  ASSERT_TRUE(backend_->rollouts().Save(first, {{Id(1), of_another_release}}).ok());
  ++first.revision;
  ASSERT_TRUE(backend_->rollouts().Save(first, {{Id(1), std::nullopt}}).ok());
  EXPECT_EQ(backend_->nodes().Get(Id(1))->desired, of_another_release);
}

TEST_P(StoreContract, NewestRolloutsAreListedWithCountsAndWithoutNodes) {
  for (int i = 1; i <= 3; ++i) {
    Rollout rollout = NewRollout("r" + std::to_string(i), {3 * i, 3 * i + 1, 3 * i + 2});
    rollout.created = FromUnixMs(i);
    ASSERT_TRUE(backend_->rollouts().Create(rollout).ok());
  }
  Rollout newest = *backend_->rollouts().Get("r3");
  newest.waves[0].nodes[0].progress = Progress::kDone;
  newest.waves[1].nodes[0].progress = Progress::kFailed;
  newest.waves[1].nodes[1].progress = Progress::kUpdating;
  newest.state = RolloutState::kAborted;
  ASSERT_TRUE(backend_->rollouts().Save(newest, {}).ok());
  ++newest.revision;
  const auto listed = backend_->rollouts().ListNewest(2);
  ASSERT_TRUE(listed.ok()) << Describe(listed.status());
  ASSERT_EQ(listed->size(), 2u);
  const RolloutSummary expected = Summarize(newest);
  EXPECT_EQ(expected.counts, (std::vector<WaveCounts>{{.done = 1}, {.updating = 1, .failed = 1}}));
  EXPECT_EQ((*listed)[0].rollout, expected.rollout);
  EXPECT_EQ((*listed)[0].counts, expected.counts);
  EXPECT_EQ((*listed)[1].rollout.id, "r2");
  EXPECT_EQ((*listed)[1].counts, (std::vector<WaveCounts>{{.waiting = 1}, {.waiting = 2}}));
}

TEST_P(StoreContract, SaveWritesProgressAndDesiredTogether) {
  Enrol(1);
  Rollout rollout = *backend_->rollouts().Create(NewRollout("r1", {1}));
  rollout.state = RolloutState::kHalted;
  rollout.halted_reason = "because";
  rollout.current_wave = 1;
  rollout.waves[0].nodes[0] = {Id(1), Progress::kFailed, "FELL_BACK", "m", true, FromUnixMs(3)};
  const Desired desired{"stable", "2", {Digest(2)}};
  ASSERT_TRUE(backend_->rollouts().Save(rollout, {{Id(1), desired}}).ok());
  Rollout expected = rollout;
  expected.revision = 1;
  EXPECT_EQ(*backend_->rollouts().Get("r1"), expected);
  EXPECT_EQ(backend_->nodes().Get(Id(1))->desired, desired);
  EXPECT_EQ(backend_->node_status().ViewForCheckIn(Id(1))->desired, desired);
  ASSERT_TRUE(backend_->rollouts().Save(expected, {{Id(1), std::nullopt}}).ok());
  EXPECT_FALSE(backend_->nodes().Get(Id(1))->desired);
}

TEST_P(StoreContract, SaveOfAnOldRevisionIsRefusedWhole) {
  Enrol(1);
  const Rollout rollout = *backend_->rollouts().Create(NewRollout("r1", {1}));
  ASSERT_TRUE(backend_->rollouts().Save(rollout, {}).ok());
  EXPECT_EQ(*backend_->rollouts().Revision("r1"), rollout.revision + 1);
  EXPECT_EQ(ReasonOf(backend_->rollouts().Revision("r").status()), Reason::kRolloutUnknown);
  Rollout stale = rollout;
  stale.state = RolloutState::kDone;
  EXPECT_EQ(backend_->rollouts().Save(stale, {{Id(1), Desired{"stable", "2", {Digest(2)}}}}).code(),
            Code::kAborted);
  EXPECT_EQ(backend_->rollouts().Get("r1")->state, RolloutState::kRunning);
  EXPECT_FALSE(backend_->nodes().Get(Id(1))->desired);
}

TEST_P(StoreContract, ReleaseIsImmutable) {
  const ReleaseRecord release{"stable", "1.2", {Digest(1)}, FromUnixMs(5), 77, "{}"};
  ASSERT_TRUE(backend_->releases().Put(release).ok());
  ASSERT_TRUE(backend_->releases().Put(release).ok());
  ReleaseRecord other = release;
  other.release_id = {Digest(2)};
  EXPECT_EQ(backend_->releases().Put(other).code(), Code::kAlreadyExists);
  EXPECT_EQ(*backend_->releases().Get("stable", "1.2"), release);
  EXPECT_EQ(ReasonOf(backend_->releases().Get("beta", "1.2").status()), Reason::kReleaseUnknown);
  other.channel = "beta";
  ASSERT_TRUE(backend_->releases().Put(other).ok());
  EXPECT_EQ(backend_->releases().List("")->size(), 2u);
  EXPECT_EQ(*backend_->releases().List("beta"), std::vector<ReleaseRecord>{other});
}

TEST_P(StoreContract, AllowListFindsWhatWasAdmitted) {
  AdmittedEk ek{Digest(1), {{"site", "lab"}}, "rack 3", "anna", FromUnixMs(1)};
  EXPECT_FALSE(backend_->admission().Find(ek.ek_digest)->has_value());
  ASSERT_TRUE(backend_->admission().Admit(ek).ok());
  EXPECT_EQ(*backend_->admission().Find(ek.ek_digest), ek);
  ek.note = "rack 4";
  ASSERT_TRUE(backend_->admission().Admit(ek).ok());
  EXPECT_EQ((*backend_->admission().Find(ek.ek_digest))->note, "rack 4");
}

TEST_P(StoreContract, EvidenceKeepsEveryQuote) {
  for (int i = 0; i < 3; ++i) {
    Verdict verdict = SomeVerdict();
    verdict.decided = FromUnixMs(i);
    ASSERT_TRUE(backend_->evidence().Append({Id(1), verdict, {1, 2}, {3}, Bytes(70'000, 0xAB)}).ok());
  }
  const auto history = backend_->evidence().History(Id(1), 2);
  ASSERT_TRUE(history.ok()) << Describe(history.status());
  ASSERT_EQ(history->size(), 2u);
  EXPECT_EQ((*history)[0].verdict.decided, FromUnixMs(2));
  EXPECT_EQ((*history)[0].event_log, Bytes(70'000, 0xAB));
  EXPECT_EQ((*history)[0].attest, (Bytes{1, 2}));
  EXPECT_TRUE(backend_->evidence().History(Id(2), 2)->empty());
}

TEST_P(StoreContract, EvidenceKeepsWhatAJudgementNeeds) {
  EvidenceRecord record{.node_id = Id(1),
                        .verdict = SomeVerdict(),
                        .attest = {1, 2},
                        .signature = {3},
                        .event_log = {4},
                        .nonce = {5, 6},
                        .ak_public = {7},
                        .pcrs = {{4, Digest(4)}, {11, Digest(11)}},
                        .any_phase = true,
                        .before = QuoteClock{1, 2, 3, 0xFFFFFFFFFFFFFFFF},
                        .expected = Bytes(100, 'x')};
  record.verdict.notes = {"FIRMWARE_CHANGED"};
  record.verdict.clock = QuoteClock{4, 5, 6, 7};
  ASSERT_TRUE(backend_->evidence().Append(record).ok());
  const auto newest = backend_->evidence().History(Id(1), 1);
  ASSERT_EQ(newest->size(), 1u);
  const auto read = backend_->evidence().Get(Id(1), newest->front().sequence);
  ASSERT_TRUE(read.ok()) << Describe(read.status());
  EXPECT_EQ(read->verdict, record.verdict);
  EXPECT_EQ(read->nonce, record.nonce);
  EXPECT_EQ(read->ak_public, record.ak_public);
  EXPECT_EQ(read->pcrs, record.pcrs);
  EXPECT_EQ(read->any_phase, true);
  EXPECT_EQ(read->before, record.before);
  EXPECT_EQ(read->expected, record.expected);
  EXPECT_EQ(ReasonIdOf(backend_->evidence().Get(Id(2), read->sequence).status()), "EVIDENCE_INVALID");
}

TEST_P(StoreContract, AuditIsOrderedAndPaged) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(backend_->audit().Append({0, FromUnixMs(i), "anna", "operator", "/x/Y", "r", "OK"}).ok());
  }
  const auto first = backend_->audit().List(0, 3);
  ASSERT_TRUE(first.ok());
  ASSERT_EQ(first->size(), 3u);
  EXPECT_EQ((*first)[0].at, FromUnixMs(0));
  const auto rest = backend_->audit().List(first->back().sequence, 10);
  ASSERT_EQ(rest->size(), 2u);
  EXPECT_GT((*rest)[0].sequence, first->back().sequence);
  EXPECT_EQ((*rest)[1].at, FromUnixMs(4));
}

TEST_P(StoreContract, RevokedStaysRevoked) {
  auto& store = backend_->certificates();
  EXPECT_FALSE(*store.IsRevoked(Digest(1)));
  ASSERT_TRUE(store.RecordIssued({Digest(1), "sealift:node:x", FromUnixMs(1), FromUnixMs(2)}).ok());
  EXPECT_FALSE(*store.IsRevoked(Digest(1)));
  ASSERT_TRUE(store.Revoke(Digest(1), "lost", FromUnixMs(3)).ok());
  ASSERT_TRUE(store.Revoke(Digest(1), "again", FromUnixMs(4)).ok());
  EXPECT_TRUE(*store.IsRevoked(Digest(1)));
  EXPECT_FALSE(*store.IsRevoked(Digest(2)));
  ASSERT_TRUE(store.RecordIssued({Digest(1), "sealift:node:x", FromUnixMs(1), FromUnixMs(2)}).ok());
  EXPECT_TRUE(*store.IsRevoked(Digest(1)));
}

TEST_P(StoreContract, ManyThreadsLoseNothing) {
  constexpr int kThreads = 8;
  constexpr int kEach = 40;
  for (int t = 0; t < kThreads; ++t) Enrol(t);
  std::atomic<int> failed = 0;
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        NodeStatus status;
        status.agent_version = std::to_string(i);
        const bool good =
            backend_->node_status().RecordStatus(Id(t), status, FromUnixMs(i), std::nullopt).ok() &&
            backend_->audit().Append({0, FromUnixMs(i), "t", "r", "x", std::to_string(t), "OK"}).ok() &&
            // Work that fails takes nobody of its batch with it.
            !backend_->nodes().SetLabels(Id(1000), {}).ok() &&
            backend_->nodes().Get(Id(t))->status.agent_version == std::to_string(i);
        if (!good) ++failed;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(backend_->audit().List(0, 10'000)->size(), std::size_t{kThreads * kEach});
}

}  // namespace sealift::controller
