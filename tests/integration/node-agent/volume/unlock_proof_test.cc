// Will it unlock: images behind Debian's own stub, the event log of a real boot, and a TPM that agrees.
#include "node-agent/volume/unlock_proof.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sections.h"
#include "shared/uki/uki_layout.h"
#include "tests/integration/node-agent/volume/volume_machine.h"
#include "tests/support/places.h"
#include "tests/support/tools.h"

namespace sealift::agent {
namespace {

using test::ReasonIdFrom;
using ::testing::HasSubstr;

constexpr const char* kStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

struct ImageParts {
  std::string os_release = "ID=test\nVERSION_ID=1.1\n";
  SoftwareSigner* key = &test::PolicyKey();
  Sha256Digest pcr12;
  Sha256Digest pcr13;
  std::string phase;
};

// The sections as `sealift build-uki` lays them out, signed for what lies beside them.
Bytes MakeImage(const ImageParts& parts, bool with_signature = true) {
  const Bytes stub = ReadFile(kStub).value();
  std::map<std::string, std::string> measured{{".osrel", parts.os_release},
                                              {".cmdline", "quiet"},
                                              {".initrd", std::string(5000, 'i')},
                                              {".pcrpkey", parts.key->public_key().Pem()}};
  std::map<std::string, Sha256Digest> digests;
  for (const auto& [name, content] : measured) digests[name] = Sha256(AsBytes(content));
  const Sha256Digest pcr11 = uki::PredictPcr11(digests, 252, parts.phase).value().Value();
  const std::array<uki::PhasePolicy, 1> phases{uki::PhasePolicy{
      .phase = parts.phase, .pcr11 = pcr11, .companions = {{12, parts.pcr12}, {13, parts.pcr13}}}};
  const std::string signatures =
      uki::FormatPcrSignatures(uki::SignPcrPolicies(phases, "test", *parts.key).value());
  std::vector<uki::UkiSection> sections;
  for (const auto& [name, content] : measured) sections.push_back({name, content});
  if (with_signature) sections.push_back({".pcrsig", signatures});
  return uki::AssembleUki(stub, sections).value();
}

class UnlockProofTest : public ::testing::Test {
 protected:
  void SetUp() override { SEALIFT_NEED_FILE(kStub); }
  // A volume bound to the test's key, in a boot whose PCR 7 is `next_.pcr7`.
  VolumeHeader Volume() {
    return {.name = "persistent",
            .luks_uuid = "u",
            .bindings = {{.policy_key = test::PolicyKey().public_key(),
                          .signed_pcrs = {11, 12, 13},
                          .secure_boot = next_.pcr7}},
            .recoveries = {}};
  }
  Result<UnlockProof> Prove(const Bytes& image) { return VerifyWillUnlock(image, next_, {Volume()}); }
  NextBoot next_{.pcr12 = {}, .pcr13 = Sha256(AsBytes("13")), .pcr7 = Sha256(AsBytes("7"))};
  const ImageParts good_{.pcr13 = next_.pcr13};
};

TEST_F(UnlockProofTest, AcceptsAnotherImageOfTheSameKey) {
  const auto proof = Prove(MakeImage(good_));
  ASSERT_TRUE(proof.ok()) << Describe(proof.status());
  EXPECT_EQ(proof->policy, uki::PcrPolicyDigest({{11, proof->pcr11}, {12, {}}, {13, next_.pcr13}}));
}

TEST_F(UnlockProofTest, RefusesWhatWouldLeaveTheDiskClosed) {
  const auto why = [&](const Bytes& image) {
    const auto proof = Prove(image);
    EXPECT_EQ(ReasonIdFrom(proof), "VOLUME_WOULD_STAY_LOCKED");
    return MessageOf(proof.status());
  };
  const auto other = SoftwareSigner::Generate(KeyType::kRsa).value();
  ImageParts parts = good_;
  parts.key = other.get();
  EXPECT_THAT(why(MakeImage(parts)), HasSubstr("bound to another PCR policy key"));
  EXPECT_THAT(why(MakeImage(good_, /*with_signature=*/false)), HasSubstr("no .pcrsig"));
  parts = good_;
  parts.phase = "sysinit";
  EXPECT_THAT(why(MakeImage(parts)), HasSubstr("no signature for PCR 11"));
  // Extensions were not signed for.
  EXPECT_THAT(why(MakeImage({})), HasSubstr("no signature for PCR 11"));
  // The signature of another image beside this one's policy.
  const Bytes image = MakeImage(good_);
  const std::string text(AsText(image));
  const std::size_t signature = text.rfind("\"sig\":\"") + 7;
  Bytes forged = image;
  forged[signature + 10] = forged[signature + 10] == 'A' ? 'B' : 'A';
  EXPECT_THAT(why(forged), HasSubstr("does not verify"));
  // One measured byte changed, the signatures left as they were.
  Bytes changed = image;
  changed[text.find("VERSION_ID=1.1") + 11] = '2';
  EXPECT_THAT(why(changed), HasSubstr("no signature for PCR 11"));
  next_.pcr7 = Sha256(AsBytes("another"));
  VolumeHeader bound = Volume();
  bound.bindings.front().secure_boot = Sha256(AsBytes("7"));
  const auto proof = VerifyWillUnlock(image, next_, {bound});
  EXPECT_THAT(MessageOf(proof.status()), HasSubstr("is bound to PCR 7"));
}

TEST_F(UnlockProofTest, OneVolumeOfSeveralIsEnoughToRefuse) {
  VolumeHeader other = Volume();
  other.name = "oem";
  other.bindings.front().secure_boot = Sha256(AsBytes("x"));
  const auto proof = VerifyWillUnlock(MakeImage(good_), next_, {Volume(), other});
  EXPECT_THAT(MessageOf(proof.status()), HasSubstr("'oem'"));
  // A second binding, made beforehand for the coming state, counts.
  other.bindings.push_back(Volume().bindings.front());
  EXPECT_TRUE(VerifyWillUnlock(MakeImage(good_), next_, {Volume(), other}).ok());
}

// What is proven here is what the TPM does: the same image's signatures, the same registers.
class UnlockProofMachineTest : public test::VolumeMachine {};

TEST_F(UnlockProofMachineTest, TheTpmAgreesWithTheProof) {
  SEALIFT_NEED_FILE(kStub);
  const MadeVolume made = Make();
  const auto header = keeper_->ReadHeader(made.facts.device, "persistent").value();
  NextBoot next{.pcr12 = {}, .pcr13 = {}, .pcr7 = *header.bindings.front().secure_boot};
  const Bytes image = MakeImage({});
  const auto proof = VerifyWillUnlock(image, next, {header});
  ASSERT_TRUE(proof.ok()) << Describe(proof.status());
  // A boot that measures what the proof says.
  keeper_.reset();
  vault_.reset();
  counters_.reset();
  swtpm_->PowerCycle();
  Measure(7, 'f');
  const efi::PeImage pe = efi::PeImage::Parse(image).value();
  const auto digests = uki::DigestMeasuredSections(pe, 252).value();
  const uki::PcrPrediction eleven = uki::PredictPcr11(digests, 252, "").value();
  for (const uki::MeasuredEvent& event : eleven.events)
    swtpm_->Tool({"tpm2_pcrextend", "11:sha256=" + event.digest.hex()});
  Connect();
  EXPECT_EQ(vault_->ReadPcrs(std::array<std::uint32_t, 1>{11}).value().at(11), proof->pcr11);
  RunningImage running{
      .signatures = uki::ParsePcrSignatures(AsText(uki::UkiSectionContents(pe, ".pcrsig").value())).value(),
      .policy_key = key_->public_key()};
  const auto volume = keeper_->Unseal(made.facts.device, "persistent", running);
  ASSERT_TRUE(volume.ok()) << Describe(volume.status());
  EXPECT_TRUE(keeper_->Open(*volume).ok());
}

class NextSecureBootTest : public ::testing::Test {
 protected:
  const tpm::EventLog log_ =
      tpm::EventLog::Parse(
          ReadFile(SEALIFT_SOURCE_DIR "/tests/data/tpm/ovmf-secureboot.eventlog.bin").value())
          .value();
  static Bytes Content(const tpm::Event& event) {
    ByteReader reader(event.data, ByteReader::Endian::kLittle);
    reader.Skip(16);
    const std::uint64_t name = reader.U64();
    const std::uint64_t size = reader.U64();
    reader.Skip(name * 2);
    return ToBytes(reader.Take(size));
  }
  SecureBootNow Now() {
    const auto seven = log_.EventsOf(7);
    return {.pk = Content(*seven[1]),
            .kek = Content(*seven[2]),
            .db = Content(*seven[3]),
            .dbx = Content(*seven[4])};
  }
  Sha256Digest Signer() { return Sha256(ByteView(Content(*log_.EventsOf(7)[6])).subspan(16)); }
  const Sha256Digest pcr7_ = log_.Replay().at(7);
};

TEST_F(NextSecureBootTest, IsPcr7OfNowWhileNothingChanges) {
  EXPECT_EQ(PredictNextSecureBoot(log_, pcr7_, Now(), Signer()).value(), pcr7_);
}

TEST_F(NextSecureBootTest, FollowsAVariableThatWasChangedInThisBoot) {
  SecureBootNow now = Now();
  now.dbx = Bytes(76, 1);
  const auto next = PredictNextSecureBoot(log_, pcr7_, now, Signer());
  ASSERT_TRUE(next.ok()) << Describe(next.status());
  EXPECT_NE(*next, pcr7_);
  // As shared/uki predicts the same state from the variables alone.
  const auto seven = log_.EventsOf(7);
  const Bytes authority = Content(*seven[6]);
  efi::SignatureEntry entry;
  std::copy_n(authority.begin(), entry.owner.bytes.size(), entry.owner.bytes.begin());
  entry.data = ToBytes(ByteView(authority).subspan(16));
  EXPECT_EQ(*next,
            uki::PredictPcr7({.enabled = true, .pk = now.pk, .kek = now.kek, .db = now.db, .dbx = now.dbx},
                             std::array{entry})
                .Value());
}

TEST_F(NextSecureBootTest, RefusesAnotherSignerAndALogThatIsNotTheTpms) {
  EXPECT_EQ(ReasonIdFrom(PredictNextSecureBoot(log_, pcr7_, Now(), Sha256(AsBytes("other")))),
            "VOLUME_WOULD_STAY_LOCKED");
  EXPECT_EQ(ReasonIdFrom(PredictNextSecureBoot(log_, Sha256(AsBytes("x")), Now(), Signer())),
            "VOLUME_WOULD_STAY_LOCKED");
}

}  // namespace
}  // namespace sealift::agent
