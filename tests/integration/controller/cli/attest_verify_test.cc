// `sealift attest verify FILE` as an auditor uses it: no controller, no network, whatever year it is.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "controller/attest/evidence_file.h"
#include "shared/base/files.h"
#include "tests/support/measured_boot.h"
#include "tests/support/places.h"
#include "tests/support/software_tpm.h"
#include "tests/support/tools.h"

namespace sealift::cli {
namespace {

using nlohmann::json;
using test::RunTool;

constexpr char kSealift[] = SEALIFT_BIN_DIR "/sealift";

class AttestVerifyTest : public testing::Test {
 protected:
  // The evidence of a quote over `pcrs`, judged in 2027.
  std::string Write(const tpm::PcrValues& pcrs) {
    test::SoftwareAk ak;
    const Bytes nonce(32, 9);
    const std::vector<controller::ExpectedRelease> releases{boot_.Expect()};
    const controller::Evidence evidence{.quote = ak.Quote(pcrs, nonce), .event_log = test::FixtureEventLog()};
    const controller::EvidenceRecord record{
        .node_id = NodeId::Parse("01890000-0000-7000-8000-000000000001").value(),
        .verdict =
            controller::JudgeMachine(evidence, ak.area(), nonce, releases, controller::PhaseRule::kFinalPhase,
                                     std::nullopt, FromUnixMs(1'800'000'000'000)),
        .attest = evidence.quote.attest,
        .signature = evidence.quote.signature,
        .event_log = evidence.event_log,
        .nonce = nonce,
        .ak_public = ak.Public(),
        .pcrs = evidence.quote.pcrs,
        .any_phase = false,
        .before = std::nullopt,
        .expected = controller::EncodeExpectations(releases)};
    return Keep(controller::EncodeEvidenceFile(record, Sha256(AsBytes("ek"))));
  }
  std::string Keep(const std::string& text) {
    const auto path = folder_.path() / "node.json";
    EXPECT_TRUE(WriteFileAtomically(path, AsBytes(text), 0600).ok());
    return path.string();
  }
  const test::MeasuredBoot boot_ = test::MeasuredBoot::Load();
  const TempDir folder_ = TempDir::Create("attest-verify").value();
};

TEST_F(AttestVerifyTest, LeadsToTheVerdictAgainManyYearsLater) {
  SEALIFT_NEED_TOOL("faketime");
  const std::string file = Write(boot_.pcrs);
  for (const char* when : {"2020-01-01 00:00:00", "2027-06-01 00:00:00", "2049-12-31 00:00:00"}) {
    const CommandOutput shown = RunTool({"faketime", when, kSealift, "attest", "verify", file, "-o", "json"});
    ASSERT_EQ(shown.exit_code, 0) << when << shown.out << shown.err;
    const json verdict = json::parse(shown.out);
    EXPECT_EQ(verdict["verified"], true);
    EXPECT_EQ(verdict["outcome"], "trusted");
    EXPECT_EQ(verdict["release_version"], "1.0.0");
    EXPECT_EQ(verdict["decided"], "2027-01-15T08:00:00Z");
    EXPECT_EQ(verdict["ek_digest"], Sha256(AsBytes("ek")).hex());
  }
}

TEST_F(AttestVerifyTest, AFileThatStatesSomethingElseProvesNothing) {
  tpm::PcrValues other = boot_.pcrs;
  other[12] = Sha256(AsBytes("a kernel argument"));
  const std::string file = Write(other);
  const CommandOutput shown = RunTool({kSealift, "attest", "verify", file, "-o", "json"});
  ASSERT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_EQ(json::parse(shown.out)["outcome"], "untrusted");
  json changed = json::parse(ReadTextFile(file).value());
  ASSERT_TRUE(changed["verdict"].is_object());
  changed["verdict"]["release_version"] = "2.0.0";
  const CommandOutput refused = RunTool({kSealift, "attest", "verify", Keep(changed.dump())});
  EXPECT_EQ(refused.exit_code, 1) << refused.out;
  EXPECT_NE(refused.err.find("EVIDENCE_INVALID"), std::string::npos) << refused.err;
  EXPECT_EQ(RunTool({kSealift, "attest", "verify", Keep("{}")}).exit_code, 1);
}

}  // namespace
}  // namespace sealift::cli
