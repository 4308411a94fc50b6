// The agent's side of the wire against a real gRPC server on loopback, with a real TPM (swtpm) holding the
// keys.
#include "node-agent/link/controller_link.h"

#include <gtest/gtest.h>

#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/tpm/tls_signer.h"
#include "shared/crypto/key_reference.h"
#include "tests/support/status_matchers.h"
#include "tests/support/swtpm.h"
#include "tests/support/test_controller.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;

// One TPM for all tests: its keys are what takes time.
class LinkTest : public testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "swtpm_localca");
    ::setenv("TSS2_LOG", "all+NONE", 1);
    wire::InitialiseGrpc();
    ASSERT_TRUE(InstallKeyProvider().ok());
    if (tpm_ == nullptr) {
      swtpm_ = test::Swtpm::Start({.ek_certificate = true});
      auto opened = OpenEsysTpm({.tcti = swtpm_->tcti()});
      ASSERT_TRUE(opened.ok()) << Describe(opened.status());
      tpm_ = std::move(opened).value();
      RegisterTpmKeyResolver(tpm_);
      auto signer = MakeTlsSigner(tpm_);
      ASSERT_TRUE(signer.ok()) << Describe(signer.status());
      signer_ = *signer;
    }
  }
  static void TearDownTestSuite() {
    signer_.reset();
    tpm_.reset();
    swtpm_.reset();
  }

  Result<EnrolmentAnswer> EnrolWith(test::TestController& controller) {
    auto client = OpenEnrolmentClient(controller.Address());
    if (!client.ok()) return client.status();
    return Enrol(*tpm_, signer_, **client, [] { return Result<Bytes>(ToBytes("an event log")); });
  }
  // A link that the controller accepts.
  std::unique_ptr<ControllerLink> Connected(test::TestController& controller, LinkDeadlines deadlines = {}) {
    auto link = std::make_unique<ControllerLink>(controller.Address(), deadlines);
    auto answer = EnrolWith(controller);
    EXPECT_TRUE(answer.ok()) << Describe(answer.status());
    EXPECT_TRUE(answer.ok() && answer->identity);
    if (answer.ok() && answer->identity) {
      EXPECT_TRUE(link->Use(*answer->identity).ok());
    }
    return link;
  }

  inline static std::unique_ptr<test::Swtpm> swtpm_;
  inline static std::shared_ptr<Tpm> tpm_;
  inline static std::shared_ptr<Signer> signer_;
};

TEST_F(LinkTest, EnrolsAndSpeaksWithAKeyThatStaysInTheTpm) {
  test::TestController controller;
  auto answer = EnrolWith(controller);
  ASSERT_TRUE(answer.ok()) << Describe(answer.status());
  ASSERT_TRUE(answer->identity);
  EXPECT_EQ(answer->identity->chain.front().public_key(), signer_->public_key());

  ControllerLink link(controller.Address());
  EXPECT_EQ(ReasonIdFrom(link.SendCheckIn({})), "NOT_ENROLLED");
  ASSERT_TRUE(link.Use(*answer->identity).ok());
  {
    const auto lock = controller.Lock();
    controller.answers.check_in.set_poll_after_ms(1234);
    controller.answers.check_in.mutable_desired()->set_version("2.0");
    controller.answers.check_in.mutable_desired()->set_channel("stable");
    controller.answers.want_quote = true;
  }
  CheckIn check_in{.boot_id = "boot", .agent_version = "1.2", .labels = {{"site", "lab"}}};
  check_in.status.state = UpdateState::kAssessing;
  check_in.status.running = BootInventory{.running_role = BootRole::kActive, .running_version = "1.0"};
  check_in.status.failures = {{.version = "1.9", .reason = "FELL_BACK", .at = FromUnixMs(17)}};
  check_in.status.health.healthy = true;
  check_in.status.journal = MakeError(Code::kDataLoss, Reason::kJournalForked, "two stories");
  auto told = link.SendCheckIn(check_in);
  ASSERT_TRUE(told.ok()) << Describe(told.status());
  EXPECT_EQ(told->poll_after, std::chrono::milliseconds(1234));
  EXPECT_EQ(told->desired, (DesiredRelease{.channel = "stable", .version = "2.0"}));
  ASSERT_EQ(told->quote_nonce.size(), 32u);
  auto quote = tpm_->Quote(told->quote_nonce, kQuotedPcrs);
  ASSERT_TRUE(quote.ok());
  auto verdict = link.Attest(*quote, AsBytes("log"), std::nullopt,
                             HardwareModel{.vendor = "QEMU", .product = "pc", .firmware_version = "1"});
  ASSERT_TRUE(verdict.ok()) << Describe(verdict.status());
  EXPECT_EQ(verdict->outcome, AttestAnswer::Outcome::kTrusted);

  const auto lock = controller.Lock();
  EXPECT_EQ(controller.seen.peer_uri, answer->identity->id.SubjectUri());
  EXPECT_EQ(controller.seen.event_log, "log");
  ASSERT_EQ(controller.seen.check_ins.size(), 1u);
  const v1::CheckInRequest& seen = controller.seen.check_ins.front();
  EXPECT_EQ(seen.state(), v1::ASSESSING);
  EXPECT_EQ(seen.running().role(), "active");
  EXPECT_EQ(seen.running().boot_id(), "boot");
  EXPECT_EQ(seen.failures(0).reason(), "FELL_BACK");
  EXPECT_EQ(seen.labels().at("site"), "lab");
  EXPECT_TRUE(seen.healthy());
  ASSERT_EQ(seen.findings_size(), 1);
  EXPECT_EQ(seen.findings(0).reason(), "JOURNAL_FORKED");
  EXPECT_EQ(seen.findings(0).message(), "two stories");
  EXPECT_FALSE(seen.has_fetch());
}

TEST_F(LinkTest, TellsHowFarAFetchIs) {
  test::TestController controller;
  const auto link = Connected(controller);
  CheckIn check_in{.boot_id = "boot"};
  check_in.status.state = UpdateState::kFetching;
  check_in.status.fetched_bytes = 70;
  check_in.status.fetch_size = 100;
  ASSERT_TRUE(link->SendCheckIn(check_in).ok());
  check_in.status.fetched_bytes = 101;  // what was fetched for nothing counts, too
  ASSERT_TRUE(link->SendCheckIn(check_in).ok());
  const auto lock = controller.Lock();
  EXPECT_EQ(controller.seen.check_ins.at(0).fetch().fetched_bytes(), 70u);
  EXPECT_EQ(controller.seen.check_ins.at(0).fetch().size_bytes(), 100u);
  EXPECT_EQ(controller.seen.check_ins.at(1).fetch().fetched_bytes(), 100u);
}

TEST_F(LinkTest, NamesItsBootBeforeItKnowsWhatRuns) {
  test::TestController controller;
  const auto link = Connected(controller);
  ASSERT_TRUE(link->SendCheckIn({.boot_id = "boot"}).ok());
  const auto lock = controller.Lock();
  EXPECT_EQ(controller.seen.check_ins.at(0).running().boot_id(), "boot");
  EXPECT_EQ(controller.seen.check_ins.at(0).running().version(), "");
}

TEST_F(LinkTest, TellsPendingAndRefusedApart) {
  test::TestController controller;
  {
    const auto lock = controller.Lock();
    controller.answers.enrolment = v1::CompleteResponse::PENDING;
    controller.answers.enrolment_reason = "EK_NOT_ADMITTED";
  }
  auto pending = EnrolWith(controller);
  ASSERT_TRUE(pending.ok()) << Describe(pending.status());
  EXPECT_EQ(pending->state, EnrolmentState::kPending);
  EXPECT_EQ(pending->reason, "EK_NOT_ADMITTED");
  EXPECT_FALSE(pending->identity);
  {
    const auto lock = controller.Lock();
    controller.answers.enrolment = v1::CompleteResponse::REFUSED;
  }
  EXPECT_EQ(EnrolWith(controller)->state, EnrolmentState::kRefused);
}

TEST_F(LinkTest, DoesNotSpeakWithAServerOfAnotherCa) {
  test::TestController real;
  test::TestController impostor;
  ControllerAddress address = impostor.Address();
  address.ca_pem = real.ca().Pem();
  auto client = OpenEnrolmentClient(address, {.call = std::chrono::seconds(5)});
  ASSERT_TRUE(client.ok());
  auto answer = Enrol(*tpm_, signer_, **client, [] { return Result<Bytes>(Bytes()); });
  EXPECT_EQ(answer.status().code(), Code::kUnavailable) << Describe(answer.status());
  EXPECT_EQ(impostor.seen.begins, 0);
}

TEST_F(LinkTest, IsRefusedByAControllerThatDidNotIssueItsCertificate) {
  test::TestController home;
  test::TestController other;
  auto answer = EnrolWith(home);
  ASSERT_TRUE(answer.ok() && answer->identity);
  ControllerLink link(other.Address(), {.call = std::chrono::seconds(5)});
  ASSERT_TRUE(link.Use(*answer->identity).ok());
  EXPECT_FALSE(link.SendCheckIn({}).ok());
  EXPECT_TRUE(other.seen.check_ins.empty());
}

TEST_F(LinkTest, GivesUpOnASilentController) {
  test::TestController controller;
  auto link = Connected(controller,
                        {.call = std::chrono::milliseconds(300), .content = std::chrono::milliseconds(300)});
  {
    const auto lock = controller.Lock();
    controller.answers.silent = true;
  }
  EXPECT_EQ(ReasonIdFrom(link->SendCheckIn({})), "TIMEOUT");
  EXPECT_EQ(ReasonIdFrom(link->GetMetadata("timestamp.json")), "TIMEOUT");
  EXPECT_EQ(ReasonIdFrom(link->FetchContent({}, 0, [](ByteView) { return OkStatus(); })), "TIMEOUT");
}

TEST_F(LinkTest, PassesTheControllersReasonOn) {
  test::TestController controller;
  auto link = Connected(controller);
  {
    const auto lock = controller.Lock();
    controller.answers.refuse =
        MakeError(Code::kPermissionDenied, Reason::kCertificateInvalid, "call: certificate is revoked");
  }
  const auto answer = link->SendCheckIn({});
  EXPECT_EQ(answer.status().code(), Code::kPermissionDenied);
  EXPECT_EQ(ReasonIdFrom(answer), "CERTIFICATE_INVALID");
}

TEST_F(LinkTest, RefusesAnswersThatNoControllerGives) {
  test::TestController controller;
  auto link = Connected(controller);
  const auto after = [&](auto&& change) {
    {
      const auto lock = controller.Lock();
      controller.answers.check_in.Clear();
      change(controller.answers.check_in);
    }
    return ReasonIdFrom(link->SendCheckIn({}));
  };
  EXPECT_EQ(after([](auto& response) { response.set_quote_nonce("short"); }), "MALFORMED");
  EXPECT_EQ(after([](auto& response) { response.mutable_desired()->set_version("../../etc"); }), "MALFORMED");
  EXPECT_EQ(after([](auto& response) {
              response.mutable_desired()->set_version("2.0");
              response.mutable_desired()->set_release_id("short");
            }),
            "MALFORMED");
  EXPECT_EQ(after([](auto& response) {
              for (int i = 0; i < 17; ++i) response.add_signed_orders("x");
            }),
            "MALFORMED");
  EXPECT_EQ(after([](auto&) {}), "NONE");
  // Neither silent for ever nor without a pause.
  EXPECT_EQ(link->SendCheckIn({})->poll_after, std::chrono::milliseconds(100));
  {
    const auto lock = controller.Lock();
    controller.answers.check_in.set_poll_after_ms(0xffffffff);
  }
  EXPECT_EQ(link->SendCheckIn({})->poll_after, std::chrono::hours(24));
}

TEST_F(LinkTest, GoesOnWithABrokenDownloadWhereItStopped) {
  test::TestController controller;
  auto link = Connected(controller);
  Bytes object(100'000);
  for (std::size_t i = 0; i < object.size(); ++i) object[i] = static_cast<std::uint8_t>(i * 7);
  const Sha256Digest digest = Sha256(object);
  {
    const auto lock = controller.Lock();
    controller.answers.content[digest] = object;
    controller.answers.break_after = 40 * 1024;
  }
  LinkContentSource source(*link);
  const TempDir dir = TempDir::Create("sealift-download").value();
  const content::DownloadRequest request{
      .digest = digest, .size = object.size(), .file = dir.path() / "object"};
  int tries = 0;
  Status status;
  do {
    status = content::Download(source, request);
  } while (!status.ok() && ++tries < 5);
  ASSERT_TRUE(status.ok()) << Describe(status);
  EXPECT_EQ(ReadFile(dir.path() / "object").value(), object);
  const auto lock = controller.Lock();
  EXPECT_EQ(controller.seen.offsets, (std::vector<std::uint64_t>{0, 40 * 1024, 80 * 1024}));
}

TEST_F(LinkTest, MetadataIsBoundedAndMissingMetadataIsNotFound) {
  test::TestController controller;
  auto link = Connected(controller);
  {
    const auto lock = controller.Lock();
    controller.answers.metadata["timestamp.json"] = "0123456789";
  }
  LinkMetadataSource source(*link);
  EXPECT_EQ(*source.Fetch("timestamp.json", 10), "0123456789");
  EXPECT_EQ(ReasonIdFrom(source.Fetch("timestamp.json", 9)), "TUF_TOO_LARGE");
  EXPECT_EQ(source.Fetch("2.root.json", 100).status().code(), Code::kNotFound);
}

TEST_F(LinkTest, KeepsItsCertificateAcrossProcessesAndDropsOneOfNoUse) {
  test::TestController controller;
  auto answer = EnrolWith(controller);
  ASSERT_TRUE(answer.ok() && answer->identity);
  const TempDir dir = TempDir::Create("sealift-identity").value();
  const IdentityFile file(dir.path() / "node-certificate.pem");
  const UnixMillis now = SystemClock().Now();
  EXPECT_FALSE(file.Load(signer_->public_key(), now));
  ASSERT_TRUE(file.Save(*answer->identity).ok());
  auto loaded = file.Load(signer_->public_key(), now);
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->id, answer->identity->id);
  EXPECT_FALSE(file.Load(signer_->public_key(), answer->identity->not_after() + std::chrono::seconds(1)));
  const auto other = SoftwareSigner::Generate(KeyType::kEcP256).value();
  EXPECT_FALSE(file.Load(other->public_key(), now));
  ASSERT_TRUE(WriteFileAtomically(dir.path() / "node-certificate.pem", AsBytes("garbage")).ok());
  EXPECT_FALSE(file.Load(signer_->public_key(), now));
}

}  // namespace
}  // namespace sealift::agent
