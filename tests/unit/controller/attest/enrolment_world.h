// An enrolment with its real stores, and one honest machine whose TPM is a program: every word of an exchange
// can be changed on the way.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "controller/attest/enrolment.h"
#include "controller/store/sqlite_stores.h"
#include "shared/base/files.h"
#include "shared/crypto/key_reference.h"
#include "tests/support/measured_boot.h"
#include "tests/support/software_machine.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {

class TestIssuer final : public NodeCertificateIssuer {
 public:
  explicit TestIssuer(const Clock& clock) : clock_(clock) {}
  Result<IssuedNodeCertificate> IssueNodeCertificate(const NodeId&, const PublicKey& tls_key) override {
    ++issued;
    // Its key is what counts here.
    return IssuedNodeCertificate{.chain = {tls_key.spki_der()}, .not_after = clock_.Now()};
  }
  int issued = 0;

 private:
  const Clock& clock_;
};

class EnrolmentWorld {
 protected:
  using Spoil = std::function<void(EnrolmentOffer&)>;
  using SpoilProof = std::function<void(EnrolmentProof&)>;

  explicit EnrolmentWorld(KeyType ek_type, const AttestationPolicy& policy = {})
      : machine_(maker_, ek_type),
        enforcer_(policy, {.store = stores_->policy(),
                           .audit = stores_->audit(),
                           .engine = engine_,
                           .clock = clock_,
                           .count = [this](std::string_view act) { acts_.emplace_back(act); }}) {}
  // A release is published, and the machine is listed.
  bool Prepare() {
    const std::string json = SerializeManifest(boot_.manifest);
    return InstallKeyProvider().ok() &&
           stores_->releases()
               .Put({.channel = boot_.manifest.channel,
                     .version = boot_.manifest.version,
                     .release_id = ReleaseIdOf(json),
                     .published = FromUnixMs(1),
                     .total_bytes = 1,
                     .manifest_json = json})
               .ok() &&
           stores_->admission()
               .Admit({.ek_digest = machine_.EkDigest(), .admitted_by = "op", .at = clock_.Now()})
               .ok();
  }
  EnrolmentOffer Offer() const {
    EnrolmentOffer offer;
    offer.ek_certificate_chain = machine_.certificates();
    offer.ek_public = machine_.EkPublic();
    offer.ak_public = machine_.AkPublic();
    offer.tls_public = machine_.TlsPublic();
    offer.origin = "192.0.2.1";
    return offer;
  }
  // One exchange in which an honest machine's words are changed on the way. "issued", "pending REASON", or
  // the reason of the refusal.
  std::string Enrol(const Spoil& spoil, const SpoilProof& spoil_proof) {
    EnrolmentOffer offer = Offer();
    if (spoil) spoil(offer);
    const auto challenge = enrolment_.Begin(offer);
    if (!challenge.ok()) return ReasonIdOf(challenge.status());
    const auto certified = machine_.Certify(machine_.TlsPublic(), challenge->nonce);
    const auto secret = machine_.Activate(challenge->credential_blob, challenge->encrypted_secret);
    EnrolmentProof proof{
        .session = challenge->session,
        .activated_secret = SecretBytes(secret.value_or(Bytes())),
        .certify_attest = certified.attest,
        .certify_signature = certified.signature,
        .csr = CreateCertificateRequest("node", {}, machine_.tls_key(), "test").value(),
        .evidence = {.quote = machine_.Quote(boot_.pcrs, challenge->nonce), .event_log = log_}};
    if (spoil_proof) spoil_proof(proof);
    const auto answer = enrolment_.Complete(proof);
    if (!answer.ok()) return ReasonIdOf(answer.status());
    if (answer->state == EnrolmentState::kIssued) return "issued";
    EXPECT_THAT(answer->certificate_chain, ::testing::IsEmpty());
    return (answer->state == EnrolmentState::kPending ? "pending " : "") + answer->reason;
  }

  const test::MeasuredBoot boot_ = test::MeasuredBoot::Load();
  const Bytes log_ = test::FixtureEventLog();
  const TempDir folder_ = TempDir::Create("sealift-enrolment-fields").value();
  FakeClock clock_{SystemClock().Now()};
  const test::TpmMaker maker_{"maker"};
  test::SoftwareMachine machine_;
  std::unique_ptr<SqliteStores> stores_ = SqliteStores::Open(folder_.path()).value();
  TestIssuer issuer_{clock_};
  ReleaseExpectations expectations_{stores_->releases(), boot_.keys};
  std::unique_ptr<EnrolmentSessions> sessions_ = MakeMemoryEnrolmentSessions();
  FirmwareJudge firmware_{stores_->baselines(), BaselineRules{}};
  RolloutEngine engine_{stores_->nodes(), stores_->rollouts(), clock_};
  // What the policy did.
  std::vector<std::string> acts_;
  PolicyEnforcer enforcer_;
  Enrolment enrolment_{EnrolmentParts{.nodes = stores_->nodes(),
                                      .node_status = stores_->node_status(),
                                      .admission = stores_->admission(),
                                      .evidence = stores_->evidence(),
                                      .certificates = stores_->certificates(),
                                      .join_tokens = stores_->join_tokens(),
                                      .refusals = stores_->refusals(),
                                      .quote_clocks = stores_->quote_clocks(),
                                      .sessions = *sessions_,
                                      .expectations = expectations_,
                                      .issuer = issuer_,
                                      .clock = clock_,
                                      .firmware = &firmware_,
                                      .enforcer = &enforcer_},
                       TpmMakers{.anchors = {MakerCertificate::FromDer(maker_.root_der()).value()}},
                       // The store of refusals would take most of the time.
                       EnrolmentOptions{.policy = DefaultAdmissionPolicy(true),
                                        .rate = {.burst = 1'000'000},
                                        .recorded_refusals = {.burst = 3, .refill = std::chrono::hours(1)}}};
};

}  // namespace sealift::controller
