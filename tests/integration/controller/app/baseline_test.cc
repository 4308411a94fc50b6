// What machines' firmware measures, from their quotes to the operator's terminal; and what the policy does.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "controller/attest/evidence_file.h"
#include "sealift/v1/attestation.grpc.pb.h"
#include "sealift/v1/baseline.grpc.pb.h"
#include "tests/integration/controller/app/controller_fixture.h"
#include "tests/support/firmware_log.h"
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift::controller {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class BaselineTest : public ControllerTest {
 protected:
  void SetUp() override {
    server_attestor_ = nullptr;
    more_config_ =
        "[enrolment]\nsecure_boot = \"secure-boot\"\n[attestation]\nbaseline_outlier = \"untrusted\"\n"
        "on_untrusted = \"alert quarantine\"\nquarantine_percent = 25\n";
    ControllerTest::SetUp();
    const std::string manifest = SerializeManifest(old_.manifest);
    ASSERT_TRUE(stores_->releases()
                    .Put({.channel = "stable",
                          .version = old_.manifest.version,
                          .release_id = ReleaseIdOf(manifest),
                          .published = FromUnixMs(1),
                          .total_bytes = 1,
                          .manifest_json = manifest})
                    .ok());
    for (int number = 1; number <= 8; ++number) {
      Node node{.id = Id(number), .ak_public = aks_[number].Public()};
      node.ek_digest.bytes[0] = static_cast<std::uint8_t>(number);
      node.admission = Admission::kAdmitted;
      ASSERT_TRUE(stores_->nodes().Enrol(node).ok());
    }
  }
  void WriteFiles() override {
    ControllerTest::WriteFiles();
    ASSERT_TRUE(MakeDirectories(dir_->path() / "secure-boot", 0700).ok());
    const auto& variables = old_.keys.variables;
    ASSERT_TRUE(WriteFileAtomically(dir_->path() / "secure-boot/PK.esl", variables.pk).ok());
    ASSERT_TRUE(WriteFileAtomically(dir_->path() / "secure-boot/KEK.esl", variables.kek).ok());
    ASSERT_TRUE(WriteFileAtomically(dir_->path() / "secure-boot/db.esl", variables.db).ok());
  }

  // One more boot of the node: check-in, quote, verdict.
  v1::AttestResponse BootAndQuote(int number, const test::MeasuredBoot& boot, const std::string& firmware) {
    const auto node = NodeStub(number);
    v1::CheckInRequest check_in;
    check_in.set_state(v1::IDLE);
    check_in.mutable_running()->set_version("1.0.0");
    check_in.mutable_running()->set_boot_id(fmt::format("boot {}", ++boots_));
    v1::CheckInResponse asked;
    EXPECT_TRUE(node->CheckIn(Context().get(), check_in, &asked).ok());
    v1::AttestRequest request;
    test::AttestFields fields = test::SoftwareAk::FieldsFor(boot.pcrs, AsBytes(asked.quote_nonce()));
    fields.reset_count = static_cast<std::uint32_t>(boots_);
    const tpm::QuoteEvidence quote = aks_[number].Quote(boot.pcrs, fields);
    request.mutable_quote()->set_attest(ToText(quote.attest));
    request.mutable_quote()->set_signature(ToText(quote.signature));
    request.mutable_quote()->set_event_log(ToText(test::BytesOf(boot.log)));
    for (const auto& [pcr, value] : quote.pcrs)
      (*request.mutable_quote()->mutable_pcrs())[pcr] = wire::ToWire(value);
    request.mutable_hardware()->set_vendor("Maker");
    request.mutable_hardware()->set_product("R740");
    request.mutable_hardware()->set_firmware_version(firmware);
    v1::AttestResponse verdict;
    const grpc::Status judged = node->Attest(Context().get(), request, &verdict);
    EXPECT_TRUE(judged.ok()) << judged.error_message();
    last_boot_ = check_in;
    return verdict;
  }
  std::unique_ptr<v1::BaselineService::Stub> Baselines(const std::string& role) {
    const auto certificate = OperatorCertificate(role);
    return v1::BaselineService::NewStub(ChannelTo(server_->addresses().fleet, &certificate));
  }
  // The reason why not; empty when done.
  std::string Approve(const std::string& role, const std::string& id) {
    v1::ApproveBaselineRequest request;
    request.set_id(id);
    v1::ApproveBaselineResponse response;
    const grpc::Status status = Baselines(role)->ApproveBaseline(Context().get(), request, &response);
    return status.ok() ? "" : ReasonIdOf(StatusFromGrpc(status));
  }
  v1::ListBaselinesResponse Listed() {
    v1::ListBaselinesResponse response;
    EXPECT_TRUE(Baselines("viewer")->ListBaselines(Context().get(), {}, &response).ok());
    return response;
  }
  // `sealift` as a person with this role runs it.
  std::string Sealift(const std::string& role, std::vector<std::string> argv, int exit_code = 0) {
    const auto certificate = OperatorCertificate(role);
    EXPECT_TRUE(WriteFileAtomically(dir_->path() / "person.pem", AsBytes(certificate.Pem())).ok());
    EXPECT_TRUE(WriteFileAtomically(dir_->path() / "person.key", AsBytes(certificate.KeyPem()), 0600).ok());
    EXPECT_TRUE(WriteFileAtomically(dir_->path() / "ca.pem", AsBytes(node_ca_.Pem())).ok());
    const std::string profile =
        fmt::format("address = \"{}\"\nca = \"ca.pem\"\ncert = \"person.pem\"\nkey = \"person.key\"\n",
                    server_->addresses().fleet);
    EXPECT_TRUE(WriteFileAtomically(dir_->path() / "profile.toml", AsBytes(profile), 0600).ok());
    argv.insert(argv.begin(), SEALIFT_BIN_DIR "/sealift");
    argv.insert(argv.end(), {"--profile", (dir_->path() / "profile.toml").string()});
    const auto run = RunCommand({.argv = argv, .timeout = std::chrono::seconds(60)});
    EXPECT_TRUE(run.ok() && run->exit_code == exit_code) << (run.ok() ? run->err : Describe(run.status()));
    return run.ok() ? run->out + run->err : "";
  }
  std::string IdOf(const v1::Baseline& baseline) { return HexEncode(AsBytes(baseline.id())); }

  const test::MeasuredBoot old_ = test::MeasuredBoot::Load();
  const test::MeasuredBoot new_ = test::WithFirmware(old_, "firmware 2");
  const test::MeasuredBoot implant_ = test::WithFirmware(old_, "an implant");
  std::map<int, test::SoftwareAk> aks_;
  v1::CheckInRequest last_boot_;
  int boots_ = 10;
};

TEST_F(BaselineTest, FromFirstMachinesToAnApprovalAnUpdateAndAnOutlier) {
  // Nothing approved: nothing is blocked.
  for (int node = 1; node <= 4; ++node)
    EXPECT_EQ(BootAndQuote(node, old_, "1").outcome(), v1::Verdict::TRUSTED) << node;
  EXPECT_EQ(stores_->nodes().Get(Id(1))->last_verdict->notes,
            std::vector<std::string>{"BASELINE_UNAPPROVED"});
  auto listed = Listed();
  ASSERT_EQ(listed.baselines_size(), 1);
  EXPECT_EQ(listed.baselines(0).standing(), v1::Baseline::CONFIRMED);
  EXPECT_EQ(listed.baselines(0).nodes(), 4u);
  const std::string first = IdOf(listed.baselines(0));
  EXPECT_EQ(Approve("operator", first), "RPC_NOT_PERMITTED");
  EXPECT_EQ(Approve("approver", "00"), "BASELINE_UNKNOWN");
  EXPECT_EQ(Approve("approver", first.substr(0, 12)), "");
  EXPECT_EQ(BootAndQuote(1, old_, "1").outcome(), v1::Verdict::TRUSTED);
  const auto approved_verdict = stores_->nodes().Get(Id(1))->last_verdict;
  EXPECT_TRUE(approved_verdict->notes.empty());
  EXPECT_EQ(approved_verdict->findings[0].outcome, "match");

  // An update: the first two machines alone could be anything, and the policy quarantines two of eight at
  // most.
  EXPECT_EQ(BootAndQuote(2, new_, "2").outcome(), v1::Verdict::UNTRUSTED);
  EXPECT_EQ(stores_->nodes().Get(Id(2))->admission, Admission::kQuarantined);
  ASSERT_TRUE(stores_->nodes().SetAdmission(Id(2), Admission::kAdmitted).ok());
  BootAndQuote(3, new_, "2");
  ASSERT_TRUE(stores_->nodes().SetAdmission(Id(3), Admission::kAdmitted).ok());
  for (const int node : {4, 2, 3})
    EXPECT_EQ(BootAndQuote(node, new_, "2").outcome(), v1::Verdict::TRUSTED) << node;

  // One machine shows something of its own.
  const auto odd = BootAndQuote(5, implant_, "1");
  EXPECT_EQ(odd.outcome(), v1::Verdict::UNTRUSTED);
  EXPECT_EQ(odd.reasons(0), "EVENT_NOT_ALLOWED");
  listed = Listed();
  ASSERT_EQ(listed.baselines_size(), 3) << listed.DebugString();
  EXPECT_EQ(listed.baselines(0).standing(), v1::Baseline::APPROVED);
  EXPECT_EQ(listed.baselines(0).approved_by(), "anna");
  EXPECT_EQ(listed.baselines(1).standing(), v1::Baseline::CONFIRMED);
  EXPECT_EQ(listed.baselines(1).nodes(), 3u);
  EXPECT_THAT(listed.baselines(1).difference(),
              HasSubstr("PCR 0: event 2: expected EV_EFI_PLATFORM_FIRMWARE_BLOB"));
  EXPECT_EQ(listed.baselines(2).standing(), v1::Baseline::OUTLIER);
  ASSERT_EQ(listed.baselines(2).node_ids_size(), 1);
  EXPECT_EQ(listed.baselines(2).node_ids(0), Id(5).text());

  // The same at the terminal.
  const std::string text = Sealift("viewer", {"attest", "baseline", "list"});
  EXPECT_THAT(text, HasSubstr("outlier"));
  EXPECT_THAT(text, HasSubstr(Id(5).text()));
  EXPECT_THAT(text, HasSubstr("differs: PCR 0: event 2"));
  const std::string second = IdOf(listed.baselines(1));
  EXPECT_THAT(Sealift("viewer", {"attest", "baseline", "approve", second}, 1),
              HasSubstr("RPC_NOT_PERMITTED"));
  const json approved =
      json::parse(Sealift("approver", {"attest", "baseline", "approve", second, "-o", "json"}));
  EXPECT_EQ(approved.at("standing"), "approved");
  const json shown = json::parse(Sealift("viewer", {"attest", "baseline", "show", second, "-o", "json"}));
  EXPECT_EQ(shown.at("registers").at("0"), new_.pcrs.at(0).hex());
  EXPECT_EQ(shown.at("nodes"), 3);
  EXPECT_THAT(Sealift("viewer", {"attest", "explain", Id(5).text()}),
              HasSubstr("PCR 0 (firmware code) is not as predicted: event 2: expected"));
  BootAndQuote(2, new_, "2");
  EXPECT_THAT(Sealift("viewer", {"attest", "explain", Id(2).text()}),
              HasSubstr("PCR 0 (firmware code) is as predicted."));
  Sealift("approver", {"attest", "baseline", "withdraw", second});
  Sealift("approver", {"attest", "baseline", "withdraw", first});
  BootAndQuote(2, new_, "2");
  EXPECT_THAT(Sealift("viewer", {"attest", "explain", Id(2).text()}), HasSubstr("has no approved baseline"));

  // Years later the evidence says the same, without the controller.
  const std::string file = (dir_->path() / "evidence.json").string();
  Sealift("viewer", {"attest", "show", Id(5).text(), "--evidence", file});
  const auto evidence = DecodeEvidenceFile(ReadTextFile(file).value());
  ASSERT_TRUE(evidence.ok()) << Describe(evidence.status());
  const auto again = JudgeAgain(evidence->record);
  ASSERT_TRUE(again.ok()) << Describe(again.status());
  EXPECT_EQ(again->trust, Trust::kUntrusted);
  EvidenceRecord other = evidence->record;
  other.baseline = EncodeFirmwareExpectation({});
  EXPECT_EQ(ReasonOf(JudgeAgain(other).status()), Reason::kEvidenceInvalid);

  // Who did what is written down.
  std::vector<std::string> acts;
  const auto audit = stores_->audit().List(0, 1000).value();
  for (const AuditRecord& record : audit)
    acts.push_back(record.rpc.substr(record.rpc.rfind('/') + 1) + " " + record.outcome);
  EXPECT_THAT(acts, ::testing::Contains("ApproveBaseline BASELINE_UNKNOWN"));
  EXPECT_THAT(acts, ::testing::Contains("ApproveBaseline OK").Times(2));
  EXPECT_THAT(acts, ::testing::Contains("WithdrawBaseline OK").Times(2));
  EXPECT_THAT(acts, ::testing::Contains("quarantine OK").Times(3));
}

TEST_F(BaselineTest, QuarantineStopsAtItsShareOfTheFleet) {
  for (int node = 1; node <= 3; ++node) BootAndQuote(node, old_, "1");
  ASSERT_EQ(Approve("approver", IdOf(Listed().baselines(0))), "");
  for (int node = 4; node <= 8; ++node)
    EXPECT_EQ(BootAndQuote(node, test::WithFirmware(old_, fmt::format("of its own {}", node)), "1").outcome(),
              v1::Verdict::UNTRUSTED);
  int quarantined = 0;
  for (int node = 1; node <= 8; ++node)
    quarantined += stores_->nodes().Get(Id(node))->admission == Admission::kQuarantined ? 1 : 0;
  EXPECT_EQ(quarantined, 2);
  int limited = 0;
  const auto audit = stores_->audit().List(0, 1000).value();
  for (const AuditRecord& record : audit) limited += record.outcome == "QUARANTINE_LIMIT" ? 1 : 0;
  EXPECT_EQ(limited, 3);
}

TEST_F(BaselineTest, ADegradedBootIsCuredByAReboot) {
  Verdict degraded{.trust = Trust::kTrusted, .decided = clock_.Now(), .degraded_boot = true};
  degraded.boot_id = "boot 1";
  ASSERT_TRUE(stores_->node_status().RecordVerdict(Id(1), degraded).ok());
  const auto ask = [&](const std::string& boot) {
    v1::CheckInRequest request;
    request.set_state(v1::IDLE);
    request.mutable_running()->set_version("1.0.0");
    request.mutable_running()->set_boot_id(boot);
    v1::CheckInResponse answer;
    EXPECT_TRUE(NodeStub(1)->CheckIn(Context().get(), request, &answer).ok());
    return answer.reboot_to_cure();
  };
  EXPECT_TRUE(ask("boot 1"));
  EXPECT_FALSE(ask("boot 2"));
  ASSERT_TRUE(stores_->nodes().SetAdmission(Id(1), Admission::kQuarantined).ok());
  EXPECT_FALSE(ask("boot 1"));
  degraded.degraded_boot = false;
  ASSERT_TRUE(stores_->nodes().SetAdmission(Id(1), Admission::kAdmitted).ok());
  ASSERT_TRUE(stores_->node_status().RecordVerdict(Id(1), degraded).ok());
  EXPECT_FALSE(ask("boot 1"));
}

}  // namespace
}  // namespace sealift::controller
