#include "controller/attest/evidence_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "controller/attest/firmware.h"
#include "tests/support/measured_boot.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

using nlohmann::json;
using test::MeasuredBoot;
using test::ReasonIdFrom;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const UnixMillis kNow = FromUnixMs(1'800'000'000'000);

class EvidenceTest : public ::testing::Test {
 protected:
  Evidence Quote(test::AttestFields fields, const tpm::PcrValues& pcrs) {
    return {.quote = ak_.Quote(pcrs, fields), .event_log = log_};
  }
  test::AttestFields Fields() const { return test::SoftwareAk::FieldsFor(boot_.pcrs, nonce_); }
  Verdict Judge(const Evidence& evidence, const std::optional<QuoteClock>& before = std::nullopt) {
    return JudgeMachine(evidence, ak_.area(), nonce_, releases_, PhaseRule::kFinalPhase, before, kNow);
  }
  EvidenceRecord Record(const Evidence& evidence, const std::optional<QuoteClock>& before = std::nullopt) {
    return {.node_id = NodeId::Parse("01890000-0000-7000-8000-000000000001").value(),
            .verdict = Judge(evidence, before),
            .attest = evidence.quote.attest,
            .signature = evidence.quote.signature,
            .event_log = evidence.event_log,
            .nonce = nonce_,
            .ak_public = ak_.Public(),
            .pcrs = evidence.quote.pcrs,
            .any_phase = false,
            .before = before,
            .expected = EncodeExpectations(releases_),
            .sequence = 5};
  }
  const MeasuredBoot boot_ = MeasuredBoot::Load();
  const Bytes log_ = test::FixtureEventLog();
  const Bytes nonce_ = Bytes(32, 9);
  const std::vector<ExpectedRelease> releases_{boot_.Expect(boot_.OtherVersion("2.0.0")), boot_.Expect()};
  test::SoftwareAk ak_;
};

TEST_F(EvidenceTest, ClocksOnlyRunForward) {
  const Evidence evidence = Quote(Fields(), boot_.pcrs);
  const Verdict first = Judge(evidence);
  ASSERT_EQ(first.trust, Trust::kTrusted);
  const QuoteClock now = first.clock.value();
  EXPECT_EQ(now, (QuoteClock{123456, 7, 0, 0x20230101}));
  const auto with = [&](QuoteClock before) { return Judge(evidence, before); };
  for (const QuoteClock& earlier : {now, QuoteClock{now.clock_ms - 1, 7, 0, now.firmware_version},
                                    // Another boot: the clock may have lost what was not saved.
                                    QuoteClock{now.clock_ms + 5000, 6, 9, now.firmware_version},
                                    // Counters that wrapped.
                                    QuoteClock{0, 0xFFFFFFF0, 0, now.firmware_version}}) {
    EXPECT_EQ(with(earlier).trust, Trust::kTrusted) << earlier.reset_count;
    EXPECT_EQ(with(earlier).clock, now);
  }
  for (const QuoteClock& later :
       {QuoteClock{now.clock_ms + 1, 7, 0, now.firmware_version}, QuoteClock{0, 8, 0, now.firmware_version},
        QuoteClock{0, 7, 1, now.firmware_version}}) {
    EXPECT_EQ(with(later).trust, Trust::kUntrusted);
    EXPECT_THAT(with(later).reasons, ElementsAre("QUOTE_CLOCK_BACKWARDS"));
    EXPECT_EQ(with(later).clock, later);
  }
  // A refused quote takes nothing back.
  Evidence foreign = evidence;
  foreign.quote.signature.back() ^= 1;
  EXPECT_EQ(Judge(foreign, now).clock, now);
}

TEST_F(EvidenceTest, AnotherFirmwareIsNotedAndTrusted) {
  const Evidence evidence = Quote(Fields(), boot_.pcrs);
  const Verdict verdict = Judge(evidence, QuoteClock{1, 7, 0, 0x20220101});
  EXPECT_EQ(verdict.trust, Trust::kTrusted);
  EXPECT_THAT(verdict.notes, ElementsAre("FIRMWARE_CHANGED"));
  EXPECT_THAT(Judge(evidence, verdict.clock).notes, ::testing::IsEmpty());
}

TEST_F(EvidenceTest, AnEventThatNobodyAllowsIsNamedWhateverItsType) {
  for (const std::uint32_t pcr : {4u, 7u, 12u, 13u}) {
    for (const std::uint32_t type : {tpm::kEvEfiAction, tpm::kEvSeparator, tpm::kEvEfiVariableAuthority}) {
      ByteWriter more(ByteWriter::Endian::kLittle);
      more.Raw(log_);
      more.U32(pcr);
      more.U32(type);
      more.U32(1);
      more.U16(tpm::kAlgSha256);
      more.Raw(Sha256(AsBytes("foreign")).view());
      more.U32(0);
      tpm::PcrValues pcrs = boot_.pcrs;
      pcrs[pcr] = tpm::Extend(pcrs[pcr], Sha256(AsBytes("foreign")));
      Evidence evidence = Quote(test::SoftwareAk::FieldsFor(pcrs, nonce_), pcrs);
      evidence.event_log = more.bytes();
      const Verdict verdict = Judge(evidence);
      EXPECT_EQ(verdict.trust, Trust::kUntrusted);
      EXPECT_THAT(verdict.reasons, Contains("EVENT_NOT_ALLOWED")) << pcr;
      for (const PcrFinding& finding : verdict.findings) {
        if (finding.pcr == pcr) {
          EXPECT_THAT(finding.first_difference, HasSubstr(Sha256(AsBytes("foreign")).hex().substr(0, 12)));
        }
      }
    }
  }
}

// Each byte of a valid quote and of its signature, one at a time.
TEST_F(EvidenceTest, EveryByteOfAQuoteCounts) {
  const Evidence good = Quote(Fields(), boot_.pcrs);
  ASSERT_EQ(Judge(good).trust, Trust::kTrusted);
  std::set<std::string> reasons;
  for (const bool signature : {false, true}) {
    const std::size_t size = signature ? good.quote.signature.size() : good.quote.attest.size();
    for (std::size_t at = 0; at < size; ++at) {
      Evidence bad = good;
      (signature ? bad.quote.signature : bad.quote.attest)[at] ^= 0x40;
      const Verdict verdict = Judge(bad);
      EXPECT_EQ(verdict.trust, Trust::kUntrusted) << signature << at;
      ASSERT_EQ(verdict.reasons.size(), 1u);
      reasons.insert(verdict.reasons.front());
    }
  }
  EXPECT_THAT(reasons, ::testing::IsSupersetOf({"QUOTE_MALFORMED", "QUOTE_MAGIC_WRONG", "QUOTE_TYPE_WRONG",
                                                "QUOTE_NONCE_STALE", "QUOTE_SELECTION_WRONG",
                                                "QUOTE_DIGEST_MISMATCH", "QUOTE_SIGNATURE_INVALID"}));
}

// Each field of each event of a real log. What is not measured may say anything; what is measured may not.
TEST_F(EvidenceTest, EveryFieldOfALogThatIsMeasuredCounts) {
  const Evidence good = Quote(Fields(), boot_.pcrs);
  std::map<std::string, int> outcomes;
  for (std::size_t at = 0; at < log_.size(); at += 67) {
    Evidence bad = good;
    bad.event_log[at] ^= 0x10;
    const Verdict verdict = Judge(bad);
    ++outcomes[verdict.reasons.empty() ? "trusted" : verdict.reasons.front()];
    const auto parsed = tpm::EventLog::Parse(bad.event_log);
    const bool same = parsed.ok() && parsed->Replay().at(4) == boot_.pcrs.at(4) &&
                      parsed->Replay().at(7) == boot_.pcrs.at(7) &&
                      parsed->Replay().at(11) == boot_.log.Replay().at(11) &&
                      !parsed->Replay().contains(12) && !parsed->Replay().contains(13);
    EXPECT_EQ(verdict.trust == Trust::kTrusted, same) << at;
  }
  EXPECT_GT(outcomes["EVENT_LOG_MALFORMED"], 0);
  EXPECT_GT(outcomes["EVENT_LOG_MISMATCH"], 0);
}

TEST_F(EvidenceTest, AFileLeadsToItsVerdictAgain) {
  tpm::PcrValues extended = boot_.pcrs;
  extended[13] = tpm::Extend(extended[13], Sha256(AsBytes("more")));
  Evidence stale = Quote(Fields(), boot_.pcrs);
  stale.quote.signature.back() ^= 1;
  const Evidence good = Quote(Fields(), boot_.pcrs);
  for (const EvidenceRecord& record :
       {Record(good), Record(Quote(test::SoftwareAk::FieldsFor(extended, nonce_), extended)), Record(stale),
        Record(good, QuoteClock{0, 8, 0, 1}), Record(good, QuoteClock{1, 7, 0, 1})}) {
    const std::string text = EncodeEvidenceFile(record, Sha256(AsBytes("ek")));
    const auto file = DecodeEvidenceFile(text);
    ASSERT_TRUE(file.ok()) << Describe(file.status());
    EXPECT_EQ(file->ek_digest, Sha256(AsBytes("ek")));
    EXPECT_EQ(file->record.verdict, record.verdict);
    const auto again = JudgeAgain(file->record);
    ASSERT_TRUE(again.ok()) << Describe(again.status());
    EXPECT_EQ(*again, record.verdict);
  }
  EXPECT_EQ(Record(stale).verdict.trust, Trust::kUntrusted);
}

TEST_F(EvidenceTest, AFileThatWasChangedProvesNothing) {
  const Evidence evidence = Quote(Fields(), boot_.pcrs);
  EvidenceRecord record = Record(evidence);
  JudgedMachine judged =
      ExamineMachine(evidence, ak_.area(), nonce_, releases_, PhaseRule::kFinalPhase, std::nullopt, kNow);
  JudgeFirmware(*judged.firmware, {}, judged.verdict);
  record.verdict = judged.verdict;
  record.baseline = EncodeFirmwareExpectation({});
  const json good = json::parse(EncodeEvidenceFile(record, Sha256Digest{}));
  const auto judge = [](const json& file) -> Status {
    SEALIFT_ASSIGN_OR_RETURN(const EvidenceFile read, DecodeEvidenceFile(file.dump()));
    return JudgeAgain(read.record).status();
  };
  ASSERT_TRUE(judge(good).ok()) << Describe(judge(good));
  // Every member gone, and of another type.
  for (const auto& [name, value] : good.items()) {
    json without = good;
    without.erase(name);
    EXPECT_EQ(ReasonIdOf(judge(without)), "EVIDENCE_INVALID") << name;
    json other = good;
    other[name] = 1.5;
    EXPECT_EQ(ReasonIdOf(judge(other)), "EVIDENCE_INVALID") << name;
  }
  const auto changed = [&](const char* pointer, const json& value) {
    json file = good;
    file[json::json_pointer(pointer)] = value;
    return ReasonIdOf(judge(file));
  };
  EXPECT_EQ(changed("/verdict/outcome", "untrusted"), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/verdict/reasons", {"QUOTE_PCR_MISMATCH"}), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/verdict/findings/0/outcome", "match"), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/verdict/release_version", "9.9.9"), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/verdict/notes", {"BOOT_DEGRADED"}), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/nonce", "00"), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/ak_public", Base64Encode(test::SoftwareAk().Public())), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/event_log", ""), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/pcrs/sha256/4", Sha256Digest{}.hex()), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/expected", json::array()), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/expected/1/registers/7/0/value", Sha256Digest{}.hex()), "EVIDENCE_INVALID");
  EXPECT_EQ(changed("/version", 2), "EVIDENCE_INVALID");
  EXPECT_EQ(ReasonIdFrom(DecodeEvidenceFile("{")), "EVIDENCE_INVALID");
}

// What the epoch's certification said is not in the file.
TEST_F(EvidenceTest, ReasonsAboutTheEpochStandAsTheyAre) {
  EvidenceRecord record = Record(Quote(Fields(), boot_.pcrs));
  record.verdict.trust = Trust::kUntrusted;
  record.verdict.reasons.emplace_back("EPOCH_TOO_LOW");
  EXPECT_TRUE(JudgeAgain(record).ok());
  record.verdict.trust = Trust::kTrusted;
  EXPECT_EQ(ReasonIdFrom(JudgeAgain(record)), "EVIDENCE_INVALID");
}

}  // namespace
}  // namespace sealift::controller
