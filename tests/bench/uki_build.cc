// Measuring, assembling and signing a UKI of 120 MiB, in files, against the programs that others do it with
// and against the hashing that it cannot do without.
//
// Everything counts processor time, so that other load on the machine matters little; the two sides of each
// ratio are measured in one round. The builder runs in a process of its own, whose peak memory is known.
#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "controller/build/uki_builder.h"
#include "shared/base/subprocess.h"
#include "shared/crypto/hash.h"
#include "tests/support/os_tree.h"
#include "tests/support/tools.h"

using namespace sealift;

namespace {

constexpr double kChainBar = 0.2;
constexpr double kHashBar = 1.5;
constexpr std::size_t kInitrdMiB = 112;
constexpr std::size_t kKernelMiB = 8;
constexpr int kRounds = 5;
constexpr const char* kStub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
constexpr const char* kMeasure = "/usr/lib/systemd/systemd-measure";
constexpr long kMemoryBarKiB = 64 << 10;

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

double ProcessorSeconds(int who) {
  rusage usage{};
  getrusage(who, &usage);
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

void Die(const Status& status) {
  std::fprintf(stderr, "bench uki_build: %s\n", Describe(status).c_str());
  std::exit(1);
}

template <typename T>
T Must(Result<T> result) {
  if (!result.ok()) Die(result.status());
  return *std::move(result);
}

// The child: builds once, prints its processor seconds and peak memory in KiB.
int BuildOnce(const std::string& folder) {
  const test::TestKey db = test::MakeTestKey("bench db");
  const auto pcr = SoftwareSigner::Generate(KeyType::kRsa).value();
  const Bytes stub = ::access(kStub, R_OK) == 0 ? Must(ReadFile(kStub)) : test::FakeStub();
  const uki::SourceFile kernel = Must(uki::OpenSource(folder + "/linux", 1u << 30));
  const uki::SourceFile initrd = Must(uki::OpenSource(folder + "/initrd", 1u << 30));
  const double before = ProcessorSeconds(RUSAGE_SELF);
  const build::BuiltUki built = Must(build::BuildUkiFile(
      {.stub = stub,
       .kernel = kernel.source,
       .initrd = initrd.source,
       .os_release = "ID=x\n",
       .command_line = "quiet",
       .subject = "bench"},
      {.secure_boot = db.signer.get(), .secure_boot_certificate = db.certificate, .pcr = pcr.get()},
      folder + "/ours.efi"));
  const double took = ProcessorSeconds(RUSAGE_SELF) - before;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::printf("%.6f %ld\n", took, usage.ru_maxrss);
  return built.size > (kInitrdMiB << 20) ? 0 : 1;
}

// Processor seconds of the programs.
double Run(const std::vector<std::vector<std::string>>& commands) {
  const double before = ProcessorSeconds(RUSAGE_CHILDREN);
  for (const auto& argv : commands)
    Must(RunCommandChecked({.argv = argv, .timeout = std::chrono::minutes(2)}));
  return ProcessorSeconds(RUSAGE_CHILDREN) - before;
}

std::string Hex(std::uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

// What systemd-stub(7) shows: systemd-measure, objcopy at addresses behind the stub's, sbsign.
std::vector<std::vector<std::string>> ReferenceChain(const std::string& folder) {
  const Bytes stub = Must(ReadFile(kStub));
  const efi::PeImage image = Must(efi::PeImage::Parse(stub));
  std::uint64_t address = 0;
  for (const efi::PeSection& section : image.sections())
    address = std::max<std::uint64_t>(address, std::uint64_t{section.virtual_address} + section.virtual_size);
  std::vector<std::string> measure = {kMeasure, "calculate", "--bank=sha256"};
  std::vector<std::string> objcopy = {"objcopy"};
  for (const std::string name : {"osrel", "cmdline", "pcrpkey", "linux", "initrd"}) {
    const std::string file = folder + "/" + name;
    measure.push_back("--" + name + "=" + file);
    address = (address + 0xfff) / 0x1000 * 0x1000;
    objcopy.insert(objcopy.end(), {"--add-section", "." + name + "=" + file, "--change-section-vma",
                                   "." + name + "=" + Hex(address)});
    address += std::filesystem::file_size(file);
  }
  objcopy.insert(objcopy.end(), {kStub, folder + "/unsigned.efi"});
  return {measure,
          objcopy,
          {"sbsign", "--key", folder + "/db.key", "--cert", folder + "/db.pem", "--output",
           folder + "/theirs.efi", folder + "/unsigned.efi"}};
}

// SHA-256 twice over the same bytes, read from the same files, by OpenSSL's EVP in 256 KiB pieces.
double HashTwice(const std::string& folder) {
  const double before = ProcessorSeconds(RUSAGE_SELF);
  for (int i = 0; i < 2; ++i) {
    for (const char* name : {"/linux", "/initrd"}) {
      const uki::SourceFile file = Must(uki::OpenSource(folder + name, 1u << 30));
      Must(uki::DigestSource(file.source));
    }
  }
  return ProcessorSeconds(RUSAGE_SELF) - before;
}

void WriteInputs(const std::string& folder) {
  const auto write = [&](const std::string& name, ByteView bytes) {
    const Status status = WriteFileAtomically(folder + "/" + name, bytes, 0600);
    if (!status.ok()) Die(status);
  };
  const auto grow = [&](const std::string& name, std::size_t mebibytes) {
    const UniqueFd fd(::open((folder + "/" + name).c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
    for (std::size_t i = 0; i < mebibytes; ++i) {
      const Status status = WriteAll(fd.get(), name, RandomBytes(1 << 20));
      if (!status.ok()) Die(status);
    }
  };
  const test::TestKey db = test::MakeTestKey("bench reference");
  write("db.key", AsBytes(db.signer->PrivatePem()));
  write("db.pem", AsBytes(db.certificate_pem));
  write("osrel", AsBytes("ID=x\n"));
  write("cmdline", AsBytes("quiet"));
  write("pcrpkey", AsBytes(db.signer->public_key().Pem()));
  write("linux", test::FakeKernel());
  grow("linux", kKernelMiB);
  grow("initrd", kInitrdMiB);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "--build") == 0) return BuildOnce(argv[2]);
  const TempDir work = Must(TempDir::Create("sealift-bench-uki"));
  const std::string folder = work.path().string();
  WriteInputs(folder);
  const bool chain = test::HaveTool("objcopy") && test::HaveTool("sbsign") && test::HaveTool(kMeasure) &&
                     ::access(kStub, R_OK) == 0;
  if (!chain && test::ToolsAreRequired()) {
    std::fprintf(stderr, "bench uki_build: missing systemd-measure, the stub, objcopy or sbsign\n");
    return 1;
  }
  std::vector<double> of_chain;
  std::vector<double> of_hash;
  long peak = 0;
  for (int round = 0; round < kRounds; ++round) {
    const CommandOutput built = Must(RunCommandChecked({.argv = {"/proc/self/exe", "--build", folder}}));
    double ours = 0;
    long memory = 0;
    if (std::sscanf(built.out.c_str(), "%lf %ld", &ours, &memory) != 2 || ours <= 0) return 1;
    peak = std::max(peak, memory);
    const double hashing = HashTwice(folder);
    of_hash.push_back(ours / hashing);
    std::printf("round %d: ours %.3f s, hashing twice %.3f s", round + 1, ours, hashing);
    if (chain) {
      const double theirs = Run(ReferenceChain(folder));
      of_chain.push_back(ours / theirs);
      std::printf(", systemd-measure + objcopy + sbsign %.3f s", theirs);
    }
    std::printf("\n");
  }
  const double hash_ratio = Median(of_hash);
  const double chain_ratio = chain ? Median(of_chain) : 0;
  std::printf("measure+assemble+sign a %zu MiB UKI, processor time:\n", kInitrdMiB + kKernelMiB);
  std::printf("  %.2f of hashing its parts twice (bar %.2f)\n", hash_ratio, kHashBar);
  if (chain) std::printf("  %.2f of systemd-measure + objcopy + sbsign (bar %.2f)\n", chain_ratio, kChainBar);
  std::printf("  peak memory %.1f MiB (bar %ld)\n", static_cast<double>(peak) / 1024, kMemoryBarKiB >> 10);
  return hash_ratio <= kHashBar && chain_ratio <= kChainBar && peak <= kMemoryBarKiB ? 0 : 1;
}
