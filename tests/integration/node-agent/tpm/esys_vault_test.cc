// Sealing against swtpm: what opens, and what the TPM itself refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "node-agent/tpm/esys_tpm.h"
#include "shared/crypto/hash.h"
#include "shared/crypto/signer.h"
#include "shared/uki/pcr_policy.h"
#include "tests/support/software_tpm.h"
#include "tests/support/status_matchers.h"
#include "tests/support/swtpm.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;
using test::Swtpm;
using ::testing::HasSubstr;

constexpr std::string_view kPurpose = "sealift volume";
constexpr std::array<std::uint32_t, 3> kMoving{11, 12, 13};
constexpr std::array<std::uint32_t, 1> kFixed{7};

std::unique_ptr<SoftwareSigner> RsaKey() { return SoftwareSigner::Generate(KeyType::kRsa).value(); }

class EsysVaultTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup", "tpm2_pcrextend");
    ::setenv("TSS2_LOG", "all+NONE", 1);
    swtpm_ = Swtpm::Start({.ek_certificate = false});
    Measure(7, 'f');
    Measure(11, 'i');
  }
  // A swtpm serves one connection at a time: each use opens its own.
  std::unique_ptr<TpmVault> Vault(const Swtpm& swtpm) {
    auto device = OpenTpmDevice({.tcti = swtpm.tcti()});
    EXPECT_TRUE(device.ok()) << Describe(device.status());
    return MakeEsysVault(*device);
  }
  void Measure(unsigned pcr, char with) { Measure(*swtpm_, pcr, with); }
  static void Measure(const Swtpm& swtpm, unsigned pcr, char with) {
    swtpm.Tool({"tpm2_pcrextend", std::to_string(pcr) + ":sha256=" +
                                      HexEncode(Sha256(Bytes(1, static_cast<std::uint8_t>(with))).view())});
  }
  SealPolicy PolicyOfNow(const PublicKey& key) {
    return {.policy_key = key,
            .signed_pcrs = {kMoving.begin(), kMoving.end()},
            .literal = Vault(*swtpm_)->ReadPcrs(kFixed).value()};
  }
  // As the build host would, from predicted registers; here they are read.
  SignedPcrs ApprovalOfNow(SoftwareSigner& key) {
    const auto values = Vault(*swtpm_)->ReadPcrs(kMoving).value();
    const Sha256Digest policy = uki::PcrPolicyDigest({values.begin(), values.end()});
    return {.policy = policy, .signature = key.SignMessage(policy.view(), "test").value()};
  }
  SealedObject Seal(const SealPolicy& policy, std::string_view text = "secret of the disk") {
    auto sealed = Vault(*swtpm_)->Seal(SecretBytes(AsBytes(text)), policy, kPurpose);
    EXPECT_TRUE(sealed.ok()) << Describe(sealed.status());
    return *sealed;
  }
  Result<Unsealed> Unseal(const SealedObject& object, const SealPolicy& policy, const SignedPcrs& approval,
                          std::string_view purpose = kPurpose) {
    return Vault(*swtpm_)->Unseal(object, policy, approval, purpose);
  }

  std::unique_ptr<Swtpm> swtpm_;
  const std::unique_ptr<SoftwareSigner> key_ = RsaKey();
};

TEST_F(EsysVaultTest, OpensForTheSignedRegistersAndSaysWhenItWasMade) {
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  const SealedObject object = Seal(policy);
  const auto opened = Unseal(object, policy, ApprovalOfNow(*key_));
  ASSERT_TRUE(opened.ok()) << Describe(opened.status());
  EXPECT_TRUE(opened->secret.Equals(AsBytes("secret of the disk")));
  EXPECT_EQ(opened->made_at, Sha256(policy.literal.at(7).view()));
  EXPECT_EQ(swtpm_->Tool({"tpm2_getcap", "handles-transient"}), "");
  EXPECT_EQ(swtpm_->Tool({"tpm2_getcap", "handles-loaded-session"}), "");
}

TEST_F(EsysVaultTest, OpensAfterARebootIntoAnotherImageThatTheSameKeySigned) {
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  const SealedObject object = Seal(policy);
  swtpm_->PowerCycle();
  Measure(7, 'f');
  Measure(11, 'n');
  Measure(13, 'x');
  const auto opened = Unseal(object, policy, ApprovalOfNow(*key_));
  ASSERT_TRUE(opened.ok()) << Describe(opened.status());
}

// Another OS with Secure Boot off that extends PCR 11 with our published digests and presents our signature.
TEST_F(EsysVaultTest, RefusesAnotherSecureBootStateWithEverythingElseRight) {
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  const SealedObject object = Seal(policy);
  const SignedPcrs approval = ApprovalOfNow(*key_);
  swtpm_->PowerCycle();
  Measure(7, 'o');
  Measure(11, 'i');
  const auto opened = Unseal(object, policy, approval);
  EXPECT_EQ(ReasonIdFrom(opened), "VOLUME_LOCKED");
  EXPECT_THAT(MessageOf(opened.status()), ::testing::AllOf(HasSubstr("PCR 7 is"), HasSubstr("Esys_Unseal")));
}

TEST_F(EsysVaultTest, RefusesWhatLiesBesideTheImageUnlessItIsSignedFor) {
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  const SealedObject object = Seal(policy);
  const SignedPcrs approval = ApprovalOfNow(*key_);
  for (const unsigned pcr : {12u, 13u, 11u}) {
    swtpm_->PowerCycle();
    Measure(7, 'f');
    Measure(11, 'i');
    ASSERT_TRUE(Unseal(object, policy, approval).ok());
    Measure(pcr, 'c');
    const auto opened = Unseal(object, policy, approval);
    EXPECT_EQ(ReasonIdFrom(opened), "VOLUME_LOCKED") << pcr;
    EXPECT_THAT(MessageOf(opened.status()), HasSubstr("Esys_PolicyAuthorize")) << pcr;
  }
}

TEST_F(EsysVaultTest, TheTpmRefusesASignatureOfAnotherPolicyOrAnotherKey) {
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  const SealedObject object = Seal(policy);
  SignedPcrs forged = ApprovalOfNow(*key_);
  forged.signature = key_->SignMessage(AsBytes("another policy"), "test").value();
  auto opened = Unseal(object, policy, forged);
  EXPECT_EQ(ReasonIdFrom(opened), "VOLUME_LOCKED");
  EXPECT_THAT(MessageOf(opened.status()), HasSubstr("Esys_VerifySignature"));
  const auto other = RsaKey();
  opened = Unseal(object, policy, ApprovalOfNow(*other));
  EXPECT_THAT(MessageOf(opened.status()), HasSubstr("Esys_VerifySignature"));
  // The other key's own policy is not the object's.
  opened = Unseal(object, PolicyOfNow(other->public_key()), ApprovalOfNow(*other));
  EXPECT_EQ(ReasonIdFrom(opened), "VOLUME_FOREIGN");
}

TEST_F(EsysVaultTest, TellsASelfMadeObjectByTheSecureBootStateItWasMadeIn) {
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  const Sha256Digest honest = Sha256(policy.literal.at(7).view());
  swtpm_->PowerCycle();
  Measure(7, 'o');
  const SealedObject planted = Seal(policy, "the thief's own");
  swtpm_->PowerCycle();
  Measure(7, 'f');
  Measure(11, 'i');
  const auto opened = Unseal(planted, policy, ApprovalOfNow(*key_));
  ASSERT_TRUE(opened.ok()) << Describe(opened.status());
  EXPECT_NE(opened->made_at, honest);
}

TEST_F(EsysVaultTest, BelievesNoCreationDataThatTheTpmDidNotWrite) {
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  const SealedObject honest = Seal(policy, "honest");
  swtpm_->PowerCycle();
  Measure(7, 'o');
  SealedObject planted = Seal(policy, "the thief's own");
  swtpm_->PowerCycle();
  Measure(7, 'f');
  Measure(11, 'i');
  const SignedPcrs approval = ApprovalOfNow(*key_);
  // Data and ticket of an honest object.
  planted.creation_data = honest.creation_data;
  EXPECT_EQ(ReasonIdFrom(Unseal(planted, policy, approval)), "VOLUME_FOREIGN");
  planted.creation_ticket = honest.creation_ticket;
  EXPECT_EQ(ReasonIdFrom(Unseal(planted, policy, approval)), "VOLUME_FOREIGN");
  for (Bytes SealedObject::*part : {&SealedObject::public_area, &SealedObject::private_area,
                                    &SealedObject::creation_data, &SealedObject::creation_ticket}) {
    SealedObject damaged = honest;
    (damaged.*part).back() ^= 1;
    EXPECT_EQ(ReasonIdFrom(Unseal(damaged, policy, approval)), "VOLUME_FOREIGN");
    (damaged.*part).pop_back();
    EXPECT_EQ(ReasonIdFrom(Unseal(damaged, policy, approval)), "VOLUME_FOREIGN");
  }
  EXPECT_EQ(ReasonIdFrom(Unseal(honest, policy, approval, "another purpose")), "VOLUME_FOREIGN");
  EXPECT_TRUE(Unseal(honest, policy, approval).ok());
}

TEST_F(EsysVaultTest, RefusesAnotherMachinesObject) {
  const auto other = Swtpm::Start({.ek_certificate = false});
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  Measure(*other, 7, 'f');
  const auto theirs = Vault(*other)->Seal(SecretBytes(AsBytes("theirs")), policy, kPurpose);
  ASSERT_TRUE(theirs.ok());
  EXPECT_EQ(ReasonIdFrom(Unseal(*theirs, policy, ApprovalOfNow(*key_))), "VOLUME_FOREIGN");
}

TEST_F(EsysVaultTest, RefusesAWeakerPolicyThanTheOneAskedFor) {
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  SealPolicy weaker = policy;
  weaker.literal.clear();
  const SealedObject object = Seal(weaker);
  EXPECT_EQ(ReasonIdFrom(Unseal(object, policy, ApprovalOfNow(*key_))), "VOLUME_FOREIGN");
  EXPECT_TRUE(Unseal(object, weaker, ApprovalOfNow(*key_)).ok());
}

// The policy's digest in software is what tpm2-tools compute in a trial session.
TEST_F(EsysVaultTest, PolicyDigestEqualsThatOfTpm2Tools) {
  SEALIFT_NEED_TOOLS("tpm2_policyauthorize");
  const SealPolicy policy = PolicyOfNow(key_->public_key());
  // TPM2B_PUBLIC of the key, as tpm2-tools take it; from PEM they would spell the default exponent out, which
  // is another name.
  ByteWriter area(ByteWriter::Endian::kBig);
  area.U16(tpm::kAlgRsa);
  area.U16(tpm::kAlgSha256);
  area.U32(tpm::kAttrUserWithAuth | tpm::kAttrSign);
  test::WriteSized(area, {});
  for (const std::uint16_t part : {tpm::kAlgNull, tpm::kAlgNull, std::uint16_t{2048}}) area.U16(part);
  area.U32(0);
  test::WriteSized(area, test::NumberOf(key_->public_key(), OSSL_PKEY_PARAM_RSA_N));
  ASSERT_TRUE(WriteFileAtomically(swtpm_->folder() / "key.pub", test::Sized(area.bytes())).ok());
  swtpm_->Tool({"tpm2_loadexternal", "-C", "o", "-u", "key.pub", "-c", "key.ctx", "-n", "key.name"});
  swtpm_->Tool({"tpm2_startauthsession", "-S", "s.ctx"});
  swtpm_->Tool({"tpm2_policyauthorize", "-S", "s.ctx", "-L", "p.dat", "-n", "key.name"});
  swtpm_->Tool({"tpm2_policypcr", "-S", "s.ctx", "-l", "sha256:7", "-L", "p.dat"});
  swtpm_->Tool({"tpm2_flushcontext", "s.ctx"});
  EXPECT_EQ(HexEncode(ReadFile(swtpm_->folder() / "p.dat").value()), SealPolicyDigest(policy).value().hex());
}

}  // namespace
}  // namespace sealift::agent
