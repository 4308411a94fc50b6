// What makes no UKI is refused with one sentence, and nothing is left where the file would have been.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "controller/build/uki_builder.h"
#include "tests/support/os_tree.h"
#include "tests/support/small_disk.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tools.h"

namespace sealift::build {
namespace {

namespace fs = std::filesystem;
using test::ReasonIdFrom;
using test::SyntheticPe;

class UkiBadInputTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    db_ = new test::TestKey(test::MakeTestKey("bad input db"));
    pcr_ = SoftwareSigner::Generate(KeyType::kRsa).value().release();
  }
  UkiParts Parts() const {
    return {.stub = stub_,
            .kernel = kernel_,
            .initrd = initrd_,
            .os_release = "ID=x\n",
            .command_line = "quiet",
            .subject = "bad.efi 1"};
  }
  static UkiKeys Keys() {
    return {.secure_boot = db_->signer.get(), .secure_boot_certificate = db_->certificate, .pcr = pcr_};
  }
  std::string Out() const { return (folder_.path() / "uki.efi").string(); }
  // The reason; checks that the sentence is one and that nothing was written, before what was there.
  std::string Refusal(const UkiParts& parts) const {
    EXPECT_TRUE(WriteFileAtomically(Out(), AsBytes("earlier"), 0644).ok());
    const auto built = BuildUkiFile(parts, Keys(), Out());
    if (built.ok()) return "NONE";
    EXPECT_EQ(ReasonIdFrom(BuildUki(parts, Keys())), ReasonIdFrom(built));
    const std::string message = MessageOf(built.status());
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_NE(message.find(": "), std::string::npos) << message;
    EXPECT_EQ(ReadTextFile(Out()).value(), "earlier");
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 1) << "something was left";
    return std::string(ReasonIdFrom(built));
  }
  Bytes WithByte(Bytes bytes, std::size_t offset, std::uint8_t value) const {
    bytes[offset] = value;
    return bytes;
  }

  static inline test::TestKey* db_;
  static inline SoftwareSigner* pcr_;
  const Bytes stub_ = test::FakeStub();
  const Bytes kernel_ = test::FakeKernel();
  const Bytes initrd_ = Bytes(3 << 20, 'i');
  TempDir folder_ = TempDir::Create("sealift-bad-uki").value();
};

TEST_F(UkiBadInputTest, GoodPartsMakeOne) { EXPECT_EQ(Refusal(Parts()), "NONE"); }

TEST_F(UkiBadInputTest, CutOffKernels) {
  UkiParts parts = Parts();
  for (std::size_t size = 0; size < kernel_.size(); size += size < 0x200 ? 7 : 61) {
    const Bytes cut(kernel_.begin(), kernel_.begin() + static_cast<std::ptrdiff_t>(size));
    parts.kernel = cut;
    const std::string reason = Refusal(parts);
    EXPECT_TRUE(reason == "IMAGE_TRUNCATED" || (size < 2 && reason == "IMAGE_MALFORMED")) << size << reason;
  }
}

TEST_F(UkiBadInputTest, StubsThatLie) {
  constexpr std::size_t kOptional = 0x98;
  constexpr std::size_t kTable = kOptional + 240;
  UkiParts parts = Parts();
  const auto with = [&](const Bytes& stub) {
    parts.stub = stub;
    return Refusal(parts);
  };
  const Bytes no_magic = SyntheticPe{.sections = {{".text", "stub"}}}.Build();
  EXPECT_EQ(with(no_magic), "UKI_STUB_UNSUPPORTED");
  EXPECT_EQ(with(test::FakeStub("251.1")), "UKI_STUB_UNSUPPORTED");
  EXPECT_EQ(with(test::FakeBootLoader()), "INVALID_ARGUMENT");
  EXPECT_EQ(with(Bytes()), "IMAGE_MALFORMED");
  EXPECT_EQ(with(ToBytes(AsBytes("MZ"))), "IMAGE_TRUNCATED");
  // Raw size of the first section beyond the file, and into the second.
  EXPECT_EQ(with(WithByte(stub_, kTable + 18, 0xff)), "IMAGE_TRUNCATED");
  EXPECT_EQ(with(WithByte(stub_, kTable + 17, 0x04)), "IMAGE_MALFORMED");
  // The second section at the first one's address, and a size in memory that runs over it.
  EXPECT_EQ(with(WithByte(stub_, kTable + 40 + 13, 0x40)), "UKI_LAYOUT_INVALID");
  EXPECT_EQ(with(WithByte(stub_, kTable + 10, 0x10)), "UKI_LAYOUT_INVALID");
  // 16 MiB of alignment in the file would make gibibytes of zeros.
  EXPECT_EQ(with(WithByte(WithByte(stub_, kOptional + 37, 0), kOptional + 39, 1)), "UKI_LAYOUT_INVALID");
  EXPECT_EQ(with(WithByte(stub_, kOptional + 36, 3)), "IMAGE_MALFORMED");
  // A 32-bit one.
  EXPECT_NE(with(WithByte(stub_, kOptional + 1, 1)), "NONE");
}

TEST_F(UkiBadInputTest, CommandLines) {
  UkiParts parts = Parts();
  for (const std::string& line : {std::string(), std::string("quiet\0init=/bin/sh", 18), std::string("a\nb"),
                                  std::string("a\x7f"), std::string(2048, 'a')}) {
    parts.command_line = line;
    EXPECT_EQ(Refusal(parts), "COMMAND_LINE_INVALID") << line;
  }
  parts.command_line = std::string(2047, 'a');
  EXPECT_EQ(Refusal(parts), "NONE");
}

TEST_F(UkiBadInputTest, SbatLines) {
  UkiParts parts = Parts();
  for (const char* lines : {"uki", ",1", "uki,x", "uki,1\nuki,2", "\xff,1", "sbat,2"}) {
    parts.sbat = lines;
    // The stub here has no .sbat of its own, so that its header line is whatever is given.
    EXPECT_EQ(Refusal(parts), std::string(lines) == "sbat,2" ? "NONE" : "UKI_LAYOUT_INVALID") << lines;
  }
}

TEST_F(UkiBadInputTest, AnInitrdThatBecameShorter) {
  const TempDir other = TempDir::Create("sealift-short").value();
  const std::string path = (other.path() / "initrd").string();
  ASSERT_TRUE(WriteFileAtomically(path, initrd_).ok());
  const uki::SourceFile file = uki::OpenSource(path, 1u << 30).value();
  UkiParts parts = Parts();
  parts.initrd = file.source;
  EXPECT_EQ(Refusal(parts), "NONE");
  ASSERT_EQ(::truncate(path.c_str(), 1 << 20), 0);
  EXPECT_EQ(Refusal(parts), "FILE_UNREADABLE");
}

TEST_F(UkiBadInputTest, AFileThatMayNotGrow) {
  ASSERT_TRUE(WriteFileAtomically(Out(), AsBytes("earlier"), 0644).ok());
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 1 << 20, .rlim_max = old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto built = BuildUkiFile(Parts(), Keys(), Out());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(ReasonIdFrom(built), "FILE_UNWRITABLE");
  EXPECT_EQ(ReadTextFile(Out()).value(), "earlier");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 1) << "something was left";
}

int BuildOnFullDisk(const UkiParts& parts, const UkiKeys& keys, const fs::path& folder) {
  const auto built = BuildUkiFile(parts, keys, folder / "uki.efi");
  if (ReasonIdFrom(built) != "DISK_FULL") return 1;
  return fs::is_empty(folder) ? test::kAsWanted : 2;
}

TEST_F(UkiBadInputTest, ADiskThatIsFullInTheMiddle) {
  const UkiParts parts = Parts();
  const int code =
      test::RunOnSmallDisk(folder_.path(), [&] { return BuildOnFullDisk(parts, Keys(), folder_.path()); });
  if (code == test::kNoNamespace) GTEST_SKIP() << "no user namespaces here";
  EXPECT_EQ(code, test::kAsWanted) << "1: another reason; 2: something was left";
}

}  // namespace
}  // namespace sealift::build
