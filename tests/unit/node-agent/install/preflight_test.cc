#include "node-agent/install/preflight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace sealift::agent {
namespace {

using testing::HasSubstr;

MachineFacts Good() {
  MachineFacts facts;
  facts.firmware = FirmwareReport{.state = FirmwareState::kOurs};
  facts.endorsement_certificate = true;
  facts.memory_bytes = 4ull << 30;
  facts.release = ReleaseSizes{.image_bytes = 50u << 20};
  facts.plan = InstallPlan{.disk = {.path = "/dev/vda", .bytes = 20ull << 30}};
  facts.escrow = true;
  return facts;
}

Reason Why(const MachineFacts& facts) { return ReasonOf(FirstRefusal(JudgeMachine(facts))); }

TEST(Preflight, AGoodMachineHasNothingButGoodFindings) {
  for (const InstallFinding& finding : JudgeMachine(Good()))
    EXPECT_EQ(finding.level, InstallFinding::Level::kGood) << finding.text;
  EXPECT_EQ(Why(Good()), Reason::kNone);
}

TEST(Preflight, ASetupModeIsNoRefusal) {
  MachineFacts facts = Good();
  facts.firmware = FirmwareReport{.state = FirmwareState::kSetupMode};
  EXPECT_EQ(Why(facts), Reason::kNone);
  EXPECT_THAT(FindingsText(JudgeMachine(facts)), HasSubstr("remark   secure-boot  setup mode"));
}

TEST(Preflight, EachLackHasItsReason) {
  MachineFacts facts = Good();
  facts.uefi = MakeError(Code::kUnavailable, Reason::kFirmwareVariableUnreadable, "no efivarfs");
  EXPECT_EQ(Why(facts), Reason::kHardwareUnfit);
  facts = Good();
  facts.firmware = FirmwareReport{.state = FirmwareState::kOff};
  EXPECT_EQ(Why(facts), Reason::kSecureBootOff);
  facts.firmware = FirmwareReport{.state = FirmwareState::kForeign, .differences = {"PK lacks"}};
  EXPECT_EQ(Why(facts), Reason::kSecureBootForeign);
  facts = Good();
  facts.tpm = MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "open TPM: none");
  EXPECT_EQ(Why(facts), Reason::kHardwareUnfit);
  facts = Good();
  facts.memory_bytes = 500u << 20;
  EXPECT_EQ(Why(facts), Reason::kHardwareUnfit);
  facts = Good();
  facts.plan = MakeError(Code::kFailedPrecondition, Reason::kDiskHoldsData, "it holds");
  EXPECT_EQ(Why(facts), Reason::kDiskHoldsData);
  facts = Good();
  facts.escrow = false;
  EXPECT_EQ(Why(facts), Reason::kEscrowKeyMissing);
  facts.encrypt = false;
  EXPECT_EQ(Why(facts), Reason::kNone);
}

TEST(Preflight, TellsAllLacksAtOnce) {
  MachineFacts facts = Good();
  facts.tpm = MakeError(Code::kUnavailable, Reason::kTpmUnavailable, "open TPM: none");
  facts.plan = MakeError(Code::kNotFound, Reason::kDiskNotFound, "no disk");
  const Status status = FirstRefusal(JudgeMachine(facts));
  EXPECT_EQ(ReasonOf(status), Reason::kHardwareUnfit);
  EXPECT_THAT(MessageOf(status), HasSubstr("open TPM: none"));
  EXPECT_THAT(MessageOf(status), HasSubstr("no disk"));
}

TEST(Preflight, OptionRomsAreListed) {
  MachineFacts facts = Good();
  facts.option_roms = {{.digest = "aa", .allowed = false}, {.digest = "bb", .allowed = true}};
  const auto json = nlohmann::json::parse(FindingsJson(JudgeMachine(facts)));
  std::size_t roms = 0;
  for (const auto& finding : json)
    if (finding["check"] == "option-roms") ++roms;
  EXPECT_EQ(roms, 2u);
  EXPECT_EQ(Why(facts), Reason::kNone);
}

}  // namespace
}  // namespace sealift::agent
