// What every implementation of the admission stores must do; used as store_contract.h is.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "controller/fleet/admission.h"
#include "shared/crypto/hash.h"

namespace sealift::controller {

// Owns the stores and whatever is behind them, empty at first.
class AdmissionBackend {
 public:
  virtual ~AdmissionBackend() = default;
  virtual NodeStore& nodes() = 0;
  virtual AdmissionStore& admission() = 0;
  virtual CertificateStore& certificates() = 0;
  virtual InventoryStore& inventory() = 0;
  virtual JoinTokenStore& join_tokens() = 0;
  virtual RefusalStore& refusals() = 0;
  virtual QuoteClockStore& quote_clocks() = 0;
};

using AdmissionBackendFactory = std::unique_ptr<AdmissionBackend> (*)();

class AdmissionContract : public ::testing::TestWithParam<AdmissionBackendFactory> {
 protected:
  void SetUp() override {
    backend_ = GetParam()();
    ASSERT_NE(backend_, nullptr);
  }
  static NodeId Id(int number) {
    return NodeId::Parse(fmt::format("01890000-0000-7000-8000-{:012}", number)).value();
  }
  static Sha256Digest Key(int number) {
    Sha256Digest digest;
    digest.bytes[0] = static_cast<std::uint8_t>(number >> 8);
    digest.bytes[1] = static_cast<std::uint8_t>(number);
    return digest;
  }
  static InventoryEntry Entry(int number, const std::string& serial) {
    return {.ek = {.ek_digest = Key(number),
                   .labels = {{"rack", std::to_string(number)}},
                   .note = "",
                   .admitted_by = "anna",
                   .at = FromUnixMs(5)},
            .serial = serial,
            .node_id = std::nullopt};
  }
  void Enrol(int number, Admission admission) {
    Node node{.id = Id(number), .ek_digest = Key(number), .ak_public = {1}};
    node.admission = admission;
    node.certificate_not_after = FromUnixMs(9000);
    ASSERT_TRUE(backend_->nodes().Enrol(node).ok());
  }
  JoinToken Token(std::uint32_t uses) {
    JoinToken token{.id = "t1",
                    .hash = Sha256(AsBytes("secret")),
                    .uses = uses,
                    .created = FromUnixMs(100),
                    .expires = FromUnixMs(1000),
                    .created_by = "anna",
                    .note = "lab",
                    .labels = {{"site", "lab"}}};
    EXPECT_TRUE(backend_->join_tokens().Create(token).ok());
    return token;
  }
  Result<JoinToken> Redeem(const JoinToken& token, int key, std::int64_t at = 500) {
    return backend_->join_tokens().Redeem(token.hash, Key(key), FromUnixMs(at));
  }

  std::unique_ptr<AdmissionBackend> backend_;
};

TEST_P(AdmissionContract, AnInventoryIsListedAndItsMachinesMayEnrol) {
  const auto change = backend_->inventory().Import({Entry(2, "S2"), Entry(1, "S1")});
  ASSERT_TRUE(change.ok()) << Describe(change.status());
  EXPECT_EQ(change->added, 2u);
  EXPECT_EQ(change->replaced, 0u);
  const auto again = backend_->inventory().Import({Entry(2, "S2b"), Entry(3, "S3")});
  EXPECT_EQ(again->added, 1u);
  EXPECT_EQ(again->replaced, 1u);
  EXPECT_EQ(backend_->admission().Find(Key(1))->value().labels.at("rack"), "1");
  Enrol(1, Admission::kAdmitted);

  const auto all = backend_->inventory().List({});
  ASSERT_EQ(all->size(), 3u);
  InventoryEntry first = Entry(1, "S1");
  first.node_id = Id(1);
  EXPECT_EQ(all->at(0), first);
  EXPECT_EQ(all->at(1), Entry(2, "S2b"));
  const auto missing = backend_->inventory().List({.after = Key(2), .not_enrolled = true});
  ASSERT_EQ(missing->size(), 1u);
  EXPECT_EQ(missing->front().serial, "S3");
  EXPECT_EQ(backend_->inventory().List({.limit = 2})->size(), 2u);
}

TEST_P(AdmissionContract, AListedKeyIsWithdrawnUntilItsMachineEnrolled) {
  ASSERT_TRUE(backend_->inventory().Import({Entry(1, ""), Entry(2, ""), Entry(3, "")}).ok());
  Enrol(2, Admission::kAdmitted);
  Enrol(3, Admission::kPending);
  EXPECT_TRUE(backend_->inventory().Withdraw(Key(1)).ok());
  EXPECT_FALSE(backend_->admission().Find(Key(1))->has_value());
  EXPECT_EQ(ReasonOf(backend_->inventory().Withdraw(Key(1))), Reason::kEkNotListed);
  EXPECT_EQ(ReasonOf(backend_->inventory().Withdraw(Key(2))), Reason::kEkClaimed);
  EXPECT_TRUE(backend_->admission().Find(Key(2))->has_value());
  EXPECT_TRUE(backend_->inventory().Withdraw(Key(3)).ok());
}

TEST_P(AdmissionContract, ATokenLetsSoManyMachinesInAndNoMore) {
  const JoinToken token = Token(2);
  const auto first = Redeem(token, 1);
  ASSERT_TRUE(first.ok()) << Describe(first.status());
  EXPECT_EQ(first->labels, token.labels);
  EXPECT_EQ(first->used, 1u);
  // The same machine after a broken exchange.
  EXPECT_EQ(Redeem(token, 1)->used, 1u);
  EXPECT_EQ(Redeem(token, 2)->used, 2u);
  EXPECT_EQ(ReasonOf(Redeem(token, 3).status()), Reason::kJoinTokenUnusable);
  EXPECT_TRUE(Redeem(token, 2).ok());
  EXPECT_EQ(backend_->join_tokens().List(10)->front().used, 2u);
}

TEST_P(AdmissionContract, ATokenEndsWithItsTimeOrByAnOperator) {
  const JoinToken token = Token(10);
  EXPECT_TRUE(Redeem(token, 1, 999).ok());
  EXPECT_EQ(ReasonOf(Redeem(token, 2, 1000).status()), Reason::kJoinTokenUnusable);
  EXPECT_EQ(ReasonOf(Redeem(token, 1, 1000).status()), Reason::kJoinTokenUnusable);
  EXPECT_TRUE(backend_->join_tokens().Revoke("t1")->revoked);
  EXPECT_EQ(ReasonOf(Redeem(token, 2).status()), Reason::kJoinTokenUnusable);
  EXPECT_EQ(ReasonOf(backend_->join_tokens().Revoke("t2").status()), Reason::kJoinTokenUnusable);
  JoinToken unknown = token;
  unknown.hash = Sha256(AsBytes("guess"));
  EXPECT_EQ(ReasonOf(Redeem(unknown, 2).status()), Reason::kJoinTokenUnusable);
}

TEST_P(AdmissionContract, MachinesThatRaceForATokenGetItsUsesOnly) {
  const JoinToken token = Token(7);
  std::atomic<int> in = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 4; ++i) {
          if (Redeem(token, 10 * t + i).ok()) ++in;
        }
      });
    }
  }
  EXPECT_EQ(in, 7);
  EXPECT_EQ(backend_->join_tokens().List(1)->front().used, 7u);
}

TEST_P(AdmissionContract, RefusalsCountAndAreTheNewestFirst) {
  Enrol(1, Admission::kAdmitted);
  const auto record = [&](int key, const std::string& reason, std::int64_t at) {
    ASSERT_TRUE(backend_->refusals()
                    .Record({.ek_digest = Key(key),
                             .node_id = std::nullopt,
                             .reason = reason,
                             .message = "why",
                             .origin = "192.0.2." + std::to_string(at),
                             .last = FromUnixMs(at)})
                    .ok());
  };
  record(1, "EK_CLAIMED", 1);
  record(2, "EK_NOT_LISTED", 2);
  record(1, "EK_CLAIMED", 3);
  const auto all = backend_->refusals().List(std::nullopt, 10);
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ(all->front(), (Refusal{.ek_digest = Key(1),
                                   .node_id = Id(1),
                                   .reason = "EK_CLAIMED",
                                   .message = "why",
                                   .origin = "192.0.2.3",
                                   .count = 2,
                                   .first = FromUnixMs(1),
                                   .last = FromUnixMs(3)}));
  EXPECT_EQ(backend_->refusals().List(Id(1), 10)->size(), 1u);
  EXPECT_EQ(backend_->refusals().List(Id(2), 10)->size(), 0u);
  EXPECT_EQ(backend_->refusals().List(std::nullopt, 1)->size(), 1u);
}

TEST_P(AdmissionContract, ATpmsTimeRunsForward) {
  Enrol(1, Admission::kAdmitted);
  const auto advance = [&](std::uint32_t reset, std::uint32_t restart, std::uint64_t clock,
                           Bytes signer = {1}) {
    const Status status = backend_->quote_clocks().Advance(
        Id(1),
        {.signer = std::move(signer),
         .clock = {
             .clock_ms = clock, .reset_count = reset, .restart_count = restart, .firmware_version = 7}});
    return status.ok() ? std::string("ok") : ReasonIdOf(status);
  };
  EXPECT_EQ(backend_->quote_clocks().Newest(Id(1)).value(), std::nullopt);
  EXPECT_EQ(advance(5, 2, 1000), "ok");
  EXPECT_EQ(advance(5, 2, 1000), "ok");
  EXPECT_EQ(backend_->quote_clocks().Newest(Id(1)).value(),
            (SignerClock{.signer = {1}, .clock = {1000, 5, 2, 7}}));
  EXPECT_EQ(advance(5, 2, 999), "QUOTE_CLOCK_BACKWARDS");
  EXPECT_EQ(advance(5, 1, 2000), "QUOTE_CLOCK_BACKWARDS");
  EXPECT_EQ(advance(4, 9, 9000), "QUOTE_CLOCK_BACKWARDS");
  // An unclean power cut takes a little of the clock with it.
  EXPECT_EQ(advance(6, 0, 900), "ok");
  EXPECT_EQ(advance(5, 2, 1001), "QUOTE_CLOCK_BACKWARDS");
  EXPECT_EQ(advance(6, 1, 900), "ok");
  // Counters wrap.
  EXPECT_EQ(advance(0x80000005, 0, 1), "ok");
  EXPECT_EQ(advance(2, 0, 1), "ok");
  EXPECT_EQ(advance(0x80000005, 0, 2), "QUOTE_CLOCK_BACKWARDS");
  // Another TPM; and an operator who knows that this one was cleared.
  EXPECT_EQ(advance(1, 0, 1, {2}), "ok");
  EXPECT_EQ(advance(0, 0, 1, {2}), "QUOTE_CLOCK_BACKWARDS");
  ASSERT_TRUE(backend_->inventory().ReplaceEk(Id(1), Key(1), FromUnixMs(1)).ok());
  EXPECT_EQ(advance(0, 0, 1, {2}), "ok");
}

TEST_P(AdmissionContract, AReplacedBoardKeepsTheNodeAndEndsItsCertificates) {
  Enrol(1, Admission::kAdmitted);
  Enrol(2, Admission::kAdmitted);
  Enrol(3, Admission::kPending);
  for (const int key : {11, 12, 13}) {
    ASSERT_TRUE(backend_->certificates()
                    .RecordIssued({.sha256 = Key(key),
                                   .subject = Id(key == 13 ? 2 : 1).SubjectUri(),
                                   .issued = FromUnixMs(1),
                                   .not_after = FromUnixMs(key == 12 ? 50 : 9000)})
                    .ok());
  }
  EXPECT_EQ(ReasonOf(backend_->inventory().ReplaceEk(Id(9), Key(9), FromUnixMs(100))), Reason::kNodeUnknown);
  EXPECT_EQ(ReasonOf(backend_->inventory().ReplaceEk(Id(1), Key(2), FromUnixMs(100))), Reason::kEkClaimed);
  // The new board has asked already, and waits as a node of its own.
  const Status replaced = backend_->inventory().ReplaceEk(Id(1), Key(3), FromUnixMs(100));
  ASSERT_TRUE(replaced.ok()) << Describe(replaced);
  const Node node = backend_->nodes().Get(Id(1)).value();
  EXPECT_EQ(node.ek_digest, Key(3));
  EXPECT_TRUE(node.ak_public.empty());
  EXPECT_EQ(node.certificate_not_after, UnixMillis());
  EXPECT_EQ(node.admission, Admission::kAdmitted);
  EXPECT_EQ(ReasonOf(backend_->nodes().Get(Id(3)).status()), Reason::kNodeUnknown);
  EXPECT_FALSE(backend_->nodes().FindByEk(Key(1))->has_value());
  EXPECT_TRUE(*backend_->certificates().IsRevoked(Key(11)));
  EXPECT_FALSE(*backend_->certificates().IsRevoked(Key(12))) << "it had run out";
  EXPECT_FALSE(*backend_->certificates().IsRevoked(Key(13))) << "another node's";
}

}  // namespace sealift::controller
