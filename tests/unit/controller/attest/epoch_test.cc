#include "controller/attest/epoch.h"

#include <gtest/gtest.h>

#include "controller/fleet/epoch_base.h"
#include "shared/tpm/counter.h"
#include "tests/support/software_tpm.h"

namespace sealift::controller {
namespace {

constexpr std::uint16_t kStAttestNv = 0x8014;

class EpochTest : public testing::Test {
 protected:
  EpochTest() { node_.ak_public = ak_.Public(); }
  // TPM2_NV_Certify of the counter (Part 2, 10.12.9: index name, offset, contents).
  CounterEvidence Certified(std::uint64_t counter, std::uint32_t handle = kEpochCounterHandle) {
    test::AttestFields head{.type = tpm::kStAttestCertify, .extra_data = nonce_};
    // The certification's own part is cut off and the counter's put in its place.
    head.name.clear();
    head.qualified_name.clear();
    Bytes attest = head.Encode();
    attest.resize(attest.size() - 4);
    attest[4] = kStAttestNv >> 8;
    attest[5] = kStAttestNv & 0xff;
    ByteWriter tail(ByteWriter::Endian::kBig);
    const Bytes name = tpm::CounterName(handle);
    tail.U16(static_cast<std::uint16_t>(name.size()));
    tail.Raw(name);
    tail.U16(0);
    tail.U16(8);
    tail.U64(counter);
    Append(attest, tail.bytes());
    return {.attest = attest, .signature = test::TpmSign(ak_.key(), attest), .base = 100};
  }
  EpochJudgement Judge(const std::optional<CounterEvidence>& evidence) {
    return JudgeEpoch(node_, evidence, nonce_, FromUnixMs(5));
  }

  test::SoftwareAk ak_;
  Bytes nonce_ = Bytes(32, 7);
  Node node_{.id = NodeId::Parse("01890000-0000-7000-8000-000000000001").value()};
};

TEST_F(EpochTest, TheFirstCertificationIsKept) {
  const EpochJudgement judged = Judge(Certified(103));
  ASSERT_TRUE(judged.problem.ok()) << Describe(judged.problem);
  EXPECT_EQ(judged.epoch, (CertifiedEpoch{.lowest = 3, .base = 100, .at = FromUnixMs(5)}));
  // A machine that never had a counter has nothing to prove.
  EXPECT_TRUE(Judge(std::nullopt).problem.ok());
}

TEST_F(EpochTest, WhatWasCertifiedOnceMayOnlyGrow) {
  node_.certified_epoch = CertifiedEpoch{.lowest = 3, .base = 100};
  EXPECT_TRUE(Judge(Certified(103)).problem.ok());
  EXPECT_EQ(Judge(Certified(104)).epoch->lowest, 4u);
  EXPECT_EQ(ReasonOf(Judge(Certified(102)).problem), Reason::kEpochUnusable);
  EXPECT_EQ(ReasonOf(Judge(std::nullopt).problem), Reason::kEpochUnusable) << "removed";
  CounterEvidence moved = Certified(200);
  moved.base = 197;
  EXPECT_EQ(ReasonOf(Judge(moved).problem), Reason::kEpochUnusable) << "set up anew";
  EXPECT_FALSE(Judge(moved).epoch);
}

// After a reset or an installation; the epoch does not fall by it all the same.
TEST_F(EpochTest, AnotherBaseIsTakenWithLeaveAndOnce) {
  node_.certified_epoch = CertifiedEpoch{.lowest = 3, .base = kAnyEpochBase};
  CounterEvidence moved = Certified(200);
  moved.base = 198;
  EXPECT_EQ(ReasonOf(Judge(moved).problem), Reason::kEpochUnusable) << "epoch 2";
  moved.base = 197;
  const EpochJudgement judged = Judge(moved);
  ASSERT_TRUE(judged.problem.ok()) << Describe(judged.problem);
  EXPECT_EQ(judged.epoch, (CertifiedEpoch{.lowest = 3, .base = 197, .at = FromUnixMs(5)}));
  node_.certified_epoch = judged.epoch;
  moved.base = 196;
  EXPECT_EQ(ReasonOf(Judge(moved).problem), Reason::kEpochUnusable);
}

TEST_F(EpochTest, ABaseAboveTheCounterIsNoEpoch) {
  EXPECT_EQ(ReasonOf(Judge(Certified(99)).problem), Reason::kEpochUnusable);
}

TEST_F(EpochTest, OnlyTheCounterOfThisTpmUnderThisNonceCounts) {
  EXPECT_EQ(ReasonOf(Judge(Certified(103, 0x01810021)).problem), Reason::kCertifyNameMismatch);
  CounterEvidence stale = Certified(103);
  nonce_[0] ^= 1;
  EXPECT_EQ(ReasonOf(Judge(stale).problem), Reason::kCertifyNonceStale);
  nonce_[0] ^= 1;
  node_.ak_public = test::SoftwareAk().Public();
  EXPECT_EQ(ReasonOf(Judge(Certified(103)).problem), Reason::kCertifySignatureInvalid);
  node_.ak_public = {1, 2};
  EXPECT_FALSE(Judge(Certified(103)).problem.ok());
}

TEST_F(EpochTest, AnImageBelowTheEpochIsTold) {
  node_.status.epoch = EpochStatus{.lowest = 3, .base = 100, .image = 2};
  const EpochJudgement judged = Judge(Certified(103));
  EXPECT_EQ(ReasonOf(judged.problem), Reason::kEpochTooLow);
  EXPECT_EQ(judged.epoch->lowest, 3u) << "the counter itself is good";
}

}  // namespace
}  // namespace sealift::controller
