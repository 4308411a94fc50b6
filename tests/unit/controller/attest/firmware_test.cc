#include "controller/attest/firmware.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controller/attest/baseline_review.h"
#include "tests/support/firmware_log.h"
#include "tests/support/measured_boot.h"
#include "tests/support/status_matchers.h"

namespace sealift::controller {
namespace {

using test::FirmwareLog;
using test::ReasonIdFrom;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

const Hardware kHardware{.model = {.vendor = "Maker", .product = "R740"}, .firmware_version = "2.1"};

Baseline Of(const FirmwareLog& log) { return MeasuredBaseline(kHardware, log.Measure()).value(); }

Verdict TrustedSoFar() {
  Verdict verdict{.trust = Trust::kTrusted};
  for (const std::uint32_t pcr : {0u, 1u, 2u, 3u, 4u})
    verdict.findings.push_back({.pcr = pcr, .outcome = "unpredicted"});
  return verdict;
}

Verdict JudgedAgainst(const std::vector<Baseline>& approved, const FirmwareMeasurement& firmware,
                      bool confirmed = false, Trust outlier = Trust::kUnknown) {
  Verdict verdict = TrustedSoFar();
  JudgeFirmware(firmware, {.approved = approved, .confirmed = confirmed, .outlier = outlier}, verdict);
  return verdict;
}

const PcrFinding& Finding(const Verdict& verdict, std::uint32_t pcr) { return verdict.findings.at(pcr); }

std::vector<std::string> Outcomes(const Verdict& verdict) {
  std::vector<std::string> outcomes;
  for (const PcrFinding& finding : verdict.findings) outcomes.push_back(finding.outcome);
  return outcomes;
}

class FirmwareTest : public ::testing::Test {
 protected:
  const FirmwareLog log_ = FirmwareLog::Of("2.1", "disk A", "4711");
  const Baseline baseline_ = Of(log_);
};

TEST_F(FirmwareTest, MachinesOfAModelShowOneBaselineWhateverTheirDisksAndSerialNumbers) {
  const Baseline other = Of(FirmwareLog::Of("2.1", "another disk", "4712"));
  EXPECT_EQ(other.id, baseline_.id);
  EXPECT_EQ(MeasuredBaselineId(kHardware.model, log_.Measure()), baseline_.id);
  EXPECT_EQ(JudgedAgainst({baseline_}, FirmwareLog::Of("2.1", "another disk", "4712").Measure()).trust,
            Trust::kTrusted);
  EXPECT_EQ(FirstDifference(baseline_, other), "");
  EXPECT_NE(Of(FirmwareLog::Of("2.2", "disk A", "4711")).id, baseline_.id);
  const auto elsewhere = MeasuredBaselineId({.vendor = "Maker", .product = "R750"}, log_.Measure());
  EXPECT_NE(elsewhere, baseline_.id);
}

TEST_F(FirmwareTest, RealOvmfWithoutItsBootVariables) {
  const test::MeasuredBoot boot = test::MeasuredBoot::Load();
  FirmwareMeasurement firmware{.registers = {}, .explained = {0, 1, 2, 3}, .log = boot.log};
  for (const std::uint32_t pcr : kFirmwarePcrs) firmware.registers[pcr] = boot.pcrs.at(pcr);
  const auto measured = MeasuredBaseline(kHardware, firmware);
  ASSERT_TRUE(measured.has_value());
  std::vector<std::string> configuration;
  for (const BaselineEvent& event : measured->events) {
    if (event.pcr == 1) configuration.push_back(event.text);
  }
  EXPECT_THAT(configuration, ElementsAre("EV_SEPARATOR"));
  EXPECT_EQ(measured->registers.at(0), boot.pcrs.at(0));
}

TEST_F(FirmwareTest, OnlyWhatItsDigestProvesToBeABootVariableIsLeftOut) {
  const auto is = [](std::uint32_t type, const Bytes& data, const Bytes& measured) {
    FirmwareLog log;
    log.events.push_back({1, type, data, measured});
    return IsBootVariable(tpm::EventLog::Parse(log.bytes())->events().front());
  };
  const Bytes option = test::LoadOption("disk", "a disk");
  const Bytes variable = test::GlobalVariable("Boot0001", option);
  const Bytes order = test::GlobalVariable("BootOrder", Bytes{1, 0, 2, 0});
  // The whole, as OVMF does it, or the content alone; the type is free text.
  for (const std::uint32_t type :
       {tpm::kEvEfiVariableBoot, tpm::kEvEfiVariableBoot2, tpm::kEvEfiVariableDriverConfig}) {
    EXPECT_TRUE(is(type, variable, variable));
    EXPECT_TRUE(is(type, variable, option));
    EXPECT_TRUE(is(type, order, Bytes{1, 0, 2, 0}));
  }
  const Bytes evil = ToBytes(AsBytes("setup: virtualisation off"));
  EXPECT_FALSE(is(tpm::kEvEfiVariableBoot, variable, evil));
  EXPECT_FALSE(is(tpm::kEvEfiVariableBoot, evil, evil));
  // What is measured as content has to look like it: here a whole other variable.
  const Bytes setup = test::GlobalVariable("Setup", evil);
  EXPECT_FALSE(is(tpm::kEvEfiVariableBoot, setup, setup));
  EXPECT_FALSE(is(tpm::kEvEfiVariableBoot, test::GlobalVariable("Boot0001", setup), setup));
  EXPECT_FALSE(is(tpm::kEvEfiVariableBoot, test::GlobalVariable("BootOrder", setup), setup));
  for (const char* name : {"Boot", "Boot001", "Boot00001", "BootXYZW", "OsIndications", "bootorder"}) {
    const Bytes named = test::GlobalVariable(name, option);
    EXPECT_FALSE(is(tpm::kEvEfiVariableBoot, named, named)) << name;
  }
  // Another vendor's variable of that name.
  Bytes foreign = variable;
  foreign[0] ^= 1;
  EXPECT_FALSE(is(tpm::kEvEfiVariableBoot, foreign, foreign));
  // Cut short, or with something behind it.
  for (std::size_t size = 0; size < variable.size(); ++size) {
    const Bytes cut(variable.begin(), variable.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(is(tpm::kEvEfiVariableBoot, cut, cut)) << size;
  }
  Bytes longer = variable;
  longer.push_back(0);
  EXPECT_FALSE(is(tpm::kEvEfiVariableBoot, longer, longer));
}

TEST_F(FirmwareTest, WithoutAnApprovalTheRegistersAreUnknownAndBlockNothing) {
  const Verdict verdict = JudgedAgainst({}, log_.Measure(), true, Trust::kUntrusted);
  EXPECT_EQ(verdict.trust, Trust::kTrusted);
  EXPECT_THAT(verdict.reasons, IsEmpty());
  EXPECT_THAT(verdict.notes, ElementsAre("BASELINE_UNAPPROVED"));
  EXPECT_THAT(Outcomes(verdict), ElementsAre("unknown", "unknown", "unknown", "unknown", "unpredicted"));
}

TEST_F(FirmwareTest, AnApprovedBaselineMatchesRegisterByRegister) {
  const Verdict verdict = JudgedAgainst({Of(FirmwareLog::Of("1.0", "x", "y")), baseline_}, log_.Measure());
  EXPECT_EQ(verdict.trust, Trust::kTrusted);
  EXPECT_THAT(verdict.notes, IsEmpty());
  EXPECT_THAT(Outcomes(verdict), ElementsAre("match", "match", "match", "match", "unpredicted"));
  EXPECT_THAT(Finding(verdict, 0).expected, ElementsAre(baseline_.registers.at(0)));
}

TEST_F(FirmwareTest, AnOutlierIsNamedWithTheEventThatDiffersAndIsWhatThePolicySays) {
  FirmwareLog changed = log_;
  changed.events[1].data = ToBytes(AsBytes("an implant"));
  for (const Trust policy : {Trust::kUnknown, Trust::kUntrusted}) {
    const Verdict verdict = JudgedAgainst({baseline_}, changed.Measure(), false, policy);
    EXPECT_EQ(verdict.trust, policy);
    EXPECT_THAT(verdict.reasons, ElementsAre("EVENT_NOT_ALLOWED"));
    EXPECT_THAT(Outcomes(verdict), ElementsAre("mismatch", "match", "match", "match", "unpredicted"));
    EXPECT_THAT(Finding(verdict, 0).first_difference,
                AllOf(StartsWith("event 2: expected EV_EFI_PLATFORM_FIRMWARE_BLOB"), HasSubstr("found")));
  }
  FirmwareLog setting = log_;
  setting.events[2].data = ToBytes(AsBytes("setup: virtualisation off"));
  EXPECT_THAT(Finding(JudgedAgainst({baseline_}, setting.Measure()), 1).first_difference,
              StartsWith("event 1: expected"));
  FirmwareLog more = log_;
  more.Add(3, tpm::kEvEfiBootServicesDriver, "another card");
  EXPECT_THAT(Finding(JudgedAgainst({baseline_}, more.Measure()), 3).first_difference,
              StartsWith("event 2: unexpected"));
  FirmwareLog fewer = log_;
  fewer.events.pop_back();
  fewer.Add(3, tpm::kEvSeparator, "odd");
  EXPECT_EQ(JudgedAgainst({baseline_}, fewer.Measure()).trust, Trust::kUnknown);
}

TEST_F(FirmwareTest, TrustNeverRisesByWhatFirmwareShows) {
  Verdict verdict = TrustedSoFar();
  verdict.trust = Trust::kUntrusted;
  verdict.reasons = {"QUOTE_PCR_MISMATCH"};
  JudgeFirmware(FirmwareLog::Of("9", "x", "y").Measure(),
                {.approved = {baseline_}, .outlier = Trust::kUnknown}, verdict);
  EXPECT_EQ(verdict.trust, Trust::kUntrusted);
  EXPECT_THAT(verdict.reasons, ElementsAre("QUOTE_PCR_MISMATCH", "EVENT_NOT_ALLOWED"));
  JudgeFirmware(log_.Measure(), {.approved = {baseline_}}, verdict);
  EXPECT_EQ(verdict.trust, Trust::kUntrusted);
}

TEST_F(FirmwareTest, WhatMostOfTheModelShowIsUnknownAndBlocksNothing) {
  const Verdict verdict =
      JudgedAgainst({baseline_}, FirmwareLog::Of("2.2", "x", "y").Measure(), true, Trust::kUntrusted);
  EXPECT_EQ(verdict.trust, Trust::kTrusted);
  EXPECT_THAT(verdict.notes, ElementsAre("BASELINE_UNAPPROVED"));
  EXPECT_THAT(Outcomes(verdict), ElementsAre("unknown", "match", "match", "match", "unpredicted"));
  EXPECT_THAT(Finding(verdict, 0).first_difference, StartsWith("event 1: expected EV_S_CRTM_VERSION"));
}

TEST_F(FirmwareTest, TypesInTheMachinesLogExcuseNothing) {
  FirmwareLog hidden = log_;
  hidden.events[2].data = ToBytes(AsBytes("setup: virtualisation off"));
  hidden.events[2].type = FirmwareLog::kHandoffTables2;
  EXPECT_EQ(JudgedAgainst({baseline_}, hidden.Measure()).trust, Trust::kUnknown);
  hidden.events[2].type = tpm::kEvEfiVariableBoot;
  EXPECT_EQ(JudgedAgainst({baseline_}, hidden.Measure()).trust, Trust::kUnknown);
  // Nor do they accuse: the same digests under other types.
  FirmwareLog relabelled = log_;
  for (FirmwareLog::Event& event : relabelled.events) event.type = tpm::kEvEfiAction;
  EXPECT_EQ(JudgedAgainst({baseline_}, relabelled.Measure()).trust, Trust::kTrusted);
}

TEST_F(FirmwareTest, ALogThatDoesNotLeadThereAndARegisterThatWasNotQuotedAreOutliers) {
  FirmwareMeasurement unexplained = log_.Measure();
  unexplained.registers[1] = Sha256(AsBytes("other"));
  unexplained.explained.erase(1);
  Verdict verdict = JudgedAgainst({baseline_}, unexplained);
  EXPECT_EQ(verdict.trust, Trust::kUnknown);
  EXPECT_THAT(verdict.reasons, ElementsAre("EVENT_LOG_MISMATCH"));
  EXPECT_EQ(Finding(verdict, 1).first_difference, "the event log does not lead to the quoted value");
  EXPECT_FALSE(MeasuredBaseline(kHardware, unexplained).has_value());
  FirmwareMeasurement missing = log_.Measure();
  missing.registers.erase(2);
  missing.explained.erase(2);
  EXPECT_THAT(JudgedAgainst({baseline_}, missing).reasons, ElementsAre("QUOTE_SELECTION_WRONG"));
}

TEST_F(FirmwareTest, RegistersWithEqualEventsAndAnotherStartDiffer) {
  FirmwareMeasurement started = log_.Measure();
  started.registers[0] = Sha256(AsBytes("after locality 3"));
  const Verdict verdict = JudgedAgainst({baseline_}, started);
  EXPECT_EQ(verdict.trust, Trust::kUnknown);
  EXPECT_EQ(Finding(verdict, 0).first_difference, "the same events from another start of the register");
}

TEST_F(FirmwareTest, ExpectationsSurviveTheirEncoding) {
  const FirmwareExpectation expectation{.approved = {baseline_, Of(FirmwareLog::Of("1.0", "x", "y"))},
                                        .confirmed = true,
                                        .outlier = Trust::kUntrusted};
  const auto decoded = DecodeFirmwareExpectation(EncodeFirmwareExpectation(expectation));
  ASSERT_TRUE(decoded.ok()) << Describe(decoded.status());
  EXPECT_EQ(*decoded, expectation);
  for (const char* bad : {"", "[]", "{}", R"({"approved":[{}],"confirmed":true,"outlier":"unknown"})",
                          R"({"approved":[],"confirmed":true,"outlier":"trusted"})",
                          R"({"approved":[],"confirmed":1,"outlier":"unknown"})"}) {
    EXPECT_EQ(ReasonIdFrom(DecodeFirmwareExpectation(AsBytes(bad))), "EVIDENCE_INVALID") << bad;
  }
  EXPECT_EQ(ReasonIdFrom(DecodeBaseline("{}")), "EVIDENCE_INVALID");
}

BaselineRecord Record(const Baseline& baseline, std::uint64_t nodes, bool confirmed,
                      const std::string& approved_by = "", int approved = 0) {
  return {.baseline = baseline,
          .approved_by = approved_by,
          .approved = FromUnixMs(approved),
          .nodes = nodes,
          .confirmed = confirmed};
}

TEST_F(FirmwareTest, ReviewSaysWhoDiffersFromWhatTheModelShouldShow) {
  const Baseline updated = Of(FirmwareLog::Of("2.2", "x", "y"));
  FirmwareLog changed = log_;
  changed.events[6].data = ToBytes(AsBytes("a foreign driver"));
  const Baseline odd = Of(changed);
  auto reviewed = ReviewBaselines({Record(odd, 1, false), Record(updated, 2, false)});
  ASSERT_EQ(reviewed.size(), 2u);
  EXPECT_EQ(reviewed[0].standing, BaselineStanding::kProposed);
  EXPECT_EQ(reviewed[1].standing, BaselineStanding::kProposed);
  EXPECT_EQ(reviewed[1].difference, "");
  reviewed = ReviewBaselines(
      {Record(baseline_, 5, true, "anna", 1), Record(updated, 90, true), Record(odd, 1, false)});
  EXPECT_EQ(reviewed[0].standing, BaselineStanding::kApproved);
  EXPECT_EQ(reviewed[0].difference, "");
  EXPECT_EQ(reviewed[1].standing, BaselineStanding::kConfirmed);
  EXPECT_THAT(reviewed[1].difference, StartsWith("PCR 0: event 1: expected EV_S_CRTM_VERSION"));
  EXPECT_EQ(reviewed[2].standing, BaselineStanding::kOutlier);
  EXPECT_THAT(reviewed[2].difference, StartsWith("PCR 2: event 1: expected EV_EFI_BOOT_SERVICES_DRIVER"));
  // Models do not mix.
  const Baseline elsewhere =
      MeasuredBaseline({.model = {.vendor = "Maker", .product = "R750"}, .firmware_version = "1"},
                       log_.Measure())
          .value();
  reviewed = ReviewBaselines({Record(baseline_, 5, true, "anna", 1), Record(elsewhere, 1, false)});
  EXPECT_EQ(reviewed[1].standing, BaselineStanding::kProposed);
  EXPECT_THAT(ReviewBaselines({}), IsEmpty());
}

}  // namespace
}  // namespace sealift::controller
