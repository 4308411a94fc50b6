// A whole release, built from systemd's real stub and boot loader, against the programs others wrote.
#include <gtest/gtest.h>
#include <zstd.h>

#include <fstream>

#include "shared/uki/pcr_policy.h"
#include "shared/uki/pcr_prediction.h"
#include "shared/uki/sections.h"
#include "shared/uki/uki_layout.h"
#include "tests/support/os_tree.h"
#include "tests/support/swtpm.h"
#include "tests/support/tools.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;
using test::RunTool;

constexpr const char* kEfiPrograms = "/usr/lib/systemd/boot/efi";
constexpr const char* kMeasure = "/usr/lib/systemd/systemd-measure";
constexpr const char* kMeasured[] = {"linux", "osrel", "cmdline", "initrd", "pcrpkey"};

class UkiDifferentialTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    keys_ = new test::ReleaseKeySet();
    work_ = new TempDir(TempDir::Create("sealift-uki").value());
    os_ = new test::OsTree();
    for (const char* name : {"linuxx64.efi.stub", "systemd-bootx64.efi"}) {
      const auto real = ReadFile(fs::path(kEfiPrograms) / name);
      if (real.ok()) os_->Write(std::string("usr/lib/systemd/boot/efi/") + name, AsText(*real));
    }
    for (int i = 0; i < 5; ++i)
      os_->Write("usr/share/d" + std::to_string(i), std::string(900'000, static_cast<char>('a' + i)));
    os_->Write("usr/bin/tool", "tool", 04755);
    fs::create_hard_link(os_->path() / "usr/bin/tool", os_->path() / "usr/bin/same-tool");
    os_->Write("etc/empty", "", 0600);
    const auto built = BuildRelease({.source = "dir:" + os_->path().string(),
                                     .out = work_->path() / "out",
                                     .command_line = "quiet",
                                     .zstd_level = 3},
                                    keys_->Keys(), {});
    ASSERT_TRUE(built.ok()) << built.status();
    manifest_ = new Manifest(built->manifest);
    uki_ = new Bytes(ReadFile(UkiPath()).value());
    const efi::PeImage image = efi::PeImage::Parse(*uki_).value();
    for (const char* name : kMeasured) {
      const std::string section = std::string(".") + name;
      Write(name, uki::UkiSectionContents(image, section).value());
    }
    Write("db.pem", AsBytes(keys_->db.certificate_pem));
    Write("pcr.key", AsBytes(keys_->pcr->PrivatePem()));
  }
  static void TearDownTestSuite() {
    delete work_;
    delete os_;
  }
  static std::string Path(const std::string& name) { return (work_->path() / name).string(); }
  static std::string UkiPath() { return Path("out/EFI/kairos/norole.efi"); }
  static void Write(const std::string& name, ByteView bytes) {
    ASSERT_TRUE(WriteFileAtomically(Path(name), bytes, 0600).ok());
  }
  static std::vector<std::string> MeasureArguments(const std::string& verb) {
    std::vector<std::string> argv = {kMeasure, verb, "--bank=sha256"};
    for (const char* name : kMeasured) argv.push_back(std::string("--") + name + "=" + Path(name));
    return argv;
  }

  static inline test::ReleaseKeySet* keys_;
  static inline TempDir* work_;
  static inline test::OsTree* os_;
  static inline Manifest* manifest_;
  static inline Bytes* uki_;
};

TEST_F(UkiDifferentialTest, SystemdMeasureCalculatesTheSamePcr11) {
  SEALIFT_NEED_TOOL(kMeasure);
  for (const PhasePrediction& phase : manifest_->pcr11) {
    std::vector<std::string> argv = MeasureArguments("calculate");
    argv.push_back("--phase=" + phase.phase);
    const CommandOutput result = RunTool(argv);
    EXPECT_NE(result.out.find("11:sha256=" + phase.pcr11.hex()), std::string::npos)
        << "phase '" << phase.phase << "': " << result.out << result.err;
  }
}

TEST_F(UkiDifferentialTest, SystemdMeasureSignsTheSameText) {
  SEALIFT_NEED_TOOL(kMeasure);
  SEALIFT_NEED_TOOLS("swtpm", "swtpm_setup");
  const auto tpm = test::Swtpm::Start({.ek_certificate = false});
  ASSERT_FALSE(HasFatalFailure());
  std::vector<std::string> argv = MeasureArguments("sign");
  argv.insert(argv.end(), {"--private-key=" + Path("pcr.key"), "--public-key=" + Path("pcrpkey"),
                           "--tpm2-device=" + tpm->tcti(), "--phase="});
  const CommandOutput result = RunTool(argv);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const efi::PeImage image = efi::PeImage::Parse(*uki_).value();
  EXPECT_EQ(AsText(uki::UkiSectionContents(image, uki::kPcrSignature).value()), result.out);
}

TEST_F(UkiDifferentialTest, SbverifyAndOsslsigncodeAcceptTheImage) {
  SEALIFT_NEED_TOOL("sbverify");
  SEALIFT_NEED_TOOL("osslsigncode");
  for (const std::string& file : {UkiPath(), Path("out/EFI/BOOT/BOOTX64.EFI")}) {
    const CommandOutput sb = RunTool({"sbverify", "--cert", Path("db.pem"), file});
    EXPECT_EQ(sb.exit_code, 0) << sb.out << sb.err;
    // systemd-boot itself has a symbol table behind its sections, which the UKI must not inherit from the
    // stub.
    if (file == UkiPath()) {
      EXPECT_EQ(sb.err.find("warning"), std::string::npos) << sb.err;
    }
    EXPECT_EQ(RunTool({"osslsigncode", "verify", "-CAfile", Path("db.pem"), file}).exit_code, 0);
  }
  Bytes tampered = *uki_;
  tampered[tampered.size() / 2] ^= 1;
  Write("tampered.efi", tampered);
  EXPECT_NE(RunTool({"sbverify", "--cert", Path("db.pem"), Path("tampered.efi")}).exit_code, 0);
}

TEST_F(UkiDifferentialTest, ObjcopyReadsTheSameSections) {
  SEALIFT_NEED_TOOL("objcopy");
  for (const char* name : kMeasured) {
    const CommandOutput result =
        RunTool({"objcopy", "--dump-section", std::string(".") + name + "=" + Path("dumped"), UkiPath(),
                 Path("ignored.efi")});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(ReadFile(Path("dumped")).value(), ReadFile(Path(name)).value()) << name;
  }
}

TEST_F(UkiDifferentialTest, PefileFindsNothingOdd) {
  SEALIFT_NEED_TOOL("/usr/bin/python3");
  if (RunTool({"/usr/bin/python3", "-c", "import pefile"}).exit_code != 0) {
    ASSERT_FALSE(test::ToolsAreRequired()) << "missing python3-pefile";
    GTEST_SKIP() << "missing python3-pefile";
  }
  constexpr const char* kProgram =
      "import pefile,sys\n"
      "p=pefile.PE(sys.argv[1])\n"
      "end=0\n"
      "for s in p.sections:\n"
      "  assert s.VirtualAddress>=end,s.Name\n"
      "  end=s.VirtualAddress+s.Misc_VirtualSize\n"
      "assert p.OPTIONAL_HEADER.SizeOfImage>=end\n"
      "assert p.FILE_HEADER.PointerToSymbolTable==0\n"
      "assert p.verify_checksum(),'checksum'\n"
      // What pefile says about the stub's own relocations is not about our layout.
      "odd=[w for w in p.get_warnings() if 'relocation' not in w]\n"
      "assert not odd,odd\n";
  const CommandOutput result = RunTool({"/usr/bin/python3", "-c", kProgram, UkiPath()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

// The archive without the zeros at its end, which the zstd program takes for a damaged frame.
Bytes WithoutPadding(ByteView packed) {
  std::size_t end = 0;
  while (end < packed.size()) {
    const std::size_t size = ZSTD_findFrameCompressedSize(packed.data() + end, packed.size() - end);
    if (ZSTD_isError(size) != 0) break;
    end += size;
  }
  return ToBytes(packed.first(end));
}

TEST_F(UkiDifferentialTest, CpioUnpacksTheTreeAsItWas) {
  SEALIFT_NEED_TOOL("zstd");
  SEALIFT_NEED_TOOL("cpio");
  Write("initrd.zst", WithoutPadding(ReadFile(Path("initrd")).value()));
  fs::create_directories(Path("unpacked"));
  const CommandOutput result = RunTool(
      {"sh", "-c", "zstd -dc \"$0\" | cpio -idm --quiet -D \"$1\"", Path("initrd.zst"), Path("unpacked")});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  ASSERT_EQ(result.err, "");
  const fs::path root = Path("unpacked");
  EXPECT_EQ(fs::read_symlink(root / "init"), "/usr/lib/systemd/systemd");
  EXPECT_FALSE(fs::exists(root / "etc/initrd-release"));
  EXPECT_EQ(fs::file_size(root / "etc/machine-id"), 0u);
  EXPECT_TRUE(fs::is_empty(root / "boot"));
  EXPECT_TRUE(fs::is_empty(root / "dev"));
  EXPECT_EQ(fs::hard_link_count(root / "usr/bin/tool"), 2u);
  EXPECT_TRUE(fs::equivalent(root / "usr/bin/tool", root / "usr/bin/same-tool"));
  std::size_t compared = 0;
  for (const auto& item : fs::recursive_directory_iterator(os_->path() / "usr")) {
    const fs::path name = item.path().lexically_relative(os_->path());
    ASSERT_EQ(fs::symlink_status(root / name).type(), item.symlink_status().type()) << name;
    EXPECT_EQ(fs::symlink_status(root / name).permissions(), item.symlink_status().permissions()) << name;
    if (!item.is_regular_file() || item.is_symlink()) continue;
    EXPECT_EQ(ReadFile(root / name).value(), ReadFile(item.path()).value()) << name;
    ++compared;
  }
  EXPECT_GE(compared, 10u);
}

}  // namespace
}  // namespace sealift::build
