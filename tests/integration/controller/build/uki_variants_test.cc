// UKIs of every kind that a stub knows, on the stubs of Debian 12 and 13, against the programs others wrote:
// systemd-measure of both, ukify, objdump, sbverify, osslsigncode and pesign.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "controller/build/uki_builder.h"
#include "shared/crypto/hash.h"
#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sections.h"
#include "shared/uki/uki_layout.h"
#include "tests/support/debian_13.h"
#include "tests/support/os_tree.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::build {
namespace {

using nlohmann::json;
using test::RunTool;

constexpr const char* kStub252 = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
constexpr const char* kMeasure252 = "/usr/lib/systemd/systemd-measure";
constexpr std::string_view kKnown252 = " linux osrel cmdline initrd splash dtb pcrpkey ";
constexpr std::string_view kSbatLine =
    "uki.test,1,Test,uki,1.2,https://example.org/a/rather/long/address/to/grow\n";

// Contents by section name without the dot.
using Contents = std::map<std::string, std::string>;

class UkiVariantsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    db_ = new test::TestKey(test::MakeTestKey("variants db"));
    pcr_ = SoftwareSigner::Generate(KeyType::kRsa).value().release();
    work_ = new TempDir(TempDir::Create("sealift-variants").value());
    kernel_ = new Bytes(test::FakeKernel());
    initrd_ = new Bytes(RandomBytes(700'000));
    Write("linux", *kernel_);
    Write("initrd", *initrd_);
    Write("db.pem", AsBytes(db_->certificate_pem));
    Write("pcr.key", AsBytes(pcr_->PrivatePem()));
    Write("pcr.pub", AsBytes(pcr_->public_key().Pem()));
  }
  static void TearDownTestSuite() { delete work_; }
  static std::string Path(const std::string& name) { return (work_->path() / name).string(); }
  static void Write(const std::string& name, ByteView bytes) {
    ASSERT_TRUE(WriteFileAtomically(Path(name), bytes, 0600).ok());
  }
  static UkiKeys Keys() {
    return {.secure_boot = db_->signer.get(), .secure_boot_certificate = db_->certificate, .pcr = pcr_};
  }

  // Both ways of building, which must give the same bytes.
  BuiltUki Build(const std::string& stub_path, UkiParts parts) {
    const Bytes stub = ReadFile(stub_path).value();
    parts.stub = stub;
    parts.os_release = "ID=test\nVERSION_ID=1\n";
    parts.command_line = "quiet splash";
    parts.subject = "variants.efi 1";
    parts.signed_phases = {"", "sysinit", "sysinit:ready"};
    const auto kernel = uki::OpenSource(Path("linux"), 1u << 30);
    const auto initrd = uki::OpenSource(Path("initrd"), 1u << 30);
    parts.kernel = kernel->source;
    parts.initrd = initrd->source;
    parts.initrd_digest = Sha256(*initrd_);
    auto built = BuildUkiFile(parts, Keys(), Path("uki.efi"));
    parts.initrd_digest.reset();
    parts.kernel = *kernel_;
    parts.initrd = *initrd_;
    const auto in_memory = BuildUki(parts, Keys());
    EXPECT_TRUE(built.ok()) << built.status();
    EXPECT_TRUE(in_memory.ok()) << in_memory.status();
    if (!built.ok() || !in_memory.ok()) return {};
    image_ = ReadFile(Path("uki.efi")).value();
    EXPECT_EQ(image_.size(), built->size);
    EXPECT_TRUE(image_ == in_memory->image.bytes) << "file and memory differ";
    EXPECT_EQ(image_.size() % 8, 0u);
    const efi::PeImage parsed = efi::PeImage::Parse(image_).value();
    EXPECT_EQ(efi::AuthenticodeDigest(parsed), built->image.digest);
    return *std::move(built);
  }

  // What a program that others wrote finds in the image; of the first section of that name.
  std::string Dumped(const std::string& section) {
    const CommandOutput result = RunTool({"objcopy", "--dump-section", "." + section + "=" + Path("dumped"),
                                          Path("uki.efi"), Path("ignored.efi")});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return ToText(ReadFile(Path("dumped")).value());
  }

  Contents Base() {
    return {{"linux", ToText(*kernel_)},
            {"initrd", ToText(*initrd_)},
            {"osrel", "ID=test\nVERSION_ID=1\n"},
            {"cmdline", "quiet splash"},
            {"pcrpkey", pcr_->public_key().Pem()}};
  }

  // The program of 257 takes the file of --hwids for section .dtbauto and the other way round.
  static bool SwapsHardwareIds(std::vector<std::string> program) {
    Write("probe", AsBytes("x"));
    program.insert(program.end(), {"calculate", "--bank=sha256", "--phase=", "--linux=" + Path("probe"),
                                   "--hwids=" + Path("probe")});
    const Sha256Digest x = Sha256(AsBytes("x"));
    const auto right = uki::PredictPcr11({{".linux", x}, {".hwids", x}}, 257, "");
    return RunTool(program).out.find(right->Value().hex()) == std::string::npos;
  }

  std::vector<std::string> Measure(std::vector<std::string> program, const std::string& verb,
                                   const Contents& contents) {
    const bool swapped = program.front() != kMeasure252 && SwapsHardwareIds(program);
    program.push_back(verb);
    for (const auto& [section, content] : contents) {
      std::string name = section;
      if (program.front() == kMeasure252 && kKnown252.find(" " + name + " ") == std::string_view::npos)
        continue;
      if (swapped && (name == "hwids" || name == "dtbauto")) name = name == "hwids" ? "dtbauto" : "hwids";
      Write("part." + name, AsBytes(content));
      program.push_back("--" + name + "=" + Path("part." + name));
    }
    return program;
  }

  void ExpectMeasured(const std::vector<std::string>& program, const ImageMeasurements& image,
                      const Contents& contents, const std::string& what) {
    EXPECT_EQ(image.pcr11.size(), 3u);
    for (const PhasePrediction& phase : image.pcr11) {
      std::vector<std::string> argv = Measure(program, "calculate", contents);
      argv.insert(argv.end(), {"--bank=sha256", "--bank=sha384", "--phase=" + phase.phase});
      const CommandOutput result = RunTool(argv);
      EXPECT_NE(result.out.find("11:sha256=" + phase.pcr11.hex()), std::string::npos)
          << what << " phase '" << phase.phase << "': " << result.out << result.err;
      const auto other = image.pcr11_sha384.find(phase.phase);
      ASSERT_NE(other, image.pcr11_sha384.end());
      EXPECT_NE(result.out.find("11:sha384=" + other->second.hex()), std::string::npos)
          << what << " phase '" << phase.phase << "': " << result.out << result.err;
    }
  }

  static inline test::TestKey* db_;
  static inline SoftwareSigner* pcr_;
  static inline TempDir* work_;
  static inline Bytes* kernel_;
  static inline Bytes* initrd_;
  Bytes image_;
  const std::string uname_ = "6.1.0-test";
  const std::string splash_ = std::string("BM") + std::string(3000, 's');
  const std::string tree_ = std::string(1000, 't');
  const std::string tree_a_ = std::string(1001, 'a');
  const std::string tree_b_ = std::string(1002, 'b');
  const std::string microcode_ = std::string(5000, 'm');
  const std::string hwids_ = std::string(600, 'h');
};

TEST_F(UkiVariantsTest, SystemdMeasure252AgreesOnAllThatItsStubKnows) {
  SEALIFT_NEED_TOOL(kMeasure252);
  SEALIFT_NEED_FILE(kStub252);
  Contents contents = Base();
  ExpectMeasured({kMeasure252}, Build(kStub252, {.sha384 = true}).images.at(0), contents, "plain");
  contents["splash"] = splash_;
  contents["dtb"] = tree_;
  // .uname and .sbat are in the image but nothing that this stub measures.
  const BuiltUki full = Build(kStub252, {.kernel_release = uname_,
                                         .sbat = std::string(kSbatLine),
                                         .splash = splash_,
                                         .device_tree = tree_,
                                         .sha384 = true});
  ExpectMeasured({kMeasure252}, full.images.at(0), contents, "full");
  EXPECT_EQ(Dumped("uname"), uname_);
}

TEST_F(UkiVariantsTest, SystemdMeasure257AgreesOnAllThatItsStubKnows) {
  SEALIFT_NEED_FILE(test::Debian13Stub().c_str());
  SEALIFT_NEED_TOOL("objcopy");
  Contents contents = Base();
  const BuiltUki plain = Build(test::Debian13Stub(), {.sha384 = true});
  EXPECT_TRUE(plain.stub_version.starts_with("257")) << plain.stub_version;
  // The stub's own, which it measures.
  contents["sbat"] = Dumped("sbat");
  EXPECT_TRUE(contents["sbat"].starts_with("sbat,1,"));
  ExpectMeasured(test::Debian13Measure(), plain.images.at(0), contents, "plain");

  const BuiltUki full = Build(test::Debian13Stub(), {.kernel_release = uname_,
                                                     .sbat = std::string(kSbatLine),
                                                     .splash = splash_,
                                                     .microcode = microcode_,
                                                     .device_tree = tree_,
                                                     .device_trees_auto = {tree_a_, tree_b_},
                                                     .hardware_ids = hwids_,
                                                     .sha384 = true});
  contents["sbat"] = Dumped("sbat");
  EXPECT_TRUE(contents["sbat"].ends_with(kSbatLine)) << contents["sbat"];
  contents.insert(
      {{"uname", uname_}, {"splash", splash_}, {"dtb", tree_}, {"ucode", microcode_}, {"hwids", hwids_}});
  ASSERT_EQ(full.images.size(), 3u);
  ExpectMeasured(test::Debian13Measure(), full.images[0], contents, "full");
  contents["dtbauto"] = tree_a_;
  ExpectMeasured(test::Debian13Measure(), full.images[1], contents, "first device tree");
  contents["dtbauto"] = tree_b_;
  ExpectMeasured(test::Debian13Measure(), full.images[2], contents, "second device tree");
}

TEST_F(UkiVariantsTest, EachProfileHasItsOwnPredictionAndPolicy) {
  SEALIFT_NEED_FILE(test::Debian13Stub().c_str());
  SEALIFT_NEED_TOOL("objcopy");
  const std::string main = "ID=main\nTITLE=Main\n";
  const std::string debug = "ID=debug\nTITLE=Debug\n";
  const BuiltUki built =
      Build(test::Debian13Stub(), {.profiles = {{main}, {debug, "quiet debug"}}, .sha384 = true});
  ASSERT_EQ(built.images.size(), 2u);
  EXPECT_EQ(built.images[1].profile, 1u);
  EXPECT_EQ(built.images[1].command_line, "quiet debug");
  EXPECT_TRUE(built.images[0].pcr12.empty());
  // SHA-256 of the UTF-16 text "1" with its terminator.
  ASSERT_EQ(built.images[1].pcr12.size(), 1u);
  EXPECT_EQ(built.images[1].pcr12[0].digest, Sha256(AsBytes(std::string_view("1\0\0\0", 4))));
  Contents contents = Base();
  contents["sbat"] = Dumped("sbat");
  contents["profile"] = main;
  ExpectMeasured(test::Debian13Measure(), built.images[0], contents, "profile 0");
  const Contents first = contents;
  contents["profile"] = debug;
  contents["cmdline"] = "quiet debug";
  ExpectMeasured(test::Debian13Measure(), built.images[1], contents, "profile 1");

  const efi::PeImage image = efi::PeImage::Parse(image_).value();
  const auto profiles = uki::SectionsByProfile(image);
  ASSERT_EQ(profiles.size(), 2u);
  std::vector<std::string> order;
  for (const efi::PeSection& section : image.sections())
    if (section.name == ".profile" || section.name == ".pcrsig") order.push_back(section.name);
  EXPECT_EQ(order, (std::vector<std::string>{".profile", ".pcrsig", ".profile", ".pcrsig"}));
  const Contents* of[] = {&first, &contents};
  for (std::size_t i = 0; i < 2; ++i) {
    std::vector<std::string> argv = Measure(test::Debian13Measure(), "sign", *of[i]);
    argv.insert(argv.end(),
                {"--bank=sha256", "--private-key=" + Path("pcr.key"), "--public-key=" + Path("pcr.pub"),
                 "--phase=", "--phase=sysinit", "--phase=sysinit:ready"});
    const CommandOutput theirs = RunTool(argv);
    ASSERT_EQ(theirs.exit_code, 0) << theirs.err;
    const json ours = json::parse(AsText(image.Contents(*profiles[i].at(".pcrsig")).value()));
    EXPECT_EQ(ours.at("sha256"), json::parse(theirs.out).at("sha256")) << i;
    argv[argv.size() - 6] = "--bank=sha384";
    const json other = json::parse(RunTool(argv).out).at("sha384");
    ASSERT_EQ(other.size(), 3u);
    // 257 signs with the bank's own hash, which no systemd verifies; the policies are the same.
    for (std::size_t k = 0; k < 3; ++k)
      for (const char* member : {"pcrs", "pkfp", "pol"})
        EXPECT_EQ(ours.at("sha384")[k].at(member), other[k].at(member)) << i << k << member;
  }
}

TEST_F(UkiVariantsTest, OtherProgramsSeeTheSameImage) {
  SEALIFT_NEED_FILE(kStub252);
  SEALIFT_NEED_FILE(test::Debian13Stub().c_str());
  for (const char* tool : {"objdump", "sbverify", "osslsigncode", "pesign"}) SEALIFT_NEED_TOOL(tool);
  for (const std::string& stub : {std::string(kStub252), test::Debian13Stub()}) {
    SCOPED_TRACE(stub);
    const BuiltUki built = Build(stub, {.kernel_release = uname_,
                                        .sbat = std::string(kSbatLine) + std::string(kSbatLine),
                                        .splash = splash_,
                                        .device_tree = tree_});
    const CommandOutput sb = RunTool({"sbverify", "--cert", Path("db.pem"), Path("uki.efi")});
    EXPECT_EQ(sb.exit_code, 0) << sb.out << sb.err;
    EXPECT_EQ(sb.err.find("warning"), std::string::npos) << sb.err;
    std::string upper = built.image.digest.hex();
    std::transform(upper.begin(), upper.end(), upper.begin(), [](char c) { return std::toupper(c); });
    const CommandOutput ossl =
        RunTool({"osslsigncode", "verify", "-CAfile", Path("db.pem"), Path("uki.efi")});
    EXPECT_EQ(ossl.exit_code, 0) << ossl.out;
    EXPECT_NE(ossl.out.find("Calculated message digest : " + upper), std::string::npos) << ossl.out;
    const CommandOutput pesign = RunTool({"pesign", "-h", "-P", "-i", Path("uki.efi")});
    EXPECT_NE(pesign.out.find(built.image.digest.hex()), std::string::npos) << pesign.out << pesign.err;

    const CommandOutput dump = RunTool({"objdump", "-h", Path("uki.efi")});
    ASSERT_EQ(dump.exit_code, 0) << dump.err;
    std::istringstream lines(dump.out);
    std::map<std::string, std::uint64_t> sizes;
    std::uint64_t end = 0;
    for (std::string line; std::getline(lines, line);) {
      std::istringstream fields(line);
      int index = 0;
      std::string name;
      std::uint64_t size = 0;
      std::uint64_t address = 0;
      if (!(fields >> index >> name >> std::hex >> size >> address)) continue;
      EXPECT_GE(address, end) << name << " overlaps";
      end = address + size;
      EXPECT_TRUE(sizes.emplace(name, size).second) << name << " twice";
    }
    EXPECT_EQ(sizes.at(".splash"), splash_.size());
    EXPECT_EQ(sizes.at(".initrd"), initrd_->size());
    EXPECT_EQ(sizes.at(".linux"), kernel_->size());
    // The given line once, behind the stub's own, which stay.
    const std::string sbat = Dumped("sbat");
    EXPECT_EQ(sizes.at(".sbat"), sbat.size());
    EXPECT_NE(sbat.find("\nsystemd"), std::string::npos) << sbat;
    EXPECT_EQ(sbat.find(kSbatLine), sbat.rfind(kSbatLine)) << sbat;
    EXPECT_TRUE(sbat.starts_with("sbat,1,")) << sbat;
    EXPECT_EQ(sbat.find("\nsbat,"), std::string::npos) << sbat;
    EXPECT_TRUE(Dumped("sdmagic").starts_with("#### LoaderInfo: systemd-stub "));
  }
}

TEST_F(UkiVariantsTest, UkifyReadsTheSameSections) {
  SEALIFT_NEED_FILE(kStub252);
  SEALIFT_NEED_FILE(test::Debian13Ukify().c_str());
  if (RunTool({"/usr/bin/python3", "-c", "import pefile"}).exit_code != 0) {
    ASSERT_FALSE(test::ToolsAreRequired()) << "missing python3-pefile";
    GTEST_SKIP() << "missing python3-pefile";
  }
  const BuiltUki built = Build(kStub252, {.kernel_release = uname_, .splash = splash_});
  const CommandOutput shown = RunTool(
      {"/usr/bin/python3", test::Debian13Ukify(), "--json=short", "inspect", Path("uki.efi"), "--all"});
  ASSERT_EQ(shown.exit_code, 0) << shown.err;
  const json sections = json::parse(shown.out);
  for (const auto& [name, digest] : built.sections)
    EXPECT_EQ(sections.at(name).at("sha256"), digest.hex()) << name;
  EXPECT_EQ(sections.at(".uname").at("text"), uname_);
  EXPECT_EQ(sections.at(".splash").at("sha256"), Sha256(AsBytes(splash_)).hex());
}

TEST_F(UkiVariantsTest, SectionsThatAStubDoesNotKnowAreRefused) {
  SEALIFT_NEED_FILE(kStub252);
  const Bytes stub = ReadFile(kStub252).value();
  const UkiParts plain{.stub = stub,
                       .kernel = *kernel_,
                       .initrd = *initrd_,
                       .os_release = "ID=x\n",
                       .command_line = "quiet",
                       .subject = "x"};
  UkiParts parts = plain;
  parts.microcode = microcode_;
  EXPECT_EQ(test::ReasonIdFrom(BuildUki(parts, Keys())), "UKI_STUB_UNSUPPORTED");
  parts = plain;
  parts.hardware_ids = hwids_;
  EXPECT_EQ(test::ReasonIdFrom(BuildUki(parts, Keys())), "UKI_STUB_UNSUPPORTED");
  parts = plain;
  parts.device_trees_auto = {tree_};
  EXPECT_EQ(test::ReasonIdFrom(BuildUki(parts, Keys())), "UKI_STUB_UNSUPPORTED");
  parts = plain;
  parts.profiles = {{"ID=main\n"}};
  EXPECT_EQ(test::ReasonIdFrom(BuildUki(parts, Keys())), "UKI_STUB_UNSUPPORTED");
  EXPECT_EQ(test::ReasonIdFrom(BuildUki(plain, Keys())), "NONE");
}

}  // namespace
}  // namespace sealift::build
