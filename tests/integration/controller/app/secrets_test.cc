// Secrets from end to end: a real controller, a real TPM (swtpm), and `sealift-agent secret` as it is
// installed. The verdict is scripted over a verified quote; everything else is what runs in the field.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <linux/keyctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "node-agent/link/enrolment.h"
#include "node-agent/tpm/esys_tpm.h"
#include "node-agent/tpm/tls_guard.h"
#include "sealift/v1/secret.grpc.pb.h"
#include "shared/release/manifest.h"
#include "shared/tpm/quote.h"
#include "shared/uki/pcr_policy.h"
#include "tests/integration/controller/app/controller_fixture.h"
#include "tests/support/places.h"
#include "tests/support/secret_keys.h"
#include "tests/support/status_matchers.h"
#include "tests/support/swtpm.h"
#include "tests/support/tools.h"

namespace sealift::controller {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view kValue = "the value of a secret\n";
constexpr char kAgent[] = SEALIFT_BIN_DIR "/sealift-agent";

// Believes what a quote under the node's own key shows, whatever the registers are.
class QuoteVerifyingAttestor final : public NodeAttestor {
 public:
  Result<Judgement> Attest(const Node& node, const AttestationEvidence& evidence, ByteView nonce,
                           UnixMillis now) override {
    const std::array<std::uint32_t, 4> required{7, 11, 12, 13};
    SEALIFT_ASSIGN_OR_RETURN(const tpm::PublicArea key, tpm::ParsePublic(node.ak_public));
    const auto quote =
        tpm::VerifyQuote({.attest = evidence.attest, .signature = evidence.signature, .pcrs = evidence.pcrs},
                         key, nonce, required);
    if (!quote.ok()) return Judgement{.verdict = RefusedEvidence(quote.status(), now)};
    return Judgement{.verdict = next};
  }
  Verdict next;
};

class SecretsTest : public ControllerTest {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "tpm2_pcrextend");
    ::setenv("TSS2_LOG", "all+NONE", 1);
    secret_keys_ = std::make_shared<test::SoftwareSecretKeys>();
    server_attestor_ = &verifying_;
    ControllerTest::SetUp();
    swtpm_ = test::Swtpm::Start({.ek_certificate = false});
    Boot('f', 'i');
    PutRelease("1.0");
    EnrolMachine();
    WriteAgentFiles();
  }

  void Boot(char firmware, char image) {
    swtpm_->PowerCycle();
    Measure(7, firmware);
    Measure(11, image);
    // Another port each time.
    WriteAgentFiles();
  }
  void Measure(unsigned pcr, char with) {
    swtpm_->Tool({"tpm2_pcrextend", std::to_string(pcr) + ":sha256=" +
                                        HexEncode(Sha256(Bytes(1, static_cast<std::uint8_t>(with))).view())});
  }
  void PutRelease(const std::string& version) {
    Manifest manifest{.channel = "stable", .version = version, .hardware_class = "generic-x86_64"};
    manifest.minimum_agent_version = "0.1";
    manifest.stub_version = "252.39";
    manifest.files.push_back({.path = "EFI/kairos/norole.efi", .digest = Sha256({}), .size = 1});
    manifest.pcr11.push_back({.phase = "", .pcr11 = Sha256({})});
    manifest.pcr_keys = {policy_key_->public_key().key_id()};
    const std::string json = SerializeManifest(manifest);
    ASSERT_TRUE(stores_->releases()
                    .Put({.channel = "stable",
                          .version = version,
                          .release_id = ReleaseIdOf(json),
                          .manifest_json = json})
                    .ok());
    verifying_.next = {.trust = Trust::kTrusted, .release_version = version, .release_id = ReleaseIdOf(json)};
  }
  // As enrolment leaves it: keys in the TPM, a certificate for the TLS key, the node's record.
  void EnrolMachine() {
    const std::filesystem::path state = dir_->path() / "agent";
    ASSERT_TRUE(MakeDirectories(state, 0700).ok());
    auto guard = agent::LoadOrMakeTlsGuard(state / agent::kTlsGuardFileName);
    ASSERT_TRUE(guard.ok());
    const auto device = agent::OpenTpmDevice({.tcti = swtpm_->tcti()}).value();
    const auto tpm = agent::MakeEsysTpm(device, *std::move(guard));
    const auto keys = tpm->EnsureKeys();
    ASSERT_TRUE(keys.ok()) << Describe(keys.status());
    const auto endorsement = tpm::ParsePublic(tpm->ReadEndorsementKey()->public_area).value();
    Node node{.id = Id(1), .ek_digest = endorsement.key.key_id(), .ak_public = keys->attestation};
    node.admission = Admission::kAdmitted;
    node.labels = {{"site", "lab"}};
    ASSERT_TRUE(stores_->nodes().Enrol(node).ok());
    const auto issued = IssueCertificate({.common_name = Id(1).text(),
                                          .uris = {Id(1).SubjectUri()},
                                          .client_auth = true,
                                          .not_before = clock_.Now() - std::chrono::hours(1),
                                          .not_after = clock_.Now() + std::chrono::hours(20)},
                                         tpm::ParsePublic(keys->tls)->key, node_ca_.key,
                                         *Certificate::FromPem(node_ca_.Pem()), "test");
    ASSERT_TRUE(issued.ok()) << Describe(issued.status());
    ASSERT_TRUE(WriteFileAtomically(state / agent::kIdentityFileName, AsBytes(issued->Pem()), 0600).ok());
  }
  void WriteAgentFiles() {
    if (server_ == nullptr) return;
    const auto put = [&](const std::string& name, const std::string& text) {
      ASSERT_TRUE(WriteFileAtomically(dir_->path() / name, AsBytes(text)).ok());
    };
    ASSERT_TRUE(MakeDirectories(dir_->path() / "extra").ok());
    put("extra/tpm2-pcr-public-key.pem", policy_key_->public_key().Pem());
    put("extra/tpm2-pcr-signature.json", "{}");
    put("event-log", "not read here");
    const std::string root = ReadTextFile(dir_->path() / "1.root.json").value();
    const std::string folder = dir_->path().string();
    // `/proc` is a mounted file system on every Linux; the state itself lies in the test's folder.
    put("node.toml",
        fmt::format("[controller]\naddress = '{}'\nenrolment_address = '{}'\nca_pem = '''\n{}'''\n"
                    "[tuf]\nroot_json = '''{}'''\n[state]\npath = '{}/agent'\nmount = '/proc'\n"
                    "runtime = '{}/run'\n[tpm]\ntcti = '{}'\nevent_log = '{}/event-log'\n",
                    server_->addresses().fleet, server_->addresses().enrolment, node_ca_.Pem(), root, folder,
                    folder, swtpm_->tcti(), folder));
  }
  // What an image brings that was signed for the registers as they are now.
  void SignForNow() {
    const auto device = agent::OpenTpmDevice({.tcti = swtpm_->tcti()}).value();
    const auto values = agent::MakeEsysVault(device)->ReadPcrs(agent::kSecretSignedPcrs).value();
    const Sha256Digest policy = uki::PcrPolicyDigest({values.begin(), values.end()});
    const uki::PcrSignatures signatures{
        {"sha256",
         {{.pcrs = {11, 12, 13},
           .key_fingerprint = policy_key_->public_key().Pkcs1Fingerprint().value(),
           .policy = policy,
           .signature = policy_key_->SignMessage(policy.view(), "test").value()}}}};
    ASSERT_TRUE(WriteFileAtomically(dir_->path() / "extra/tpm2-pcr-signature.json",
                                    AsBytes(uki::FormatPcrSignatures(signatures)))
                    .ok());
  }
  CommandOutput Agent(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {kAgent, "secret"});
    arguments.insert(arguments.end(), {"--config", (dir_->path() / "node.toml").string(), "--extra",
                                       (dir_->path() / "extra").string()});
    return test::RunTool(arguments);
  }
  std::unique_ptr<v1::SecretService::Stub> Operators(const std::string& role) {
    const auto certificate = OperatorCertificate(role);
    return v1::SecretService::NewStub(ChannelTo(server_->addresses().fleet, &certificate));
  }
  Status Put(const std::string& name, const std::string& releases = "stable:*", bool boot_only = false) {
    v1::PutSecretRequest request;
    request.set_name(name);
    request.set_value(std::string(kValue));
    request.set_selector("site=lab");
    request.set_releases(releases);
    request.set_boot_only(boot_only);
    v1::Secret secret;
    const grpc::Status status = Operators("approver")->PutSecret(Context().get(), request, &secret);
    EXPECT_EQ(secret.ByteSizeLong() == 0, !status.ok());
    return StatusFromGrpc(status);
  }
  std::vector<AuditRecord> FetchesAudited() {
    auto all = stores_->audit().List(0, 1000).value();
    std::erase_if(all, [](const AuditRecord& one) { return !one.rpc.ends_with("/FetchSecret"); });
    return all;
  }

  QuoteVerifyingAttestor verifying_;
  std::unique_ptr<test::Swtpm> swtpm_;
  std::unique_ptr<SoftwareSigner> policy_key_ = SoftwareSigner::Generate(KeyType::kRsa).value();
};

TEST_F(SecretsTest, FetchedOnAQuoteKeptAndOpenedAgainUnderThisImageAlone) {
  ASSERT_TRUE(Put("site-key").ok());
  auto output = Agent({"fetch", "site-key", "--out", "-"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, kValue);
  // In a file of its own, for its owner alone.
  const auto file = dir_->path() / "value";
  EXPECT_EQ(Agent({"open", "site-key", "--out", file.string()}).exit_code, 0);
  EXPECT_EQ(ReadTextFile(file).value(), kValue);
  EXPECT_TRUE(CheckSecretFile(file).ok());
  // What is kept shows nothing.
  const auto kept = dir_->path() / "agent/secrets/site-key.json";
  EXPECT_TRUE(CheckSecretFile(kept).ok());
  EXPECT_EQ(ReadTextFile(kept)->find("value of"), std::string::npos);
  // Without the controller, after a reboot into the same image.
  server_->Stop();
  Boot('f', 'i');
  output = Agent({"open", "site-key", "--out", "-"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, kValue);
  // Another image, another Secure Boot state, something beside it.
  for (const auto& [firmware, image] : {std::pair('f', 'o'), std::pair('o', 'i')}) {
    Boot(firmware, image);
    output = Agent({"open", "site-key", "--out", "-"});
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_THAT(output.err, HasSubstr("SECRET_WITHHELD"));
    EXPECT_EQ(output.out, "");
  }
  Boot('f', 'i');
  Measure(13, 'x');
  EXPECT_EQ(Agent({"open", "site-key", "--out", "-"}).exit_code, 1);
}

TEST_F(SecretsTest, GoesIntoTheKernelsKeyringWithoutAFile) {
  ASSERT_TRUE(Put("site-key").ok());
  const std::string key = fmt::format("sealift-test-{}", ::getpid());
  const auto output = Agent({"fetch", "site-key", "--no-keep", "--keyring", key});
  if (output.err.find("add_key") != std::string::npos) GTEST_SKIP() << output.err;
  ASSERT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, "");
  EXPECT_FALSE(std::filesystem::exists(dir_->path() / "agent/secrets/site-key.json"));
  const long found = ::syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, "user", key.c_str(), 0);
  ASSERT_GT(found, 0);
  std::string value(64, '\0');
  const long size = ::syscall(SYS_keyctl, KEYCTL_READ, found, value.data(), value.size());
  EXPECT_EQ(::syscall(SYS_keyctl, KEYCTL_UNLINK, found, KEY_SPEC_USER_KEYRING), 0);
  ASSERT_GT(size, 0);
  EXPECT_EQ(value.substr(0, static_cast<std::size_t>(size)), kValue);
}

TEST_F(SecretsTest, ABootOnlySecretOpensInThePhaseThatWasSignedFor) {
  ASSERT_TRUE(Put("disk-key", "stable:*", true).ok());
  ASSERT_EQ(Agent({"fetch", "disk-key"}).exit_code, 0);
  EXPECT_THAT(Agent({"open", "disk-key", "--out", "-"}).err, HasSubstr("SECRET_WITHHELD"));
  // The next boot, where the image's signature is for the registers.
  Boot('f', 'n');
  SignForNow();
  auto output = Agent({"open", "disk-key", "--out", "-"});
  EXPECT_EQ(output.out, kValue) << output.err;
  Measure(11, 's');
  output = Agent({"open", "disk-key", "--out", "-"});
  EXPECT_THAT(output.err, HasSubstr("SECRET_WITHHELD"));
  EXPECT_EQ(output.out, "");
}

TEST_F(SecretsTest, WithheldUnknownAndGivenAreAllInTheAuditLogWithTheQuotesDigest) {
  EXPECT_THAT(Agent({"fetch", "nothing"}).err, HasSubstr("SECRET_UNKNOWN"));
  ASSERT_TRUE(Put("site-key", "stable:2.0..").ok());
  EXPECT_THAT(Agent({"fetch", "site-key", "--out", "-"}).err, HasSubstr("SECRET_WITHHELD"));
  ASSERT_TRUE(Put("site-key", "stable:1.0").ok());
  verifying_.next.trust = Trust::kUntrusted;
  EXPECT_THAT(Agent({"fetch", "site-key", "--out", "-"}).err, HasSubstr("SECRET_WITHHELD"));
  EXPECT_FALSE(std::filesystem::exists(dir_->path() / "agent/secrets/site-key.json"));
  verifying_.next.trust = Trust::kTrusted;
  EXPECT_EQ(Agent({"fetch", "site-key", "--out", "-"}).out, kValue);
  const auto audited = FetchesAudited();
  ASSERT_EQ(audited.size(), 3u);
  EXPECT_EQ(audited[0].outcome, "SECRET_WITHHELD");
  EXPECT_EQ(audited[1].outcome, "SECRET_WITHHELD");
  EXPECT_EQ(audited[2].outcome, "OK");
  EXPECT_EQ(audited[2].operator_name, Id(1).text());
  EXPECT_EQ(audited[2].role, "node");
  v1::GetSecretRequest request;
  request.set_name("site-key");
  v1::GetSecretResponse shown;
  ASSERT_TRUE(Operators("viewer")->GetSecret(Context().get(), request, &shown).ok());
  ASSERT_EQ(shown.deliveries_size(), 1);
  const std::string quote = HexEncode(AsBytes(shown.deliveries(0).quote_digest()));
  EXPECT_EQ(audited[2].request, "secret site-key " + shown.deliveries(0).id() + " quote " + quote);
  // The quote it was given for is kept and can be looked at.
  const auto evidence = stores_->evidence().History(Id(1), 1).value();
  ASSERT_EQ(evidence.size(), 1u);
  EXPECT_EQ(HexEncode(Sha256(evidence.front().attest).view()), quote);
  // A node thrown out gets nothing, from the next call on.
  ASSERT_TRUE(stores_->nodes().SetAdmission(Id(1), Admission::kQuarantined).ok());
  EXPECT_THAT(Agent({"fetch", "site-key", "--out", "-"}).err, HasSubstr("NODE_NOT_ADMITTED"));
  // Revoked: nobody does.
  ASSERT_TRUE(stores_->nodes().SetAdmission(Id(1), Admission::kAdmitted).ok());
  v1::RevokeSecretRequest revoke;
  revoke.set_name("site-key");
  v1::Secret revoked;
  ASSERT_TRUE(Operators("approver")->RevokeSecret(Context().get(), revoke, &revoked).ok());
  EXPECT_NE(revoked.revoked_unix_ms(), 0);
  EXPECT_THAT(Agent({"fetch", "site-key", "--out", "-"}).err, HasSubstr("SECRET_UNKNOWN"));
}

TEST_F(SecretsTest, NothingWithoutANonceOfThisCallAndNothingForHammering) {
  ASSERT_TRUE(Put("site-key").ok());
  const auto certificate = NodeCertificate(1);
  const auto stub = v1::NodeSecretService::NewStub(ChannelTo(server_->addresses().fleet, &certificate));
  v1::FetchSecretRequest fetch;
  fetch.set_name("site-key");
  fetch.mutable_quote()->set_attest("attest");
  v1::FetchSecretResponse response;
  EXPECT_THAT(test::ReasonIdFrom(StatusFromGrpc(stub->FetchSecret(Context().get(), fetch, &response))),
              "QUOTE_NONCE_STALE");
  v1::BeginFetchSecretRequest begin;
  begin.set_name("site-key");
  v1::BeginFetchSecretResponse begun;
  ASSERT_TRUE(stub->BeginFetchSecret(Context().get(), begin, &begun).ok());
  EXPECT_EQ(begun.nonce().size(), 32u);
  // A quote that is none is judged so; the nonce is spent either way.
  EXPECT_THAT(test::ReasonIdFrom(StatusFromGrpc(stub->FetchSecret(Context().get(), fetch, &response))),
              "SECRET_WITHHELD");
  EXPECT_THAT(test::ReasonIdFrom(StatusFromGrpc(stub->FetchSecret(Context().get(), fetch, &response))),
              "QUOTE_NONCE_STALE");
  EXPECT_EQ(response.ByteSizeLong(), 0u);
  std::string last;
  for (int i = 0; i < 30 && last != "SERVER_BUSY"; ++i)
    last = test::ReasonIdFrom(StatusFromGrpc(stub->BeginFetchSecret(Context().get(), begin, &begun)));
  EXPECT_EQ(last, "SERVER_BUSY");
  // Who is turned away so does not fill the audit log.
  EXPECT_EQ(FetchesAudited().size(), 3u);
}

TEST_F(SecretsTest, OperatorsSeeWhatThereIsAndNeverAValue) {
  ASSERT_TRUE(Put("site-key", "stable:1.0..2.0").ok());
  v1::PutSecretRequest request;
  request.set_name("another");
  request.set_value("x");
  request.set_releases("stable:*");
  request.set_node_id("no such node");
  v1::Secret secret;
  EXPECT_EQ(
      test::ReasonIdFrom(StatusFromGrpc(Operators("approver")->PutSecret(Context().get(), request, &secret))),
      "NODE_UNKNOWN");
  request.set_node_id(Id(1).text().substr(0, 12));
  ASSERT_TRUE(Operators("approver")->PutSecret(Context().get(), request, &secret).ok());
  EXPECT_EQ(secret.node_id(), Id(1).text());
  v1::ListSecretsResponse list;
  ASSERT_TRUE(Operators("viewer")->ListSecrets(Context().get(), {}, &list).ok());
  ASSERT_EQ(list.secrets_size(), 2);
  EXPECT_EQ(list.secrets(1).releases(), "stable:1.0..2.0");
  const auto audited = stores_->audit().List(0, 1000).value();
  for (const AuditRecord& one : audited)
    EXPECT_EQ(one.request.find("value of"), std::string::npos) << one.request;
  // Nor does it lie in the database's files.
  server_->Stop();
  for (const auto& entry : std::filesystem::directory_iterator(dir_->path() / "state")) {
    if (!entry.is_regular_file()) continue;
    EXPECT_EQ(ReadTextFile(entry.path())->find("value of a secret"), std::string::npos) << entry.path();
  }
}

}  // namespace
}  // namespace sealift::controller
