#include "controller/attest/verifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controller/attest/revocations.h"
#include "tests/support/measured_boot.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

using test::MeasuredBoot;
using test::ReasonIdFrom;
using test::SoftwareAk;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const UnixMillis kNow = FromUnixMs(1'800'000'000'000);
const std::string kCalling = "Calling EFI Application from Boot Option";
const std::string kReturning = "Returning from EFI Application from Boot Option";

class VerifierTest : public ::testing::Test {
 protected:
  // The machine's registers after `log`, with 11, 12 and 13 as they are in `boot_`.
  tpm::PcrValues RegistersAfter(ByteView log) const {
    tpm::PcrValues values = tpm::EventLog::Parse(log)->Replay();
    for (const std::uint32_t pcr : {11u, 12u, 13u}) values[pcr] = boot_.pcrs.at(pcr);
    return values;
  }
  Result<Verdict> JudgeMachine(const tpm::PcrValues& pcrs, ByteView log,
                               const std::vector<ExpectedRelease>& candidates,
                               PhaseRule rule = PhaseRule::kFinalPhase) {
    return JudgeEvidence({.quote = ak_.Quote(pcrs, nonce_), .event_log = ToBytes(log)}, ak_.area(), nonce_,
                         candidates, rule, kNow);
  }
  static const PcrFinding& Finding(const Verdict& verdict, std::uint32_t pcr) {
    for (const PcrFinding& finding : verdict.findings) {
      if (finding.pcr == pcr) return finding;
    }
    ADD_FAILURE() << "no finding for PCR " << pcr;
    static const PcrFinding none;
    return none;
  }
  // The boot's log with other events of PCR 4.
  Bytes LogWithPcr4(const std::vector<std::pair<std::uint32_t, Bytes>>& events) const {
    test::EventLogWriter writer;
    for (const tpm::Event& event : boot_.log.events()) {
      if (event.pcr != 4) writer.Event(event.pcr, event.type, event.digests.at(tpm::kAlgSha256), event.data);
    }
    for (const auto& [type, digest] : events) writer.Event(4, type, digest, {});
    return writer.bytes();
  }
  static Bytes Digest(const Sha256Digest& digest) { return ToBytes(digest.view()); }
  static Bytes Text(const std::string& text) { return Digest(Sha256(AsBytes(text))); }

  const MeasuredBoot boot_ = MeasuredBoot::Load();
  const Bytes log_ = test::FixtureEventLog();
  SoftwareAk ak_;
  const Bytes nonce_ = Bytes(32, 9);
};

TEST_F(VerifierTest, TrustsARealBootOfAPredictedRelease) {
  const auto verdict =
      JudgeMachine(boot_.pcrs, log_, {boot_.Expect(boot_.OtherVersion("2.0.0")), boot_.Expect()});
  ASSERT_TRUE(verdict.ok()) << Describe(verdict.status());
  EXPECT_EQ(verdict->trust, Trust::kTrusted) << ::testing::PrintToString(verdict->reasons);
  EXPECT_THAT(verdict->reasons, ::testing::IsEmpty());
  EXPECT_EQ(verdict->release_version, "1.0.0");
  EXPECT_EQ(verdict->release_id, boot_.Expect().id);
  EXPECT_EQ(verdict->decided, kNow);
  EXPECT_FALSE(verdict->degraded_boot);
  for (const std::uint32_t pcr : kJudgedPcrs) {
    EXPECT_EQ(Finding(*verdict, pcr).outcome, "match") << pcr;
    EXPECT_EQ(Finding(*verdict, pcr).first_difference, "") << pcr;
  }
  EXPECT_EQ(Finding(*verdict, 0).outcome, "unpredicted");
  EXPECT_EQ(Finding(*verdict, 0).found, boot_.pcrs.at(0));
}

TEST_F(VerifierTest, PredictionEqualsWhatTheMachineOfTheLogHad) {
  const ExpectedRelease expected = boot_.Expect();
  // Read from that machine's TPM once it was up.
  EXPECT_EQ(expected.registers.at(4).front().value.hex(),
            "1d196e54640a3209ec928568fdcd87773ed7f9e5c900356b1b9a74509368f02e");
  EXPECT_EQ(expected.registers.at(7).front().value.hex(),
            "6ebf9fc8756bc19c7204aa9dd72986ebb64e3a66ae1c50096c7f1f5646ce88e2");
  EXPECT_EQ(expected.registers.at(11).front().value.hex(),
            "aeee6770ea2edebe486d1187bd31ac23ff5c9ebc5e9a9c599665ce5d28495113");
  EXPECT_THAT(expected.registers.at(11).back().value.hex(), ::testing::StartsWith("fe9eff1b"));
  EXPECT_EQ(expected.registers.at(12).front().value, Sha256Digest{});
}

TEST_F(VerifierTest, EarlierPhaseIsForEnrolmentOnly) {
  tpm::PcrValues early = boot_.pcrs;
  early[11] = boot_.manifest.pcr11[1].pcr11;
  const auto enrolling = JudgeMachine(early, log_, {boot_.Expect()}, PhaseRule::kAnyPhase);
  EXPECT_EQ(enrolling->trust, Trust::kTrusted);
  const auto running = JudgeMachine(early, log_, {boot_.Expect()}, PhaseRule::kFinalPhase);
  EXPECT_EQ(running->trust, Trust::kUntrusted);
  EXPECT_THAT(running->reasons, ElementsAre("QUOTE_PCR_MISMATCH"));
  EXPECT_EQ(Finding(*running, 11).first_difference,
            "the machine is at phase sysinit instead of phase sysinit:ready");
  EXPECT_EQ(running->release_version, "1.0.0");
}

TEST_F(VerifierTest, NamesTheFirstEventThatDiffers) {
  const Manifest other = boot_.OtherVersion("2.0.0");
  const auto verdict = JudgeMachine(boot_.pcrs, log_, {boot_.Expect(other)});
  EXPECT_EQ(verdict->trust, Trust::kUnknown);
  EXPECT_THAT(verdict->reasons, ElementsAre("RELEASE_UNKNOWN"));
  EXPECT_EQ(verdict->release_version, "");
  EXPECT_THAT(
      Finding(*verdict, 4).first_difference,
      ::testing::AllOf(HasSubstr("event 4: expected"), HasSubstr("EFI/kairos/norole.efi"),
                       HasSubstr("found EV_EFI_BOOT_SERVICES_APPLICATION \\EFI\\kairos\\active.efi")));
  EXPECT_THAT(Finding(*verdict, 11).first_difference,
              ::testing::AllOf(HasSubstr("event 8: expected"), HasSubstr(".initrd")));
  EXPECT_EQ(Finding(*verdict, 7).outcome, "match");
}

TEST_F(VerifierTest, AnImageAroundAReleasesInitrdIsThatReleaseChanged) {
  const auto verdict =
      JudgeMachine(boot_.pcrs, log_, {boot_.Expect(boot_.OtherSection(".cmdline", "2.0.0"))});
  EXPECT_EQ(verdict->trust, Trust::kUntrusted);
  EXPECT_THAT(verdict->reasons, ElementsAre("QUOTE_PCR_MISMATCH", "EVENT_NOT_ALLOWED"));
  EXPECT_EQ(verdict->release_version, "2.0.0");
  EXPECT_THAT(Finding(*verdict, 11).first_difference,
              ::testing::AllOf(HasSubstr("expected section .cmdline"), HasSubstr("found")));
}

TEST_F(VerifierTest, OtherSecureBootKeysAreUntrustedNotUnknown) {
  MeasuredBoot other = MeasuredBoot::Load();
  other.keys.variables.kek.clear();
  const auto verdict = JudgeMachine(boot_.pcrs, log_, {other.Expect()});
  EXPECT_EQ(verdict->trust, Trust::kUntrusted);
  EXPECT_THAT(verdict->reasons, ElementsAre("QUOTE_PCR_MISMATCH", "EVENT_NOT_ALLOWED"));
  EXPECT_EQ(verdict->release_version, "1.0.0");
  EXPECT_THAT(Finding(*verdict, 7).first_difference,
              ::testing::AllOf(HasSubstr("event 3: expected variable KEK"),
                               HasSubstr("found EV_EFI_VARIABLE_DRIVER_CONFIG KEK, 821 bytes")));
}

TEST_F(VerifierTest, EachJudgedRegisterCountsByItself) {
  for (const std::uint32_t pcr : kJudgedPcrs) {
    tpm::PcrValues changed = boot_.pcrs;
    changed[pcr] = tpm::Extend(changed[pcr], Sha256(AsBytes("more")));
    const auto verdict = JudgeMachine(changed, log_, {boot_.Expect()});
    EXPECT_EQ(verdict->trust, Trust::kUntrusted) << pcr;
    EXPECT_THAT(verdict->reasons, ::testing::Contains("QUOTE_PCR_MISMATCH")) << pcr;
    EXPECT_EQ(Finding(*verdict, pcr).outcome, "mismatch") << pcr;
    EXPECT_NE(Finding(*verdict, pcr).first_difference, "") << pcr;
  }
  tpm::PcrValues extended_later = boot_.pcrs;
  extended_later[11] = tpm::Extend(extended_later[11], Sha256(AsBytes("more")));
  EXPECT_EQ(Finding(*JudgeMachine(extended_later, log_, {boot_.Expect()}), 11).first_difference,
            "the image is as expected; what the system extended after event 10 is not");
  tpm::PcrValues with_credentials = boot_.pcrs;
  with_credentials[12] = Sha256(AsBytes("credential"));
  EXPECT_THAT(Finding(*JudgeMachine(with_credentials, log_, {boot_.Expect()}), 12).first_difference,
              HasSubstr("not in the log"));
}

TEST_F(VerifierTest, ALogThatDoesNotLeadToTheRegistersIsRefused) {
  for (const std::uint32_t pcr : {4u, 7u}) {
    const auto events = boot_.log.EventsOf(pcr);
    for (const tpm::Event* left_out : {events.front(), events.back()}) {
      test::EventLogWriter writer;
      for (const tpm::Event& event : boot_.log.events()) {
        if (&event == left_out) continue;
        writer.Event(event.pcr, event.type, event.digests.at(tpm::kAlgSha256), event.data);
      }
      const auto verdict = JudgeMachine(boot_.pcrs, writer.bytes(), {boot_.Expect()});
      EXPECT_EQ(verdict->trust, Trust::kUntrusted) << pcr;
      EXPECT_THAT(verdict->reasons, ElementsAre("EVENT_LOG_MISMATCH")) << pcr;
      EXPECT_THAT(Finding(*verdict, pcr).first_difference, HasSubstr("another story")) << pcr;
    }
  }
  test::EventLogWriter with_other_section;
  for (const tpm::Event& event : boot_.log.events()) {
    with_other_section.Event(event.pcr, event.type,
                             event.pcr == 11 ? Text("forged") : event.digests.at(tpm::kAlgSha256),
                             event.data);
  }
  EXPECT_THAT(JudgeMachine(boot_.pcrs, with_other_section.bytes(), {boot_.Expect()})->reasons,
              ElementsAre("EVENT_LOG_MISMATCH"));
}

TEST_F(VerifierTest, AnUnreadableLogIsUntrusted) {
  const auto verdict = JudgeMachine(boot_.pcrs, ByteView(log_).first(100), {boot_.Expect()});
  ASSERT_TRUE(verdict.ok());
  EXPECT_EQ(verdict->trust, Trust::kUntrusted);
  EXPECT_THAT(verdict->reasons, ElementsAre("EVENT_LOG_MALFORMED"));
}

TEST_F(VerifierTest, WithoutReleasesNothingIsKnown) {
  const auto verdict = JudgeMachine(boot_.pcrs, log_, {});
  EXPECT_EQ(verdict->trust, Trust::kUnknown);
  EXPECT_THAT(verdict->reasons, ElementsAre("RELEASE_UNKNOWN"));
}

TEST_F(VerifierTest, AQuoteThatDoesNotVerifyIsAnErrorNotAVerdict) {
  const Evidence evidence{.quote = ak_.Quote(boot_.pcrs, nonce_), .event_log = log_};
  const std::vector<ExpectedRelease> candidates{boot_.Expect()};
  EXPECT_EQ(
      ReasonIdFrom(JudgeEvidence(evidence, ak_.area(), Bytes(32, 1), candidates, PhaseRule::kAnyPhase, kNow)),
      "QUOTE_NONCE_STALE");
  SoftwareAk other;
  const auto foreign = JudgeEvidence(evidence, other.area(), nonce_, candidates, PhaseRule::kAnyPhase, kNow);
  EXPECT_EQ(ReasonIdFrom(foreign), "QUOTE_SIGNATURE_INVALID");
  EXPECT_THAT(RefusedEvidence(foreign.status(), kNow).reasons, ElementsAre("QUOTE_SIGNATURE_INVALID"));
  EXPECT_EQ(RefusedEvidence(foreign.status(), kNow).trust, Trust::kUntrusted);
  tpm::PcrValues fewer = boot_.pcrs;
  fewer.erase(13);
  EXPECT_EQ(ReasonIdFrom(JudgeMachine(fewer, log_, candidates)), "QUOTE_SELECTION_WRONG");
}

TEST_F(VerifierTest, FirmwareRetriesAroundAllowedImagesAreTrustedButDegraded) {
  const ExpectedRelease now = boot_.Expect();
  const ExpectedRelease newer = boot_.Expect(boot_.OtherVersion("2.0.0"));
  const Bytes loader = Digest(now.allowed_images[1]);
  const Bytes separator = Digest(Sha256(Bytes(4, 0)));
  const Bytes log = LogWithPcr4({{tpm::kEvEfiAction, Text(kCalling)},
                                 {tpm::kEvSeparator, separator},
                                 {tpm::kEvEfiBootServicesApplication, loader},
                                 {tpm::kEvEfiBootServicesApplication, Digest(newer.uki)},
                                 {tpm::kEvEfiAction, Text(kReturning)},
                                 {tpm::kEvEfiAction, Text(kCalling)},
                                 {tpm::kEvEfiBootServicesApplication, loader},
                                 {tpm::kEvEfiBootServicesApplication, Digest(now.uki)}});
  const auto verdict = JudgeMachine(RegistersAfter(log), log, {newer, now});
  EXPECT_EQ(verdict->trust, Trust::kTrusted) << ::testing::PrintToString(verdict->reasons);
  EXPECT_TRUE(verdict->degraded_boot);
  EXPECT_EQ(verdict->release_version, "1.0.0");
  EXPECT_EQ(Finding(*verdict, 4).outcome, "match");
  EXPECT_THAT(Finding(*verdict, 4).first_difference, HasSubstr("8 events"));
  // The image that firmware tried first is of no known release any more.
  EXPECT_EQ(JudgeMachine(RegistersAfter(log), log, {now})->trust, Trust::kUntrusted);
}

TEST_F(VerifierTest, ADegradedBootHasNothingButAllowedImagesAndEndsInTheRelease) {
  const ExpectedRelease now = boot_.Expect();
  const ExpectedRelease newer = boot_.Expect(boot_.OtherVersion("2.0.0"));
  const Bytes loader = Digest(now.allowed_images[1]);
  const std::vector<std::pair<std::uint32_t, Bytes>> good{
      {tpm::kEvEfiAction, Text(kCalling)},
      {tpm::kEvEfiAction, Text(kReturning)},
      {tpm::kEvEfiBootServicesApplication, loader},
      {tpm::kEvEfiBootServicesApplication, Digest(now.uki)}};
  const auto judge = [&](std::vector<std::pair<std::uint32_t, Bytes>> events) {
    const Bytes log = LogWithPcr4(events);
    return JudgeMachine(RegistersAfter(log), log, {now, newer})->trust;
  };
  EXPECT_EQ(judge(good), Trust::kTrusted);
  auto foreign = good;
  foreign.insert(foreign.begin() + 2, {tpm::kEvEfiBootServicesApplication, Text("a shell")});
  EXPECT_EQ(judge(foreign), Trust::kUntrusted);
  // Types are free text: an image is an image whatever the log calls it.
  foreign[2].first = tpm::kEvEfiAction;
  EXPECT_EQ(judge(foreign), Trust::kUntrusted);
  auto other_last = good;
  other_last.back().second = Digest(newer.uki);
  EXPECT_EQ(judge(other_last), Trust::kUntrusted);
  auto no_return = good;
  no_return.erase(no_return.begin() + 1);
  EXPECT_EQ(judge(no_return), Trust::kUntrusted);
}

TEST(Expectation, RefusesAManifestThatContradictsItselfOrTheKeys) {
  MeasuredBoot boot = MeasuredBoot::Load();
  const std::vector<AllowedBootLoader> loaders{BootLoaderOf(boot.manifest).value()};
  const auto expect = [&](const Manifest& manifest) {
    return ReasonIdFrom(ExpectRelease(SerializeManifest(manifest), boot.keys, loaders));
  };
  Manifest forged = boot.manifest;
  forged.pcr11[2].pcr11.bytes[0] ^= 1;
  EXPECT_EQ(expect(forged), "RELEASE_MANIFEST_INVALID");
  Manifest unsigned_image = boot.manifest;
  unsigned_image.secure_boot_certificates = {Sha256(AsBytes("other"))};
  EXPECT_EQ(expect(unsigned_image), "KEY_MISMATCH");
  Manifest no_digest = boot.manifest;
  no_digest.files[1].authenticode.reset();
  EXPECT_EQ(expect(no_digest), "RELEASE_MANIFEST_INVALID");
  Manifest no_stub = boot.manifest;
  no_stub.stub_version = "unknown";
  EXPECT_EQ(expect(no_stub), "RELEASE_MANIFEST_INVALID");
}

TEST(Expectation, AllowsEveryKnownBootLoaderSinceUpgradesLeaveTheOldOne) {
  const MeasuredBoot boot = MeasuredBoot::Load();
  const std::vector<AllowedBootLoader> loaders{
      {.name = "new", .authenticode = Sha256(AsBytes("new loader")), .certificates = {}},
      BootLoaderOf(boot.manifest).value()};
  const auto expected = ExpectRelease(SerializeManifest(boot.manifest), boot.keys, loaders);
  ASSERT_TRUE(expected.ok());
  EXPECT_EQ(expected->registers.at(4).size(), 2u);
  EXPECT_EQ(expected->registers.at(4)[1].value, boot.pcrs.at(4));
}

// An old boot loader starts an image of the next key generation: firmware measures both certificates, in the
// order of use. Machines that have not taken the new db yet still show the old one.
TEST(Expectation, KeyGenerationsLiveSideBySide) {
  MeasuredBoot boot = MeasuredBoot::Load();
  const efi::SignatureLists old_db = efi::ParseSignatureLists(boot.keys.variables.db).value();
  const efi::SignatureEntry* first = nullptr;
  for (const efi::SignatureList& list : old_db) {
    for (const efi::SignatureEntry& entry : list.entries) {
      if (Sha256(entry.data) == boot.manifest.secure_boot_certificates.front()) first = &entry;
    }
  }
  ASSERT_NE(first, nullptr);
  const efi::SignatureEntry second{.owner = first->owner, .data = ToBytes("the next db certificate")};
  efi::SignatureLists grown = old_db;
  grown.push_back({.type = old_db.front().type, .header = {}, .entries = {second}});
  KeySet keys = boot.keys;
  keys.earlier.push_back(keys.variables);
  keys.variables.db = efi::SerializeSignatureLists(grown);

  Manifest next = boot.OtherVersion("2.0.0");
  next.secure_boot_certificates = {Sha256(second.data)};
  AllowedBootLoader next_loader = BootLoaderOf(next).value();
  next_loader.authenticode = Sha256(AsBytes("loader signed anew"));
  const std::vector<AllowedBootLoader> loaders{BootLoaderOf(boot.manifest).value(), next_loader};
  const auto predicted = [](const uki::SecureBootVariables& variables,
                            std::initializer_list<efi::SignatureEntry> authorities) {
    return uki::PredictPcr7(variables, std::span(authorities.begin(), authorities.size())).Value();
  };
  const auto values = [&](const Manifest& manifest) {
    std::vector<Sha256Digest> out;
    const auto expected = ExpectRelease(SerializeManifest(manifest), keys, loaders);
    EXPECT_TRUE(expected.ok()) << expected.status();
    if (expected.ok()) {
      for (const ExpectedValue& value : expected->registers.at(7)) out.push_back(value.value);
    }
    return out;
  };
  EXPECT_THAT(values(next), testing::UnorderedElementsAre(predicted(keys.variables, {*first, second}),
                                                          predicted(keys.variables, {second})));
  EXPECT_THAT(values(boot.manifest),
              testing::UnorderedElementsAre(predicted(keys.variables, {*first}),
                                            predicted(keys.variables, {second, *first}), boot.pcrs.at(7)));
}

// A store of what was published, oldest first.
class FixedReleases final : public ReleaseStore {
 public:
  explicit FixedReleases(std::vector<ReleaseRecord> releases) : releases_(std::move(releases)) {}
  Status Put(const ReleaseRecord&) override { return OkStatus(); }
  Result<ReleaseRecord> Get(const std::string&, const std::string&) override { return releases_.front(); }
  Result<std::vector<ReleaseRecord>> List(const std::string&) override { return releases_; }

 private:
  std::vector<ReleaseRecord> releases_;
};

// The digest of a boot loader does not cover its signatures: one digest, two signers.
TEST(Expectation, OneBootLoaderSignedByTwoGenerationsMayBeginWithEither) {
  MeasuredBoot boot = MeasuredBoot::Load();
  efi::SignatureLists db = efi::ParseSignatureLists(boot.keys.variables.db).value();
  const efi::SignatureEntry second{.owner = db.front().entries.front().owner,
                                   .data = ToBytes("the next certificate")};
  db.push_back({.type = db.front().type, .header = {}, .entries = {second}});
  boot.keys.variables.db = efi::SerializeSignatureLists(db);
  Manifest next = boot.OtherVersion("2.0.0");
  next.secure_boot_certificates = {Sha256(second.data)};
  std::vector<ReleaseRecord> records(2);
  records[0].manifest_json = SerializeManifest(boot.manifest);
  records[1].manifest_json = SerializeManifest(next);
  for (ReleaseRecord& record : records) record.release_id = ReleaseIdOf(record.manifest_json);
  FixedReleases releases(records);
  const auto candidates = ReleaseExpectations(releases, boot.keys).Candidates();
  ASSERT_TRUE(candidates.ok()) << candidates.status();
  ASSERT_EQ((*candidates)->size(), 2u);
  std::vector<Sha256Digest> values;
  for (const ExpectedValue& value : (*candidates)->at(1).registers.at(7)) values.push_back(value.value);
  // A machine that was installed from the newer release has never seen the first certificate at work.
  EXPECT_THAT(values,
              testing::Contains(uki::PredictPcr7(boot.keys.variables, std::span(&second, 1)).Value()));
  EXPECT_EQ(values.size(), 2u);
}

TEST(Expectation, FirmwareThatMeasuresTheKernelInsideIsExpectedToo) {
  const MeasuredBoot boot = MeasuredBoot::Load();
  Manifest manifest = boot.manifest;
  const Sha256Digest kernel = Sha256(AsBytes("kernel"));
  manifest.images.push_back({.path = manifest.files[1].path,
                             .sections = manifest.sections,
                             .pcr11 = manifest.pcr11,
                             .pcr4 = {.boot_loader = *manifest.files[0].authenticode,
                                      .uki = *manifest.files[1].authenticode,
                                      .kernel = kernel}});
  const std::vector<AllowedBootLoader> loaders{BootLoaderOf(manifest).value()};
  const auto expected = ExpectRelease(SerializeManifest(manifest), boot.keys, loaders);
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_EQ(expected->registers.at(4).size(), 2u);
  EXPECT_EQ(expected->registers.at(4)[0].value, boot.pcrs.at(4));
  EXPECT_EQ(expected->registers.at(4)[1].value, uki::ExtendPcr(boot.pcrs.at(4), kernel));
  EXPECT_THAT(expected->allowed_images, testing::Contains(kernel));
}

TEST(Expectation, LoadsTheKeySetsBeforeTheNewest) {
  const auto folder = TempDir::Create("key-set").value();
  const MeasuredBoot boot = MeasuredBoot::Load();
  const auto write = [&](const std::filesystem::path& to, const Bytes& db) {
    ASSERT_TRUE(MakeDirectories(to).ok());
    ASSERT_TRUE(WriteFileAtomically(to / "PK.esl", boot.keys.variables.pk).ok());
    ASSERT_TRUE(WriteFileAtomically(to / "KEK.esl", boot.keys.variables.kek).ok());
    ASSERT_TRUE(WriteFileAtomically(to / "db.esl", db).ok());
  };
  write(folder.path(), boot.keys.variables.db);
  EXPECT_TRUE(LoadKeySet(folder.path())->earlier.empty());
  write(folder.path() / "earlier" / "2", boot.keys.variables.kek);
  write(folder.path() / "earlier" / "1", boot.keys.variables.pk);
  const auto keys = LoadKeySet(folder.path());
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->earlier.size(), 2u);
  EXPECT_EQ(keys->earlier[0].db, boot.keys.variables.pk);
  EXPECT_EQ(keys->earlier[1].db, boot.keys.variables.kek);
  write(folder.path() / "earlier" / "3", ToBytes("damaged"));
  EXPECT_FALSE(LoadKeySet(folder.path()).ok()) << "a set left out would call machines untrusted";
}

// Updates of dbx are signed under a key of KEK; firmware takes them from whoever brings them.
TEST_F(VerifierTest, AnotherDbxAloneIsUnknownUntilItIsAccepted) {
  const auto with = [&](std::size_t index, const std::string& content) {
    test::EventLogWriter writer;
    std::size_t seven = 0;
    for (const tpm::Event& event : boot_.log.events()) {
      const bool here = event.pcr == 7 && seven++ == index;
      writer.Event(event.pcr, event.type, here ? Text(content) : event.digests.at(tpm::kAlgSha256),
                   event.data);
    }
    return writer.bytes();
  };
  const Bytes renewed = with(kRevocationsEvent, "a longer dbx");
  const auto verdict = JudgeMachine(RegistersAfter(renewed), renewed, {boot_.Expect()});
  EXPECT_EQ(verdict->trust, Trust::kUnknown);
  EXPECT_THAT(verdict->reasons, ElementsAre("BASELINE_UNAPPROVED"));
  EXPECT_EQ(verdict->release_version, "1.0.0");
  EXPECT_EQ(Finding(*verdict, 7).outcome, "unknown");
  EXPECT_THAT(Finding(*verdict, 7).first_difference, HasSubstr("event 5: expected variable dbx"));
  // Once the list is accepted it is predicted like the key set's own.
  const Sha256Digest event = Sha256(AsBytes("a longer dbx"));
  EXPECT_EQ(MeasuredRevocations(*tpm::EventLog::Parse(renewed)), event);
  const auto accepted = WithRevocations({boot_.Expect()}, {event});
  EXPECT_EQ(JudgeMachine(RegistersAfter(renewed), renewed, accepted)->trust, Trust::kTrusted);
  EXPECT_EQ(JudgeMachine(boot_.pcrs, log_, accepted)->trust, Trust::kTrusted);
  EXPECT_EQ(JudgeMachine(RegistersAfter(renewed), renewed, WithRevocations({boot_.Expect()}, {}))->trust,
            Trust::kUnknown);
  // No other event of PCR 7 may differ, nor dbx together with anything else.
  for (const std::size_t index : {0u, 1u, 2u, 3u, 5u, 6u}) {
    const Bytes other = with(index, "another");
    EXPECT_EQ(JudgeMachine(RegistersAfter(other), other, accepted)->trust, Trust::kUntrusted) << index;
  }
  auto changed = RegistersAfter(renewed);
  changed[12] = Sha256(AsBytes("a parameter"));
  EXPECT_EQ(JudgeMachine(changed, renewed, {boot_.Expect()})->trust, Trust::kUntrusted);
  // Nor does a log help that does not lead to the register.
  EXPECT_EQ(JudgeMachine(boot_.pcrs, renewed, {boot_.Expect()})->trust, Trust::kUntrusted);
}

}  // namespace
}  // namespace sealift::controller
