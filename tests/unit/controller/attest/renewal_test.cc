// What the policy does about a known node that comes for its next certificate.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controller/attest/evidence_file.h"
#include "shared/base/log.h"
#include "shared/tpm/counter.h"
#include "tests/unit/controller/attest/enrolment_world.h"

namespace sealift::controller {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

AttestationPolicy Denying() {
  AttestationPolicy policy;
  policy.on_untrusted.deny_renewal = true;
  return policy;
}

class RenewalTest : public ::testing::Test, protected EnrolmentWorld {
 protected:
  explicit RenewalTest(const AttestationPolicy& policy = Denying())
      : EnrolmentWorld(KeyType::kEcP256, policy) {}
  void SetUp() override {
    log::SetLevel(log::Level::kError);
    ASSERT_TRUE(Prepare());
    ASSERT_EQ(Enrol(nullptr, nullptr), "issued");
    id_ = stores_->nodes().FindByEk(machine_.EkDigest())->value().id;
  }
  void TearDown() override { log::SetLevel(log::Level::kInfo); }

  Node Known() { return stores_->nodes().Get(*id_).value(); }
  // TPM2_NV_Certify of the epoch's counter by the machine's attestation key (Part 2, 10.12.9).
  CounterEvidence Certified(ByteView nonce, std::uint64_t counter, std::uint64_t base = 100) {
    test::AttestFields head{.type = tpm::kStAttestCertify, .extra_data = ToBytes(nonce)};
    // The certification's own part is cut off and the counter's put in its place.
    head.name.clear();
    head.qualified_name.clear();
    Bytes attest = head.Encode();
    attest.resize(attest.size() - 4);
    attest[4] = tpm::kStAttestNv >> 8;
    attest[5] = tpm::kStAttestNv & 0xff;
    ByteWriter tail(ByteWriter::Endian::kBig);
    const Bytes name = tpm::CounterName(kEpochCounterHandle);
    test::WriteSized(tail, name);
    tail.U16(0);
    tail.U16(8);
    tail.U64(counter);
    Append(attest, tail.bytes());
    return {.attest = attest, .signature = test::TpmSign(machine_.ak().key(), attest), .base = base};
  }
  // Renews with the counter at `counter`; nothing: without certifying it.
  std::string Renew(std::optional<std::uint64_t> counter, std::uint64_t base = 100,
                    std::optional<InstallRecord> install = std::nullopt) {
    return Complete([&](EnrolmentProof& proof) {
      proof.install = install;
      const auto quote =
          tpm::ParseAttest(proof.evidence.quote.attest, tpm::kStAttestQuote, tpm::kQuoteReasons);
      if (counter) proof.epoch = Certified(quote->extra_data, *counter, base);
    });
  }
  std::string Complete(const SpoilProof& spoil) { return Enrol(nullptr, spoil); }

  std::optional<NodeId> id_;
};

TEST_F(RenewalTest, AnEpochThatFellDeniesTheCertificate) {
  ASSERT_TRUE(stores_->nodes().RecordEpoch(*id_, {.lowest = 3, .base = 100, .at = clock_.Now()}).ok());
  EXPECT_EQ(Renew(103), "issued");
  EXPECT_EQ(Renew(104), "issued");
  EXPECT_THAT(acts_, IsEmpty());
  EXPECT_EQ(Renew(102), "EPOCH_UNUSABLE") << "a counter that was set back";
  EXPECT_EQ(Renew(203, 200), "EPOCH_UNUSABLE") << "another base without leave";
  EXPECT_THAT(acts_, ElementsAre("alert", "deny-renewal", "deny-renewal")) << "one alert for one verdict";
  EXPECT_EQ(Known().last_verdict->trust, Trust::kUntrusted);
  EXPECT_THAT(Known().last_verdict->reasons, ElementsAre("EPOCH_UNUSABLE"));
  // The evidence of it is kept and leads to that verdict again.
  const auto history = stores_->evidence().History(*id_, 10).value();
  const auto record = stores_->evidence().Get(*id_, history.front().sequence).value();
  EXPECT_THAT(record.verdict.reasons, ElementsAre("EPOCH_UNUSABLE"));
  const auto again = JudgeAgain(record);
  EXPECT_TRUE(again.ok()) << Describe(again.status());
  // And the node comes back by itself once its counter is right.
  EXPECT_EQ(Renew(103), "issued");
  EXPECT_EQ(Known().last_verdict->trust, Trust::kTrusted);
}

TEST_F(RenewalTest, AnImageBelowTheEpochDeniesTheCertificateWhileItIsTheOneThatRuns) {
  NodeStatus status{.state = UpdateState::kIdle};
  status.running.version = "1.0.0";
  status.epoch = EpochStatus{.lowest = 3, .base = 100, .image = 2};
  ASSERT_TRUE(stores_->node_status().RecordStatus(*id_, status, clock_.Now(), std::nullopt).ok());
  EXPECT_EQ(Renew(103), "EPOCH_TOO_LOW");
  EXPECT_EQ(Renew(102), "issued");
  // It ran another image when it said so: of this one it did not speak yet.
  status.running.version = "0.9.0";
  ASSERT_TRUE(stores_->node_status().RecordStatus(*id_, status, clock_.Now(), std::nullopt).ok());
  EXPECT_EQ(Renew(103), "issued");
}

TEST_F(RenewalTest, WhatWasHeldAgainstTheEpochIsNotForgottenForLackOfProof) {
  EXPECT_EQ(Renew(std::nullopt), "issued") << "a machine without a counter";
  Verdict verdict{.trust = Trust::kUntrusted, .reasons = {"EPOCH_TOO_LOW"}};
  ASSERT_TRUE(stores_->node_status().RecordVerdict(*id_, verdict).ok());
  EXPECT_EQ(Renew(std::nullopt), "EPOCH_TOO_LOW");
  verdict.reasons = {"QUOTE_PCR_MISMATCH"};
  ASSERT_TRUE(stores_->node_status().RecordVerdict(*id_, verdict).ok());
  EXPECT_EQ(Renew(std::nullopt), "issued") << "the quote of this exchange says otherwise";
}

TEST_F(RenewalTest, AMachineInstalledAnewCountsFromAnotherBase) {
  ASSERT_TRUE(stores_->nodes().RecordEpoch(*id_, {.lowest = 3, .base = 100, .at = clock_.Now()}).ok());
  const InstallRecord install{.config_digest = {}, .config_source = "image", .version = "1", .installed = {}};
  EXPECT_EQ(Renew(202, 200, install), "EPOCH_UNUSABLE") << "and yet its epoch does not fall";
  EXPECT_EQ(Renew(203, 200, install), "issued");
}

// The other machine has the same endorsement key and shows another epoch: that is nothing of the node's.
TEST_F(RenewalTest, AnotherMachineBringsNothingUponTheNode) {
  ASSERT_TRUE(stores_->nodes().RecordEpoch(*id_, {.lowest = 3, .base = 100, .at = clock_.Now()}).ok());
  const Node before = Known();
  machine_ = machine_.Copy();
  EXPECT_THAT(Renew(102), ::testing::AnyOf("EK_CLAIMED", "NODE_KEYS_CHANGED"));
  EXPECT_THAT(acts_, IsEmpty());
  EXPECT_EQ(Known().last_verdict, before.last_verdict);
}

class QuarantiningRenewalTest : public RenewalTest {
 protected:
  static AttestationPolicy Policy() {
    AttestationPolicy policy;
    policy.on_untrusted.quarantine = true;
    policy.quarantine_percent = 100;
    return policy;
  }
  QuarantiningRenewalTest() : RenewalTest(Policy()) {}
};

TEST_F(QuarantiningRenewalTest, AVerdictThatTurnsBadAtARenewalIsActedOn) {
  ASSERT_TRUE(stores_->nodes().RecordEpoch(*id_, {.lowest = 3, .base = 100, .at = clock_.Now()}).ok());
  EXPECT_EQ(Renew(102), "NODE_NOT_ADMITTED");
  EXPECT_THAT(acts_, ElementsAre("alert", "quarantine"));
  EXPECT_EQ(Known().admission, Admission::kQuarantined);
}

}  // namespace
}  // namespace sealift::controller
