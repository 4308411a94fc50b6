// Secrets encrypted to a TPM from outside: swtpm imports and opens them, for one image in one Secure Boot
// state, and tpm2-tools do the same with the same bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "node-agent/tpm/esys_tpm.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/signer.h"
#include "shared/uki/pcr_policy.h"
#include "tests/support/status_matchers.h"
#include "tests/support/swtpm.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;
using test::Swtpm;
using ::testing::HasSubstr;

constexpr std::string_view kSecret = "the key of a disk";
constexpr std::array<std::uint32_t, 4> kRunning{7, 11, 12, 13};

class EsysImporterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "tpm2_pcrextend");
    ::setenv("TSS2_LOG", "all+NONE", 1);
    swtpm_ = Swtpm::Start({.ek_certificate = false});
    Boot('f', 'i');
  }
  // A swtpm serves one connection at a time: each use opens its own.
  static std::shared_ptr<TpmDevice> Device(const Swtpm& swtpm) {
    auto device = OpenTpmDevice({.tcti = swtpm.tcti()});
    EXPECT_TRUE(device.ok()) << Describe(device.status());
    return *device;
  }
  void Boot(char firmware, char image) {
    swtpm_->PowerCycle();
    Measure(7, firmware);
    Measure(11, image);
  }
  void Measure(unsigned pcr, char with) {
    swtpm_->Tool({"tpm2_pcrextend", std::to_string(pcr) + ":sha256=" +
                                        HexEncode(Sha256(Bytes(1, static_cast<std::uint8_t>(with))).view())});
  }
  tpm::PcrValues Registers(std::span<const std::uint32_t> pcrs) {
    return MakeEsysVault(Device(*swtpm_))->ReadPcrs(pcrs).value();
  }
  tpm::ReleasePolicy PolicyOfNow(bool running) {
    tpm::PcrValues now = Registers(kRunning);
    tpm::ReleasePolicy policy{
        .policy_key = key_->public_key(), .fixed = {{7, now.at(7)}}, .running = std::nullopt};
    if (running) policy.running = now;
    return policy;
  }
  SignedPcrs ApprovalOfNow() {
    const auto values = Registers(kSecretSignedPcrs);
    const Sha256Digest policy = uki::PcrPolicyDigest({values.begin(), values.end()});
    return {.policy = policy, .signature = key_->SignMessage(policy.view(), "test").value()};
  }
  // As a controller makes it, from the public half alone.
  static tpm::DuplicatedSecret EncryptedTo(const Swtpm& swtpm, const tpm::ReleasePolicy& policy) {
    const auto endorsement = MakeEsysTpm(Device(swtpm))->ReadEndorsementKey().value();
    auto made =
        tpm::DuplicateSecret(tpm::ParsePublic(endorsement.public_area).value(), SecretBytes(AsBytes(kSecret)),
                             tpm::DigestReleasePolicy(policy).value().whole);
    EXPECT_TRUE(made.ok()) << Describe(made.status());
    return *made;
  }
  Result<ImportedObject> Import(const tpm::DuplicatedSecret& object, const tpm::ReleasePolicy& policy) {
    return MakeEsysImporter(Device(*swtpm_))->Import(object, policy);
  }
  ImportedObject Imported(const tpm::ReleasePolicy& policy) {
    auto imported = Import(EncryptedTo(*swtpm_, policy), policy);
    EXPECT_TRUE(imported.ok()) << Describe(imported.status());
    return imported.ok() ? *imported : ImportedObject();
  }
  Result<SecretBytes> Unseal(const ImportedObject& object, const tpm::ReleasePolicy& policy,
                             const std::optional<SignedPcrs>& approval = std::nullopt) {
    return MakeEsysImporter(Device(*swtpm_))->Unseal(object, policy, approval);
  }
  std::string Put(const std::string& name, ByteView bytes) {
    EXPECT_TRUE(WriteFileAtomically(swtpm_->folder() / name, bytes).ok());
    return name;
  }
  // A session that satisfies the endorsement key's policy.
  std::string EndorsementSession() {
    swtpm_->Tool({"tpm2_startauthsession", "--policy-session", "-S", "ek.session"});
    swtpm_->Tool({"tpm2_policysecret", "-S", "ek.session", "-c", "e"});
    return "session:ek.session";
  }

  std::unique_ptr<Swtpm> swtpm_;
  const std::unique_ptr<SoftwareSigner> key_ = SoftwareSigner::Generate(KeyType::kRsa).value();
};

TEST_F(EsysImporterTest, OpensWhereItWasProvenAndAfterARebootIntoTheSameImage) {
  const tpm::ReleasePolicy policy = PolicyOfNow(true);
  const ImportedObject object = Imported(policy);
  auto opened = Unseal(object, policy);
  ASSERT_TRUE(opened.ok()) << Describe(opened.status());
  EXPECT_TRUE(opened->Equals(AsBytes(kSecret)));
  Boot('f', 'i');
  opened = Unseal(object, policy);
  ASSERT_TRUE(opened.ok()) << Describe(opened.status());
  EXPECT_TRUE(opened->Equals(AsBytes(kSecret)));
  EXPECT_EQ(swtpm_->Tool({"tpm2_getcap", "handles-transient"}), "");
  EXPECT_EQ(swtpm_->Tool({"tpm2_getcap", "handles-loaded-session"}), "");
}

TEST_F(EsysImporterTest, AnEndorsementKeyThatIsRsaWithACertificateDoesToo) {
  swtpm_ = Swtpm::Start();
  Boot('f', 'i');
  const tpm::ReleasePolicy policy = PolicyOfNow(true);
  const auto opened = Unseal(Imported(policy), policy);
  ASSERT_TRUE(opened.ok()) << Describe(opened.status());
  EXPECT_TRUE(opened->Equals(AsBytes(kSecret)));
}

TEST_F(EsysImporterTest, OpensForAnotherImageThatTheReleaseKeySigned) {
  for (const bool running : {false, true}) {
    Boot('f', 'i');
    const tpm::ReleasePolicy policy = PolicyOfNow(running);
    const ImportedObject object = Imported(policy);
    Boot('f', 'n');
    Measure(13, 'x');
    const auto opened = Unseal(object, policy, ApprovalOfNow());
    ASSERT_TRUE(opened.ok()) << Describe(opened.status());
    EXPECT_TRUE(opened->Equals(AsBytes(kSecret)));
  }
}

TEST_F(EsysImporterTest, TheTpmRefusesAnotherImageAnotherSecureBootStateAndWhatLiesBeside) {
  for (const bool running : {false, true}) {
    Boot('f', 'i');
    const tpm::ReleasePolicy policy = PolicyOfNow(running);
    const ImportedObject object = Imported(policy);
    const SignedPcrs approval = ApprovalOfNow();
    ASSERT_TRUE(Unseal(object, policy, approval).ok());
    // Another image: with the signature of the right one, and without any.
    Boot('f', 'o');
    EXPECT_EQ(ReasonIdFrom(Unseal(object, policy, approval)), "SECRET_WITHHELD");
    auto refused = Unseal(object, policy);
    EXPECT_EQ(ReasonIdFrom(refused), "SECRET_WITHHELD");
    EXPECT_THAT(MessageOf(refused.status()), HasSubstr(running ? "PCR 11 is" : "no signature"));
    // Another Secure Boot state: even with everything else right.
    Boot('o', 'i');
    refused = Unseal(object, policy, approval);
    EXPECT_EQ(ReasonIdFrom(refused), "SECRET_WITHHELD");
    EXPECT_THAT(MessageOf(refused.status()), HasSubstr("PCR 7 is"));
    EXPECT_EQ(ReasonIdFrom(Unseal(object, policy)), "SECRET_WITHHELD");
    // An option, an extension, a further phase.
    for (const unsigned pcr : {12u, 13u, 11u}) {
      Boot('f', 'i');
      Measure(pcr, 'c');
      EXPECT_EQ(ReasonIdFrom(Unseal(object, policy, approval)), "SECRET_WITHHELD") << pcr;
      EXPECT_EQ(ReasonIdFrom(Unseal(object, policy)), "SECRET_WITHHELD") << pcr;
    }
    // The signature of another key.
    Boot('f', 'i');
    SignedPcrs forged = approval;
    const auto other = SoftwareSigner::Generate(KeyType::kRsa).value();
    forged.signature = other->SignMessage(approval.policy.view(), "test").value();
    // In the state that was proven no signature is asked for.
    EXPECT_EQ(Unseal(object, policy, forged).ok(), running);
  }
}

TEST_F(EsysImporterTest, RefusesWhatIsForAnotherTpmOrWasChanged) {
  const tpm::ReleasePolicy policy = PolicyOfNow(true);
  const tpm::DuplicatedSecret good = EncryptedTo(*swtpm_, policy);
  {
    const auto other = Swtpm::Start({.ek_certificate = false});
    EXPECT_EQ(ReasonIdFrom(Import(EncryptedTo(*other, policy), policy)), "TPM_COMMAND_FAILED");
  }
  for (Bytes tpm::DuplicatedSecret::*part :
       {&tpm::DuplicatedSecret::public_area, &tpm::DuplicatedSecret::duplicate,
        &tpm::DuplicatedSecret::encrypted_seed}) {
    tpm::DuplicatedSecret changed = good;
    (changed.*part).back() ^= 1;
    EXPECT_FALSE(Import(changed, policy).ok());
    (changed.*part).pop_back();
    EXPECT_EQ(ReasonIdFrom(Import(changed, policy)), "MALFORMED");
  }
  tpm::ReleasePolicy weaker = policy;
  weaker.fixed.clear();
  EXPECT_EQ(ReasonIdFrom(Import(good, weaker)), "MALFORMED");
  const ImportedObject object = Import(good, policy).value();
  EXPECT_EQ(ReasonIdFrom(Unseal(object, weaker)), "MALFORMED");
  ImportedObject changed = object;
  changed.private_area.back() ^= 1;
  EXPECT_EQ(ReasonIdFrom(Unseal(changed, policy)), "MALFORMED");
  EXPECT_TRUE(Unseal(object, policy).ok());
}

// The same digest from two implementations and from a TPM's trial session.
TEST_F(EsysImporterTest, PolicyDigestsEqualThoseOfTheVaultAndOfTpm2Tools) {
  SEALIFT_NEED_TOOLS("tpm2_policyor", "tpm2_policyauthorize", "tpm2_loadexternal");
  const tpm::ReleasePolicy policy = PolicyOfNow(true);
  const auto digests = tpm::DigestReleasePolicy(policy).value();
  EXPECT_EQ(digests.signed_branch,
            SealPolicyDigest(
                {.policy_key = policy.policy_key, .signed_pcrs = {11, 12, 13}, .literal = policy.fixed})
                .value());
  const auto registers = Registers(kSecretSignedPcrs);
  EXPECT_EQ(tpm::ExtendByPcrs({}, registers), uki::PcrPolicyDigest({registers.begin(), registers.end()}));
  swtpm_->Tool({"tpm2_startauthsession", "-S", "trial"});
  swtpm_->Tool({"tpm2_policypcr", "-S", "trial", "-l", "sha256:7,11,12,13", "-L", "running"});
  swtpm_->Tool({"tpm2_flushcontext", "trial"});
  EXPECT_EQ(ReadFile(swtpm_->folder() / "running").value(), ToBytes(digests.running_branch->view()));
  Put("signed", digests.signed_branch.view());
  swtpm_->Tool({"tpm2_startauthsession", "-S", "trial"});
  swtpm_->Tool({"tpm2_policyor", "-S", "trial", "-l", "sha256:signed,running", "-L", "whole"});
  swtpm_->Tool({"tpm2_flushcontext", "trial"});
  EXPECT_EQ(ReadFile(swtpm_->folder() / "whole").value(), ToBytes(digests.whole.view()));
}

TEST_F(EsysImporterTest, Tpm2ToolsImportAndOpenTheSameBytes) {
  SEALIFT_NEED_TOOLS("tpm2_import", "tpm2_load", "tpm2_unseal", "tpm2_createek", "tpm2_policyor");
  const tpm::ReleasePolicy policy = PolicyOfNow(true);
  const auto digests = tpm::DigestReleasePolicy(policy).value();
  const tpm::DuplicatedSecret made = EncryptedTo(*swtpm_, policy);
  Put("public", made.public_area);
  Put("duplicate", made.duplicate);
  Put("seed", made.encrypted_seed);
  Put("signed", digests.signed_branch.view());
  Put("running", digests.running_branch->view());
  swtpm_->Tool({"tpm2_createek", "-G", "ecc", "-c", "ek.ctx", "-u", "ek.pub"});
  swtpm_->Tool({"tpm2_flushcontext", "-t"});
  swtpm_->Tool({"tpm2_import", "-C", "ek.ctx", "-P", EndorsementSession(), "-u", "public", "-i", "duplicate",
                "-s", "seed", "-r", "private"});
  swtpm_->Tool({"tpm2_flushcontext", "ek.session"});
  swtpm_->Tool({"tpm2_flushcontext", "-t"});
  swtpm_->Tool({"tpm2_load", "-C", "ek.ctx", "-P", EndorsementSession(), "-u", "public", "-r", "private",
                "-c", "secret.ctx"});
  swtpm_->Tool({"tpm2_flushcontext", "ek.session"});
  swtpm_->Tool({"tpm2_flushcontext", "-t"});
  const auto unseal = [&] {
    swtpm_->Tool({"tpm2_startauthsession", "--policy-session", "-S", "open"});
    swtpm_->Tool({"tpm2_policypcr", "-S", "open", "-l", "sha256:7,11,12,13"});
    const auto joined = swtpm_->ToolOutput({"tpm2_policyor", "-S", "open", "-l", "sha256:signed,running"});
    const auto output = swtpm_->ToolOutput({"tpm2_unseal", "-c", "secret.ctx", "-p", "session:open"});
    swtpm_->Tool({"tpm2_flushcontext", "open"});
    swtpm_->Tool({"tpm2_flushcontext", "-t"});
    return std::pair(joined.exit_code, output);
  };
  auto [joined, output] = unseal();
  EXPECT_EQ(joined, 0);
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(output.out, kSecret);
  // By password: there is none to know.
  const auto by_password = swtpm_->ToolOutput({"tpm2_unseal", "-c", "secret.ctx"});
  EXPECT_NE(by_password.exit_code, 0);
  swtpm_->Tool({"tpm2_flushcontext", "-t"});
  // A further measurement closes it for them as well.
  Measure(11, 'o');
  std::tie(joined, output) = unseal();
  EXPECT_NE(joined, 0);
  EXPECT_NE(output.exit_code, 0);
  EXPECT_EQ(output.out, "");
}

}  // namespace
}  // namespace sealift::agent
