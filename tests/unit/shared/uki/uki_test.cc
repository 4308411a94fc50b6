// Layout, prediction and policy. The expected values come from an independent implementation (Python, checked
// against real TPMs), computed once over the inputs below.
#include <gtest/gtest.h>

#include <array>

#include "shared/crypto/hash.h"
#include "shared/uki/pcr_policy.h"
#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sections.h"
#include "shared/uki/uki_layout.h"
#include "tests/support/status_matchers.h"
#include "tests/support/synthetic_pe.h"
#include "tests/support/test_keys.h"

namespace sealift::uki {
namespace {

using test::ReasonIdFrom;
using test::SyntheticPe;

constexpr std::string_view kMagic = "#### LoaderInfo: systemd-stub 252.39-1~deb12u2 ####";

SyntheticPe Stub() {
  return {.sections = {{".text", "code"}, {".sbat", "sbat,1\n"}, {".sdmagic", std::string(kMagic) + '\0'}},
          .tail = "symbols",
          .section_alignment = 0x200};
}

std::map<std::string, Sha256Digest> GoldenSections() {
  std::map<std::string, Sha256Digest> digests;
  for (const auto& [name, text] : std::map<std::string, std::string>{{".linux", "kernel"},
                                                                     {".osrel", "ID=debian\n"},
                                                                     {".cmdline", "quiet"},
                                                                     {".initrd", "initrd!!"},
                                                                     {".pcrpkey", "pubkey\n"}})
    digests[name] = Sha256(AsBytes(text));
  return digests;
}

std::string Pcr11(std::string_view phases) {
  return PredictPcr11(GoldenSections(), 252, phases)->Value().hex();
}

TEST(PcrPredictionTest, Pcr11PerPhaseIsExact) {
  EXPECT_EQ(Pcr11(""), "aedbe92391e45915d768bcda022f82d9fe23ca7c7f3eec6fc352e49eddec2027");
  EXPECT_EQ(Pcr11("sysinit"), "816059c8f0675f624ea13785f750f681ec9cabc14e8f1850000b0d88f839b33c");
  EXPECT_EQ(Pcr11("sysinit:ready"), "77f5997b2047da2d546c46c8804bdbc8354dd9ac0267e1667cc98eb03bd3b661");
}

TEST(PcrPredictionTest, EventsAreNamedInOrder) {
  const PcrPrediction prediction = PredictPcr11(GoldenSections(), 252, "sysinit").value();
  std::vector<std::string> names;
  for (const MeasuredEvent& event : prediction.events) names.push_back(event.description);
  EXPECT_EQ(names, (std::vector<std::string>{
                       "name of section .linux", "section .linux", "name of section .osrel", "section .osrel",
                       "name of section .cmdline", "section .cmdline", "name of section .initrd",
                       "section .initrd", "name of section .pcrpkey", "section .pcrpkey", "phase sysinit"}));
}

TEST(PcrPredictionTest, RefusesSectionsTheStubDoesNotMeasure) {
  auto sections = GoldenSections();
  sections[".sbat"] = Sha256Digest{};
  EXPECT_EQ(ReasonIdFrom(PredictPcr11(sections, 252, "")), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonIdFrom(PredictPcr11(sections, 254, "")), "NONE");
  EXPECT_EQ(ReasonIdFrom(PredictPcr11({{".pcrsig", {}}}, 262, "")), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonIdFrom(PredictPcr11({}, 251, "")), "UKI_STUB_UNSUPPORTED");
  EXPECT_EQ(ReasonIdFrom(PredictPcr11({}, 263, "")), "UKI_STUB_UNSUPPORTED");
  for (const char* bad : {":", "sysinit:", ":ready", "sysinit::ready"})
    EXPECT_EQ(ReasonIdFrom(PredictPcr11({}, 252, bad)), "INVALID_ARGUMENT") << bad;
}

TEST(PcrPredictionTest, Pcr4IsExact) {
  const std::array<StartedImage, 2> images = {StartedImage{"boot loader", Sha256(AsBytes("sdboot"))},
                                              StartedImage{"UKI", Sha256(AsBytes("uki"))}};
  EXPECT_EQ(PredictPcr4(images).Value().hex(),
            "a4a24b033b8848510cd718754cf0e97778bb407a55d0bbe7501f99777af67217");
}

TEST(PcrPredictionTest, Pcr7IsExactAndCountsAnAuthorityOnce) {
  const auto repeat = [](std::string_view text) {
    std::string all;
    for (int i = 0; i < 20; ++i) all += text;
    return ToBytes(all);
  };
  efi::SignatureEntry entry;
  entry.owner.bytes.fill('O');
  entry.data = ToBytes("certificate");
  Bytes db(28);
  for (std::size_t i = 0; i < db.size(); ++i) db[i] = static_cast<std::uint8_t>(i);
  Append(db, entry.Serialize());
  SecureBootVariables variables{.pk = repeat("PK"), .kek = repeat("KEK"), .db = db};
  const std::array<efi::SignatureEntry, 2> twice = {entry, entry};
  EXPECT_EQ(PredictPcr7(variables, twice).Value().hex(),
            "27845c92b0a6fe26af627937aa91fc7468514ec74d85b68025c44bd77809dcc7");
  variables.enabled = false;
  EXPECT_EQ(PredictPcr7(variables, twice).Value().hex(),
            "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068");
}

TEST(PcrPredictionTest, Pcr12IsZeroUnlessTheEntryCarriesOptions) {
  EXPECT_EQ(PredictPcr12("").Value(), Sha256Digest{});
  EXPECT_EQ(PredictPcr12("systemd.debug").Value().hex(),
            "ebf35c8c223eed18edbbcd0828db5f8bd08d0f2c63e050ce302cf17470cb0591");
}

TEST(SectionsTest, ReadsTheStubsVersion) {
  const Bytes stub = Stub().Build();
  const auto magic = ReadSystemdMagic(efi::PeImage::Parse(stub).value());
  ASSERT_TRUE(magic.ok()) << magic.status();
  EXPECT_EQ(magic->component, "systemd-stub");
  EXPECT_EQ(magic->version, "252.39-1~deb12u2");
  EXPECT_EQ(magic->major, 252u);
  for (const char* bad : {"", "LoaderInfo", "#### LoaderInfo: x ####", "#### LoaderInfo: a b ####"}) {
    const Bytes other = SyntheticPe{.sections = {{".text", "x"}, {".sdmagic", bad}}}.Build();
    EXPECT_EQ(ReasonIdFrom(ReadSystemdMagic(efi::PeImage::Parse(other).value())), "UKI_STUB_UNSUPPORTED")
        << bad;
  }
}

TEST(SectionsTest, OrderGrowsWithTheVersion) {
  EXPECT_EQ(MeasuredSections(252)->size(), 7u);
  EXPECT_EQ(MeasuredSections(253).value(), MeasuredSections(252).value());
  const std::vector<std::string_view> newest = MeasuredSections(258).value();
  EXPECT_EQ(newest.size(), 14u);
  EXPECT_EQ(newest[4], ".ucode");
  EXPECT_EQ(newest.back(), ".efifw");
  EXPECT_EQ(std::find(newest.begin(), newest.end(), ".pcrsig"), newest.end());
}

Result<Bytes> Assemble(const SyntheticPe& stub,
                       const std::vector<std::pair<std::string, std::string>>& sections) {
  std::vector<UkiSection> views;
  for (const auto& [name, content] : sections) views.push_back({name, AsBytes(content)});
  return AssembleUki(stub.Build(), views);
}

TEST(UkiLayoutTest, SectionsComeBackExactlyAndNothingOverlaps) {
  const Bytes kernel = SyntheticPe{.sections = {{".text", "kernel"}}}.Build();
  const std::vector<std::pair<std::string, std::string>> sections = {{".osrel", "ID=x\n"},
                                                                     {".cmdline", "quiet"},
                                                                     {".pcrpkey", "key"},
                                                                     {".linux", ToText(kernel)},
                                                                     {".initrd", std::string(100001, 'i')},
                                                                     {".pcrsig", "{}"}};
  const auto uki = Assemble(Stub(), sections);
  ASSERT_TRUE(uki.ok()) << uki.status();
  const efi::PeImage image = efi::PeImage::Parse(*uki).value();
  EXPECT_EQ(uki->size() % 8, 0u);
  for (const auto& [name, content] : sections)
    EXPECT_EQ(AsText(UkiSectionContents(image, name).value()), content) << name;
  EXPECT_EQ(AsText(UkiSectionContents(image, ".text").value()), "code");
  EXPECT_EQ(ReasonIdFrom(UkiSectionContents(image, ".dtb")), "UKI_SECTION_MISSING");
  std::uint64_t end = image.size_of_headers();
  for (const efi::PeSection& section : image.sections()) {
    EXPECT_GE(section.virtual_address, end) << section.name;
    EXPECT_EQ(section.raw_offset % 0x200, 0u) << section.name;
    end = std::uint64_t{section.virtual_address} + section.virtual_size;
  }
  EXPECT_EQ(image.size_of_image(), (end + 0x1ff) / 0x200 * 0x200);
  EXPECT_EQ(AsText(*uki).find("symbols"), std::string_view::npos) << "the symbol table stayed";
}

TEST(UkiLayoutTest, HeadersGrowWhenThereIsNoRoom) {
  SyntheticPe stub = Stub();
  stub.header_bytes = 0x200;  // room for three sections and not one more
  const auto uki = Assemble(stub, {{".osrel", "a"}, {".cmdline", "b"}, {".dtb", "c"}});
  ASSERT_TRUE(uki.ok()) << uki.status();
  const efi::PeImage image = efi::PeImage::Parse(*uki).value();
  EXPECT_EQ(image.size_of_headers(), 0x400u);
  EXPECT_EQ(AsText(UkiSectionContents(image, ".text").value()), "code");
  EXPECT_EQ(AsText(UkiSectionContents(image, ".sbat").value()), "sbat,1\n");
  EXPECT_EQ(AsText(UkiSectionContents(image, ".dtb").value()), "c");
  stub.first_address = 0x200;
  EXPECT_EQ(ReasonIdFrom(Assemble(stub, {{".osrel", "a"}, {".cmdline", "b"}})), "UKI_LAYOUT_INVALID");
}

TEST(UkiLayoutTest, RefusesWhatMakesNoUki) {
  EXPECT_EQ(ReasonIdFrom(Assemble(Stub(), {{".osrel", "a"}, {".osrel", "b"}})), "UKI_LAYOUT_INVALID");
  EXPECT_EQ(ReasonIdFrom(Assemble(Stub(), {{".text", "a"}})), "UKI_LAYOUT_INVALID");
  EXPECT_EQ(ReasonIdFrom(Assemble(Stub(), {{".osrel", ""}})), "UKI_LAYOUT_INVALID");
  EXPECT_EQ(ReasonIdFrom(Assemble(Stub(), {{".much-too-long", "a"}})), "UKI_LAYOUT_INVALID");
  EXPECT_EQ(ReasonIdFrom(Assemble(Stub(), {{"linux", "a"}})), "UKI_LAYOUT_INVALID");
  EXPECT_EQ(ReasonIdFrom(Assemble(Stub(), {{".linux", "not a kernel"}})), "IMAGE_MALFORMED");
  Bytes arm = SyntheticPe{}.Build();
  arm[0x84] = 0x64;
  arm[0x85] = 0xaa;
  EXPECT_EQ(ReasonIdFrom(Assemble(Stub(), {{".linux", ToText(arm)}})), "UKI_LAYOUT_INVALID");
}

TEST(UkiLayoutTest, NxStaysOnlyWhenTheKernelHasIt) {
  constexpr std::size_t kFlags = 0x98 + 70;
  Bytes stub = Stub().Build();
  stub[kFlags + 1] = 1;
  Bytes kernel = SyntheticPe{}.Build();
  const auto flags = [&] {
    const std::array<UkiSection, 1> sections = {UkiSection{".linux", kernel}};
    return AssembleUki(stub, sections).value()[kFlags + 1];
  };
  EXPECT_EQ(flags(), 0);
  kernel[kFlags + 1] = 1;
  EXPECT_EQ(flags(), 1);
}

class PcrPolicyTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { signer_ = SoftwareSigner::Generate(KeyType::kRsa)->release(); }
  static Sha256Digest Golden(std::string_view phase) {
    return PredictPcr11(GoldenSections(), 252, phase)->Value();
  }
  static PcrSignatures Signed(Signer& signer) {
    const std::array<PhasePolicy, 2> phases = {PhasePolicy{"", Golden("")},
                                               PhasePolicy{"sysinit", Golden("sysinit")}};
    return SignPcrPolicies(phases, "os 1.0", signer).value();
  }
  static inline SoftwareSigner* signer_;
};

TEST_F(PcrPolicyTest, DigestIsExact) {
  EXPECT_EQ(PcrPolicyDigest({{11, Golden("")}}).hex(),
            "73c31b48fdd2eadf1c078d6df86a6b9850642366bcec18d189a2c3ba58aed22e");
}

TEST_F(PcrPolicyTest, TextComesBackAndVerifies) {
  const std::string text = FormatPcrSignatures(Signed(*signer_));
  EXPECT_TRUE(text.starts_with("{\"sha256\":[{\"pcrs\":[11],\"pkfp\":\"")) << text;
  const PcrSignatures read = ParsePcrSignatures(text).value();
  EXPECT_EQ(read, Signed(*signer_));
  const PublicKey& key = signer_->public_key();
  EXPECT_EQ(VerifyPcrPolicy(read, key, Golden("sysinit"))->key_id, key.key_id());
  EXPECT_EQ(ReasonIdFrom(VerifyPcrPolicy(read, key, Golden("sysinit:ready"))), "PCR_SIGNATURE_MISSING");
  const auto other = SoftwareSigner::Generate(KeyType::kRsa).value();
  EXPECT_EQ(ReasonIdFrom(VerifyPcrPolicy(read, other->public_key(), Golden(""))), "PCR_SIGNATURE_MISSING");
}

TEST_F(PcrPolicyTest, RightPolicyWithAnotherPoliciesSignatureIsInvalid) {
  PcrSignatures forged = Signed(*signer_);
  std::swap(forged["sha256"][0].signature, forged["sha256"][1].signature);
  EXPECT_EQ(ReasonIdFrom(VerifyPcrPolicy(forged, signer_->public_key(), Golden(""))), "SIGNATURE_INVALID");
}

TEST_F(PcrPolicyTest, SignatureOverMorePcrsIsNotTaken) {
  PcrSignatures wider = Signed(*signer_);
  for (PcrSignature& entry : wider["sha256"]) entry.pcrs = {7, 11};
  EXPECT_EQ(ReasonIdFrom(VerifyPcrPolicy(wider, signer_->public_key(), Golden(""))), "PCR_SIGNATURE_MISSING");
}

TEST_F(PcrPolicyTest, SignsForWhatLiesBesideTheImageInAnEntryOfItsOwn) {
  const Sha256Digest beside = Golden("sysinit");
  const std::array<PhasePolicy, 1> phases = {
      PhasePolicy{.phase = "", .pcr11 = Golden(""), .companions = {{12, {}}, {13, beside}}}};
  const PcrSignatures made = SignPcrPolicies(phases, "os 1.0", *signer_).value();
  const auto& entries = made.at("sha256");
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].pcrs, std::vector<unsigned>{11});
  EXPECT_EQ(entries[1].pcrs, (std::vector<unsigned>{11, 12, 13}));
  EXPECT_EQ(entries[1].policy, PcrPolicyDigest({{11, Golden("")}, {12, {}}, {13, beside}}));
  EXPECT_TRUE(CheckPcrSignature("sha256", entries[1], signer_->public_key()).ok());
  EXPECT_EQ(ParsePcrSignatures(FormatPcrSignatures(made)).value(), made);
}

TEST_F(PcrPolicyTest, IntentNamesSubjectAndPhase) {
  test::RecordingSigner recorder(*signer_);
  Signed(recorder);
  EXPECT_EQ(recorder.intents, (std::vector<std::string>{"PCR policy of os 1.0 phase ''",
                                                        "PCR policy of os 1.0 phase 'sysinit'"}));
  const auto ec = SoftwareSigner::Generate(KeyType::kEcP256).value();
  EXPECT_EQ(ReasonIdFrom(SignPcrPolicies({}, "x", *ec)), "KEY_MISMATCH");
}

TEST_F(PcrPolicyTest, RefusesDamagedTextAndTakesTerminators) {
  const std::string good = FormatPcrSignatures(Signed(*signer_));
  EXPECT_TRUE(ParsePcrSignatures(good + std::string(3, '\0')).ok());
  for (std::size_t size = 0; size + 2 < good.size(); size += 7)
    EXPECT_EQ(ReasonIdFrom(ParsePcrSignatures(std::string_view(good).substr(0, size))),
              "PCR_SIGNATURE_MALFORMED");
  for (const char* bad : {"[]", "{\"sha256\":{}}", "{\"sha256\":[1]}", "{\"sha256\":[{\"pcrs\":[24]}]}",
                          "{\"sha256\":[{\"pcrs\":[-1]}]}", "{\"sha256\":[{\"pcrs\":[11],\"pkfp\":\"00\"}]}"})
    EXPECT_EQ(ReasonIdFrom(ParsePcrSignatures(bad)), "PCR_SIGNATURE_MALFORMED") << bad;
  EXPECT_EQ(ReasonIdFrom(ParsePcrSignatures(std::string((256u << 10) + 1, ' '))), "PCR_SIGNATURE_MALFORMED");
}

}  // namespace
}  // namespace sealift::uki
