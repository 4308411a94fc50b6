// The whole enrolment against a real TPM (swtpm with a maker's certificate), the agent's code on its side,
// and the SQLite stores. The TPM's registers are brought to those of a real measured boot.
#include "controller/attest/enrolment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controller/attest/evidence_file.h"
#include "controller/fleet/epoch_base.h"
#include "controller/store/sqlite_stores.h"
#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/tpm/tls_signer.h"
#include "shared/crypto/key_reference.h"
#include "tests/support/measured_boot.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"
#include "tests/support/swtpm.h"

namespace sealift::controller {
namespace {

using test::MeasuredBoot;
using test::ReasonIdFrom;
using test::Swtpm;
using ::testing::ElementsAre;

// A node CA in memory; in the product its key lies in a token.
class TestIssuer final : public NodeCertificateIssuer {
 public:
  explicit TestIssuer(const Clock& clock) : clock_(clock) {
    const CertificateSpec spec{.common_name = "node CA",
                               .ca = true,
                               .not_before = clock.Now(),
                               .not_after = clock.Now() + std::chrono::hours(24 * 365)};
    certificate_ = std::make_unique<Certificate>(IssueSelfSigned(spec, signer_, "test").value());
  }
  Result<IssuedNodeCertificate> IssueNodeCertificate(const NodeId& id, const PublicKey& tls_key) override {
    if (fail_next) {
      fail_next = false;
      return MakeError(Code::kUnavailable, Reason::kTimeout, "sign node certificate: token is away");
    }
    ++issued;
    if (meanwhile) meanwhile(id);
    const CertificateSpec spec{.common_name = id.text(),
                               .uris = {id.SubjectUri()},
                               .client_auth = true,
                               .not_before = clock_.Now(),
                               .not_after = clock_.Now() + std::chrono::hours(24)};
    SEALIFT_ASSIGN_OR_RETURN(const Certificate leaf,
                             IssueCertificate(spec, tls_key, signer_, *certificate_, "test"));
    return IssuedNodeCertificate{.chain = {leaf.der()}, .not_after = leaf.not_after()};
  }
  const Certificate& ca() const { return *certificate_; }
  int issued = 0;
  // What an operator does while the token signs.
  std::function<void(const NodeId&)> meanwhile;
  bool fail_next = false;

 private:
  const Clock& clock_;
  std::shared_ptr<Signer> signer_ = SoftwareSigner::Generate(KeyType::kEcP256).value();
  std::unique_ptr<Certificate> certificate_;
};

class EnrolmentTest : public ::testing::Test {
 protected:
  // Manufacturing a TPM takes a second: one for all tests, each with a controller of its own.
  static void SetUpTestSuite() {
    if (!test::MissingTool({"swtpm", "swtpm_setup", "swtpm_localca", "tpm2_pcrextend"}).empty()) return;
    ::setenv("TSS2_LOG", "all+NONE", 1);
    swtpm_ = Swtpm::Start().release();
    ReplayBoot();
    tpm_ = new std::shared_ptr<agent::Tpm>(agent::OpenEsysTpm({.tcti = swtpm_->tcti()}).value());
  }
  static void TearDownTestSuite() {
    delete tpm_;
    delete swtpm_;
  }

  // Extends the registers as the machine of the log did, up to the running system.
  static void ReplayBoot() {
    std::vector<std::string> argv{"tpm2_pcrextend"};
    const MeasuredBoot boot = MeasuredBoot::Load();
    for (const tpm::Event& event : boot.log.events()) {
      if (event.type != tpm::kEvNoAction) {
        argv.push_back(std::to_string(event.pcr) + ":sha256=" + HexEncode(event.digests.at(tpm::kAlgSha256)));
      }
    }
    for (const char* phase : {"sysinit", "ready"})
      argv.push_back("11:sha256=" + Sha256(AsBytes(phase)).hex());
    swtpm_->Tool(argv);
  }

  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "swtpm_localca", "tpm2_pcrextend");
    ASSERT_TRUE(InstallKeyProvider().ok());
    stores_ = SqliteStores::Open(folder_.path()).value();
    issuer_ = std::make_unique<TestIssuer>(clock_);
    ASSERT_TRUE(stores_->releases().Put(Record(boot_.manifest)).ok());
    expectations_ = std::make_unique<ReleaseExpectations>(stores_->releases(), boot_.keys);
    makers_ = LoadTpmMakers(swtpm_->makers()).value();
    Restart();
  }
  void Restart() {
    firmware_ = std::make_unique<FirmwareJudge>(stores_->baselines(), BaselineRules{});
    engine_ = std::make_unique<RolloutEngine>(stores_->nodes(), stores_->rollouts(), clock_);
    enforcer_ =
        std::make_unique<PolicyEnforcer>(policy_, PolicyEnforcer::Parts{.store = stores_->policy(),
                                                                        .audit = stores_->audit(),
                                                                        .engine = *engine_,
                                                                        .clock = clock_,
                                                                        .count = [](std::string_view) {}});
    enrolment_ = std::make_unique<Enrolment>(EnrolmentParts{.nodes = stores_->nodes(),
                                                            .node_status = stores_->node_status(),
                                                            .admission = stores_->admission(),
                                                            .evidence = stores_->evidence(),
                                                            .certificates = stores_->certificates(),
                                                            .join_tokens = stores_->join_tokens(),
                                                            .refusals = stores_->refusals(),
                                                            .quote_clocks = stores_->quote_clocks(),
                                                            .sessions = *sessions_,
                                                            .expectations = *expectations_,
                                                            .issuer = *issuer_,
                                                            .clock = clock_,
                                                            .firmware = firmware_.get(),
                                                            .enforcer = enforcer_.get()},
                                             makers_, options_);
  }
  static ReleaseRecord Record(const Manifest& manifest) {
    const std::string json = SerializeManifest(manifest);
    return {.channel = manifest.channel,
            .version = manifest.version,
            .release_id = ReleaseIdOf(json),
            .published = FromUnixMs(1),
            .total_bytes = 1,
            .manifest_json = json};
  }

  agent::Tpm& tpm() { return **tpm_; }
  EnrolmentOffer Offer() {
    const agent::TpmKeys keys = tpm().EnsureKeys().value();
    const agent::EndorsementKey ek = tpm().ReadEndorsementKey().value();
    return {.ek_certificate_chain = ek.certificates,
            .ek_public = ek.public_area,
            .ak_public = keys.attestation,
            .tls_public = keys.tls};
  }
  Sha256Digest EkDigest() { return tpm::ParsePublic(Offer().ek_public)->key.key_id(); }
  void AdmitMachine() {
    ASSERT_TRUE(stores_->admission()
                    .Admit({.ek_digest = EkDigest(),
                            .labels = {{"site", "lab"}},
                            .note = "",
                            .admitted_by = "op",
                            .at = clock_.Now()})
                    .ok());
  }
  // What an honest agent answers.
  EnrolmentProof Prove(const EnrolmentChallenge& challenge) {
    const agent::Attestation certified = tpm().CertifyTlsKey(challenge.nonce).value();
    const auto signer = agent::MakeTlsSigner(*tpm_).value();
    return {
        .session = challenge.session,
        .activated_secret =
            tpm().ActivateCredential(challenge.credential_blob, challenge.encrypted_secret).value(),
        .certify_attest = certified.attest,
        .certify_signature = certified.signature,
        .csr = CreateCertificateRequest("node", {}, signer, "test").value(),
        .evidence = {.quote = tpm().Quote(challenge.nonce, agent::kQuotedPcrs).value(), .event_log = log_}};
  }
  Result<EnrolmentAnswer> Enrol() {
    const auto challenge = enrolment_->Begin(Offer());
    if (!challenge.ok()) return challenge.status();
    return enrolment_->Complete(Prove(*challenge));
  }
  // Enrols with one thing wrong; gives the reason of the refusal.
  std::string Reason(const std::function<void(EnrolmentProof&)>& spoil) {
    const auto challenge = enrolment_->Begin(Offer());
    EXPECT_TRUE(challenge.ok()) << Describe(challenge.status());
    EnrolmentProof proof = Prove(*challenge);
    spoil(proof);
    const auto answer = enrolment_->Complete(proof);
    EXPECT_TRUE(answer.ok()) << Describe(answer.status());
    EXPECT_EQ(answer->state, EnrolmentState::kRefused);
    EXPECT_THAT(answer->certificate_chain, ::testing::IsEmpty());
    EXPECT_EQ(issuer_->issued, 0);
    return answer->reason;
  }

  inline static Swtpm* swtpm_ = nullptr;
  inline static std::shared_ptr<agent::Tpm>* tpm_ = nullptr;
  const TempDir folder_ = TempDir::Create("sealift-enrolment").value();
  const MeasuredBoot boot_ = MeasuredBoot::Load();
  const Bytes log_ = test::FixtureEventLog();
  FakeClock clock_{SystemClock().Now()};
  EnrolmentOptions options_{.policy = DefaultAdmissionPolicy(true), .rate = {.burst = 100}};
  std::unique_ptr<SqliteStores> stores_;
  std::unique_ptr<TestIssuer> issuer_;
  std::unique_ptr<ReleaseExpectations> expectations_;
  std::unique_ptr<EnrolmentSessions> sessions_ = MakeMemoryEnrolmentSessions();
  TpmMakers makers_;
  std::unique_ptr<FirmwareJudge> firmware_;
  std::unique_ptr<RolloutEngine> engine_;
  AttestationPolicy policy_;
  std::unique_ptr<PolicyEnforcer> enforcer_;
  std::unique_ptr<Enrolment> enrolment_;
};

// The real TPM's registers hold what OVMF measured; the event log is believed because it leads there.
TEST_F(EnrolmentTest, AKnownNodesFirmwareIsComparedAndThePolicyDeniesItsRenewal) {
  AdmitMachine();
  const NodeId id = *Enrol()->node_id;
  FirmwareMeasurement measured{.registers = {}, .explained = {0, 1, 2, 3}, .log = boot_.log};
  for (const std::uint32_t pcr : kFirmwarePcrs) measured.registers[pcr] = boot_.pcrs.at(pcr);
  const Hardware hardware{.model = {.vendor = "QEMU", .product = "pc"}, .firmware_version = "1"};
  const Baseline baseline = MeasuredBaseline(hardware, measured).value();
  ASSERT_TRUE(stores_->baselines().Record(id, hardware, baseline, clock_.Now()).ok());
  ASSERT_TRUE(stores_->baselines().Approve(baseline.id, "anna", clock_.Now()).ok());
  const auto newest = [&] {
    const auto sequence = stores_->evidence().History(id, 1)->front().sequence;
    return stores_->evidence().Get(id, sequence).value();
  };
  EXPECT_EQ(Enrol()->state, EnrolmentState::kIssued);
  EXPECT_EQ(newest().verdict.findings[0].outcome, "match");
  EXPECT_EQ(newest().verdict.findings[1].outcome, "match");

  // Somebody approves another one instead: this machine shows what it should not.
  Baseline other = baseline;
  other.id = Sha256(AsBytes("other"));
  other.registers[0] = Sha256(AsBytes("other firmware"));
  other.events[0].digest = Sha256(AsBytes("other firmware's first event"));
  const NodeId another = NodeId::Parse("01890000-0000-7000-8000-000000000009").value();
  Node node{.id = another, .ak_public = {1}};
  ASSERT_TRUE(stores_->nodes().Enrol(node).ok());
  ASSERT_TRUE(stores_->baselines().Record(another, hardware, other, clock_.Now()).ok());
  ASSERT_TRUE(stores_->baselines().Approve(other.id, "anna", clock_.Now()).ok());
  ASSERT_TRUE(stores_->baselines().Withdraw(baseline.id).ok());
  // The policy does not deny it yet; the verdict tells.
  EXPECT_EQ(Enrol()->state, EnrolmentState::kIssued);
  const EvidenceRecord record = newest();
  EXPECT_EQ(record.verdict.trust, Trust::kUnknown);
  EXPECT_THAT(record.verdict.reasons, ElementsAre("EVENT_NOT_ALLOWED"));
  EXPECT_THAT(record.verdict.findings[0].first_difference, ::testing::StartsWith("event 1: expected"));
  const auto again = JudgeAgain(record);
  EXPECT_TRUE(again.ok()) << Describe(again.status());
  policy_.on_unknown.deny_renewal = true;
  Restart();
  const auto denied = Enrol();
  EXPECT_EQ(denied->state, EnrolmentState::kRefused);
  EXPECT_EQ(denied->reason, "EVENT_NOT_ALLOWED");
  EXPECT_EQ(stores_->audit().List(0, 10)->back().rpc, "attestation/deny-renewal");
}

TEST_F(EnrolmentTest, AnAdmittedMachineGetsACertificateForItsTpmsKey) {
  AdmitMachine();
  const auto answer = Enrol();
  ASSERT_TRUE(answer.ok()) << Describe(answer.status());
  ASSERT_EQ(answer->state, EnrolmentState::kIssued) << answer->reason << ": " << answer->message;
  const Certificate leaf = Certificate::FromDer(answer->certificate_chain.at(0)).value();
  EXPECT_EQ(leaf.public_key(), tpm::ParsePublic(Offer().tls_public)->key);
  EXPECT_THAT(leaf.uris(), ElementsAre(answer->node_id->SubjectUri()));
  EXPECT_TRUE(VerifyChain(leaf, {}, {issuer_->ca()}, clock_.Now(), CertificatePurpose::kClient).ok());

  const Node node = stores_->nodes().Get(*answer->node_id).value();
  EXPECT_EQ(node.admission, Admission::kAdmitted);
  EXPECT_EQ(node.ek_digest, EkDigest());
  EXPECT_EQ(node.labels.at("site"), "lab");
  EXPECT_EQ(node.ak_public, Offer().ak_public);
  ASSERT_TRUE(node.last_verdict.has_value());
  EXPECT_EQ(node.last_verdict->trust, Trust::kTrusted);
  EXPECT_EQ(node.last_verdict->release_version, "1.0.0");
  EXPECT_EQ(stores_->evidence().History(*answer->node_id, 10)->size(), 1u);
}

TEST_F(EnrolmentTest, AGenuineTpmFromAShopIsPendingUntilSomebodyAdmitsIt) {
  const auto pending = Enrol();
  ASSERT_TRUE(pending.ok()) << Describe(pending.status());
  EXPECT_EQ(pending->state, EnrolmentState::kPending);
  EXPECT_EQ(pending->reason, "EK_NOT_LISTED");
  EXPECT_THAT(pending->certificate_chain, ::testing::IsEmpty());
  EXPECT_EQ(issuer_->issued, 0);
  const auto seen = stores_->nodes().FindByEk(EkDigest()).value();
  ASSERT_TRUE(seen.has_value());
  EXPECT_EQ(seen->admission, Admission::kPending);
  EXPECT_EQ(Enrol()->state, EnrolmentState::kPending);

  AdmitMachine();
  const auto issued = Enrol();
  EXPECT_EQ(issued->state, EnrolmentState::kIssued);
  EXPECT_EQ(issued->node_id, seen->id);
  EXPECT_EQ(stores_->nodes().Get(seen->id)->admission, Admission::kAdmitted);
  EXPECT_EQ(stores_->nodes().Get(seen->id)->labels.at("site"), "lab");
}

TEST_F(EnrolmentTest, AnOperatorMayAdmitThePendingNodeItself) {
  const auto pending = Enrol();
  ASSERT_TRUE(stores_->nodes().SetAdmission(*pending->node_id, Admission::kAdmitted).ok());
  EXPECT_EQ(Enrol()->state, EnrolmentState::kIssued);
}

TEST_F(EnrolmentTest, ARevocationWhileTheTokenSignsIsNotOverwritten) {
  const NodeId id = *Enrol()->node_id;
  AdmitMachine();
  issuer_->meanwhile = [&](const NodeId& node) {
    ASSERT_TRUE(stores_->nodes().SetAdmission(node, Admission::kRevoked).ok());
  };
  const auto answer = Enrol();
  ASSERT_TRUE(answer.ok()) << Describe(answer.status());
  EXPECT_EQ(answer->state, EnrolmentState::kRefused);
  EXPECT_EQ(answer->reason, "NODE_NOT_ADMITTED");
  EXPECT_THAT(answer->certificate_chain, ::testing::IsEmpty());
  EXPECT_EQ(stores_->nodes().Get(id)->admission, Admission::kRevoked);
}

TEST_F(EnrolmentTest, AnAdmissionWhileTheTokenSignsIsNoRefusal) {
  const NodeId id = *Enrol()->node_id;
  AdmitMachine();
  issuer_->meanwhile = [&](const NodeId& node) {
    ASSERT_TRUE(stores_->nodes().SetAdmission(node, Admission::kAdmitted).ok());
    ASSERT_TRUE(stores_->nodes().SetLabels(node, {{"rack", "3"}}).ok());
  };
  EXPECT_EQ(Enrol()->state, EnrolmentState::kIssued);
  EXPECT_EQ(stores_->nodes().Get(id)->labels, (std::map<std::string, std::string>{{"rack", "3"}}));
}

TEST_F(EnrolmentTest, WithoutACertificateOnlyAListedKeyGetsInAndNothingIsRemembered) {
  EnrolmentOffer bare = Offer();
  bare.ek_certificate_chain.clear();
  const auto enrol = [&] { return enrolment_->Complete(Prove(enrolment_->Begin(bare).value())); };
  EXPECT_EQ(enrol()->state, EnrolmentState::kPending);
  EXPECT_FALSE(stores_->nodes().FindByEk(EkDigest())->has_value());
  AdmitMachine();
  EXPECT_EQ(enrol()->state, EnrolmentState::kIssued);
}

TEST_F(EnrolmentTest, AnUnknownMakerIsRefusedAtOnce) {
  makers_ = {};
  makers_.anchors.push_back(issuer_->ca());
  Restart();
  EXPECT_EQ(ReasonIdFrom(enrolment_->Begin(Offer())), "EK_CERTIFICATE_INVALID");
}

// Its certificate then says no more than its key.
TEST_F(EnrolmentTest, WithNoMakersConfiguredOnlyAListedKeyGetsIn) {
  makers_ = {};
  Restart();
  EXPECT_EQ(Enrol()->state, EnrolmentState::kPending);
  EXPECT_FALSE(stores_->nodes().FindByEk(EkDigest())->has_value());
  AdmitMachine();
  EXPECT_EQ(Enrol()->state, EnrolmentState::kIssued);
}

TEST_F(EnrolmentTest, EveryBrokenProofIsRefusedForItsOwnReason) {
  AdmitMachine();
  EXPECT_EQ(Reason([](auto& p) { p.activated_secret = SecretBytes(Bytes(32, 0)); }),
            "CREDENTIAL_NOT_ACTIVATED");
  EXPECT_EQ(Reason([](auto& p) { p.activated_secret = SecretBytes(); }), "CREDENTIAL_NOT_ACTIVATED");
  EXPECT_EQ(Reason([](auto& p) { p.certify_attest.pop_back(); }), "CERTIFY_MALFORMED");
  EXPECT_EQ(Reason([](auto& p) { p.certify_signature.back() ^= 1; }), "CERTIFY_SIGNATURE_INVALID");
  EXPECT_EQ(Reason([&](auto& p) { p.certify_attest = tpm().CertifyTlsKey(Bytes(32, 1))->attest; }),
            "CERTIFY_NONCE_STALE");
  EXPECT_EQ(Reason([](auto& p) { p.csr.back() ^= 1; }), "CSR_INVALID");
  EXPECT_EQ(Reason([](auto& p) {
              const std::shared_ptr<Signer> software = SoftwareSigner::Generate(KeyType::kEcP256).value();
              p.csr = CreateCertificateRequest("node", {}, software, "test").value();
            }),
            "CSR_INVALID");
  EXPECT_EQ(Reason([](auto& p) { p.evidence.quote.signature.back() ^= 1; }), "QUOTE_SIGNATURE_INVALID");
  EXPECT_EQ(
      Reason([&](auto& p) { p.evidence.quote = tpm().Quote(Bytes(32, 1), agent::kQuotedPcrs).value(); }),
      "QUOTE_NONCE_STALE");
  EXPECT_EQ(Reason([](auto& p) { p.evidence.quote.pcrs[4].bytes[0] ^= 1; }), "QUOTE_DIGEST_MISMATCH");
  EXPECT_EQ(Reason([](auto& p) { p.evidence.event_log.pop_back(); }), "EVENT_LOG_MALFORMED");
  const auto unseen = stores_->nodes().FindByEk(EkDigest());
  EXPECT_FALSE(unseen->has_value());
}

TEST_F(EnrolmentTest, AMachineThatBootedSomethingElseGetsNothing) {
  AdmitMachine();
  expectations_.reset();
  const auto other_release = SqliteStores::Open(folder_.path() / "other").value();
  ASSERT_TRUE(other_release->releases().Put(Record(boot_.OtherVersion("2.0.0"))).ok());
  expectations_ = std::make_unique<ReleaseExpectations>(other_release->releases(), boot_.keys);
  Restart();
  EXPECT_EQ(Reason([](auto&) {}), "RELEASE_UNKNOWN");
  KeySet other_keys = boot_.keys;
  other_keys.variables.pk.clear();
  expectations_ = std::make_unique<ReleaseExpectations>(stores_->releases(), other_keys);
  Restart();
  EXPECT_EQ(Reason([](auto&) {}), "QUOTE_PCR_MISMATCH");
}

TEST_F(EnrolmentTest, AnAttestationKeyOfAnotherTpmIsFoundOut) {
  AdmitMachine();
  const auto other = Swtpm::Start({.ek_certificate = false});
  const auto other_tpm = agent::OpenEsysTpm({.tcti = other->tcti()}).value();
  EnrolmentOffer offer = Offer();
  offer.ak_public = other_tpm->EnsureKeys()->attestation;
  const auto challenge = enrolment_->Begin(offer);
  ASSERT_TRUE(challenge.ok());
  // Neither TPM opens it: one lacks the EK, the other the AK.
  EXPECT_FALSE(other_tpm->ActivateCredential(challenge->credential_blob, challenge->encrypted_secret).ok());
  EXPECT_FALSE(tpm().ActivateCredential(challenge->credential_blob, challenge->encrypted_secret).ok());
}

TEST_F(EnrolmentTest, CompleteIsIdempotentAndANonceIsGoodForOneExchange) {
  AdmitMachine();
  const auto challenge = enrolment_->Begin(Offer());
  const EnrolmentProof proof = Prove(*challenge);
  const auto first = enrolment_->Complete(proof);
  const auto again = enrolment_->Complete(proof);
  ASSERT_EQ(first->state, EnrolmentState::kIssued);
  EXPECT_EQ(again->certificate_chain, first->certificate_chain);
  EXPECT_EQ(issuer_->issued, 1);
  // The same proof under another session.
  EnrolmentProof replayed = Prove(*challenge);
  replayed.session = enrolment_->Begin(Offer())->session;
  EXPECT_EQ(enrolment_->Complete(replayed)->reason, "CREDENTIAL_NOT_ACTIVATED");
}

TEST_F(EnrolmentTest, ARefusedSessionStaysRefused) {
  AdmitMachine();
  const auto challenge = enrolment_->Begin(Offer());
  EnrolmentProof wrong = Prove(*challenge);
  wrong.activated_secret = SecretBytes(Bytes(32, 0));
  EXPECT_EQ(enrolment_->Complete(wrong)->reason, "CREDENTIAL_NOT_ACTIVATED");
  EXPECT_EQ(enrolment_->Complete(Prove(*challenge))->reason, "CREDENTIAL_NOT_ACTIVATED");
}

TEST_F(EnrolmentTest, AFailureOfOursLeavesTheSessionOpen) {
  AdmitMachine();
  const auto challenge = enrolment_->Begin(Offer());
  const EnrolmentProof proof = Prove(*challenge);
  issuer_->fail_next = true;
  EXPECT_EQ(enrolment_->Complete(proof).status().code(), Code::kUnavailable);
  EXPECT_EQ(enrolment_->Complete(proof)->state, EnrolmentState::kIssued);
}

TEST_F(EnrolmentTest, SessionsExpire) {
  AdmitMachine();
  const auto challenge = enrolment_->Begin(Offer());
  const EnrolmentProof proof = Prove(*challenge);
  clock_.Advance(std::chrono::minutes(5));
  EXPECT_EQ(ReasonIdFrom(enrolment_->Complete(proof)), "ENROLMENT_SESSION_UNKNOWN");
  EXPECT_EQ(issuer_->issued, 0);
}

TEST_F(EnrolmentTest, AKnownNodeRenewsUnderItsIdAndARevokedOneDoesNot) {
  AdmitMachine();
  const auto first = Enrol();
  clock_.Advance(std::chrono::hours(20));
  const auto renewed = Enrol();
  ASSERT_EQ(renewed->state, EnrolmentState::kIssued);
  EXPECT_EQ(renewed->node_id, first->node_id);
  EXPECT_NE(renewed->certificate_chain, first->certificate_chain);
  for (const Admission out : {Admission::kRevoked, Admission::kQuarantined}) {
    ASSERT_TRUE(stores_->nodes().SetAdmission(*first->node_id, out).ok());
    EXPECT_EQ(Enrol()->reason, "NODE_NOT_ADMITTED");
  }
}

// Its volumes are new, and with them the number that its epoch is counted from.
TEST_F(EnrolmentTest, AMachineThatWasInstalledAnewMayTellAnotherEpochBaseOnce) {
  AdmitMachine();
  const auto enrol = [&](std::int64_t installed) {
    const auto challenge = enrolment_->Begin(Offer());
    EnrolmentProof proof = Prove(*challenge);
    proof.install = InstallRecord{.config_digest = Sha256(AsBytes("config")),
                                  .config_source = "image",
                                  .version = "1.0",
                                  .installed = FromUnixMs(installed)};
    const auto answer = enrolment_->Complete(proof);
    EXPECT_EQ(answer->state, EnrolmentState::kIssued);
    return *answer->node_id;
  };
  const NodeId id = enrol(5);
  const CertifiedEpoch certified{.lowest = 3, .base = 100, .at = FromUnixMs(6)};
  ASSERT_TRUE(stores_->nodes().RecordEpoch(id, certified).ok());
  EXPECT_EQ(enrol(5), id);
  EXPECT_EQ(stores_->nodes().Get(id)->certified_epoch, certified) << "a renewal";
  EXPECT_EQ(enrol(7), id);
  const auto after = stores_->nodes().Get(id)->certified_epoch;
  ASSERT_TRUE(after);
  EXPECT_EQ(after->base, kAnyEpochBase);
  EXPECT_EQ(after->lowest, 3u);
}

TEST_F(EnrolmentTest, AKnownNodeWithAnotherAttestationKeyIsForAnOperator) {
  test::SoftwareAk earlier;
  Node node{.id = NodeId::Parse(MakeUuidV7(clock_.Now(), Bytes(10, 1))).value()};
  node.ek_digest = EkDigest();
  node.ak_public = earlier.Public();
  node.admission = Admission::kAdmitted;
  ASSERT_TRUE(stores_->nodes().Enrol(node).ok());
  AdmitMachine();
  EXPECT_EQ(Reason([](auto&) {}), "NODE_KEYS_CHANGED");
}

TEST_F(EnrolmentTest, AJoinTokenLetsAGenuineMachineInOnce) {
  const NewJoinToken token = MakeJoinToken();
  ASSERT_TRUE(stores_->join_tokens()
                  .Create({.id = token.id,
                           .hash = token.hash,
                           .uses = 1,
                           .created = clock_.Now(),
                           .expires = clock_.Now() + std::chrono::hours(1),
                           .created_by = "op",
                           .note = "",
                           .labels = {{"site", "field"}}})
                  .ok());
  const auto enrol_with = [&](std::string_view text, bool certificate = true) {
    EnrolmentOffer offer = Offer();
    offer.join_token = SecretBytes(AsBytes(text));
    if (!certificate) offer.ek_certificate_chain.clear();
    return enrolment_->Complete(Prove(enrolment_->Begin(offer).value()));
  };
  // Not to a program that calls itself a TPM, not for another word.
  EXPECT_EQ(enrol_with(token.secret, false)->reason, "JOIN_TOKEN_UNUSABLE");
  for (const std::string& wrong : {std::string("guess"), MakeJoinToken().secret}) {
    const auto pending = enrol_with(wrong);
    EXPECT_EQ(pending->state, EnrolmentState::kPending);
    EXPECT_EQ(pending->reason, "JOIN_TOKEN_UNUSABLE");
  }
  EXPECT_EQ(stores_->join_tokens().List(1)->front().used, 0u);

  const auto issued = enrol_with(token.secret);
  ASSERT_EQ(issued->state, EnrolmentState::kIssued) << issued->reason;
  EXPECT_EQ(stores_->nodes().Get(*issued->node_id)->labels.at("site"), "field");
  EXPECT_EQ(stores_->join_tokens().List(1)->front().used, 1u);
  // It is a node now and needs no token any more.
  EXPECT_EQ(Enrol()->state, EnrolmentState::kIssued);
}

TEST_F(EnrolmentTest, APolicyThatDoesNotAskForTokensOrApprovalTakesNone) {
  const NewJoinToken token = MakeJoinToken();
  ASSERT_TRUE(stores_->join_tokens()
                  .Create({.id = token.id,
                           .hash = token.hash,
                           .uses = 1,
                           .created = clock_.Now(),
                           .expires = clock_.Now() + std::chrono::hours(1)})
                  .ok());
  options_.policy = {.ek_list = true, .join_token = false, .approval = false};
  Restart();
  EnrolmentOffer offer = Offer();
  offer.join_token = SecretBytes(AsBytes(token.secret));
  const auto held = enrolment_->Complete(Prove(enrolment_->Begin(offer).value()));
  EXPECT_EQ(held->reason, "EK_NOT_LISTED");
  EXPECT_FALSE(stores_->nodes().FindByEk(EkDigest())->has_value()) << "nobody could approve it";
  options_.policy = {.ek_list = false, .join_token = true, .approval = false};
  Restart();
  AdmitMachine();
  EXPECT_EQ(Enrol()->reason, "EK_NOT_LISTED");
}

TEST_F(EnrolmentTest, OperatorsSeeWhoWasRefusedAndWhy) {
  AdmitMachine();
  ASSERT_EQ(Enrol()->state, EnrolmentState::kIssued);
  issuer_->issued = 0;
  EXPECT_EQ(Reason([](auto& p) { p.evidence.quote.signature.back() ^= 1; }), "QUOTE_SIGNATURE_INVALID");
  EXPECT_EQ(Reason([](auto& p) { p.evidence.quote.signature.back() ^= 1; }), "QUOTE_SIGNATURE_INVALID");
  EnrolmentOffer other_key = Offer();
  other_key.ek_certificate_chain = {issuer_->ca().der()};
  other_key.origin = "192.0.2.7";
  EXPECT_EQ(ReasonIdFrom(enrolment_->Begin(other_key)), "EK_CERTIFICATE_MISMATCH");
  const auto refusals = stores_->refusals().List(std::nullopt, 10).value();
  ASSERT_EQ(refusals.size(), 2u);
  EXPECT_EQ(refusals[0].reason, "EK_CERTIFICATE_MISMATCH");
  EXPECT_EQ(refusals[0].origin, "192.0.2.7");
  EXPECT_EQ(refusals[1].reason, "QUOTE_SIGNATURE_INVALID");
  EXPECT_EQ(refusals[1].count, 2u);
  EXPECT_EQ(refusals[1].node_id, stores_->nodes().FindByEk(EkDigest())->value().id);
}

TEST_F(EnrolmentTest, TwoMachinesThatHoldOneKeyAreTold) {
  test::SoftwareAk earlier;
  Node node{.id = NodeId::Parse(MakeUuidV7(clock_.Now(), Bytes(10, 1))).value()};
  node.ek_digest = EkDigest();
  node.ak_public = earlier.Public();
  node.admission = Admission::kAdmitted;
  node.certificate_not_after = clock_.Now() + std::chrono::hours(1);
  ASSERT_TRUE(stores_->nodes().Enrol(node).ok());
  EXPECT_EQ(Reason([](auto&) {}), "EK_CLAIMED");
  clock_.Advance(std::chrono::hours(2));
  EXPECT_EQ(Reason([](auto&) {}), "NODE_KEYS_CHANGED");
}

TEST_F(EnrolmentTest, AnotherBoardGoesOnUnderTheIdOnlyByAnOperator) {
  AdmitMachine();
  const NodeId board = *Enrol()->node_id;
  // The node whose board this machine's replaces.
  Node node{.id = NodeId::Parse(MakeUuidV7(clock_.Now(), Bytes(10, 1))).value()};
  node.ek_digest.bytes[0] = 1;
  node.ak_public = test::SoftwareAk().Public();
  node.admission = Admission::kAdmitted;
  node.labels = {{"rack", "9"}};
  ASSERT_TRUE(stores_->nodes().Enrol(node).ok());
  EXPECT_EQ(ReasonOf(stores_->inventory().ReplaceEk(node.id, EkDigest(), clock_.Now())), Reason::kEkClaimed);
  ASSERT_TRUE(stores_->nodes().SetAdmission(board, Admission::kPending).ok());
  ASSERT_TRUE(stores_->inventory().ReplaceEk(node.id, EkDigest(), clock_.Now()).ok());
  const auto answer = Enrol();
  ASSERT_EQ(answer->state, EnrolmentState::kIssued) << answer->reason;
  EXPECT_EQ(answer->node_id, node.id);
  EXPECT_EQ(stores_->nodes().Get(node.id)->labels.at("rack"), "9");
  EXPECT_EQ(stores_->nodes().Get(node.id)->ak_public, Offer().ak_public);
}

TEST_F(EnrolmentTest, TooManyAttemptsOfOneMachineAreSlowedDown) {
  options_.rate = {.burst = 2, .refill = std::chrono::seconds(30)};
  Restart();
  EXPECT_TRUE(enrolment_->Begin(Offer()).ok());
  EXPECT_TRUE(enrolment_->Begin(Offer()).ok());
  EXPECT_EQ(ReasonIdFrom(enrolment_->Begin(Offer())), "ENROLMENT_RATE_LIMITED");
  // Whoever names this machine's key from elsewhere uses up nothing of it, and the reverse.
  EnrolmentOffer elsewhere = Offer();
  elsewhere.origin = "192.0.2.1";
  EXPECT_TRUE(enrolment_->Begin(elsewhere).ok());
  clock_.Advance(std::chrono::seconds(30));
  EXPECT_TRUE(enrolment_->Begin(Offer()).ok());
}

TEST_F(EnrolmentTest, UnsuitableKeysAreRefusedAtBegin) {
  EnrolmentOffer swapped = Offer();
  std::swap(swapped.ak_public, swapped.tls_public);
  EXPECT_EQ(ReasonIdFrom(enrolment_->Begin(swapped)), "AK_UNSUITABLE");
  EnrolmentOffer ak_as_tls = Offer();
  ak_as_tls.tls_public = ak_as_tls.ak_public;
  EXPECT_EQ(ReasonIdFrom(enrolment_->Begin(ak_as_tls)), "TLS_KEY_UNSUITABLE");
  EnrolmentOffer ak_as_ek = Offer();
  ak_as_ek.ek_public = ak_as_ek.ak_public;
  EXPECT_EQ(ReasonIdFrom(enrolment_->Begin(ak_as_ek)), "EK_UNSUITABLE");
  EnrolmentOffer rubbish = Offer();
  rubbish.ek_public = {1, 2, 3};
  EXPECT_EQ(ReasonIdFrom(enrolment_->Begin(rubbish)), "TPM_KEY_MALFORMED");
}

}  // namespace
}  // namespace sealift::controller
