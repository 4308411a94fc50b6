// Assembling and signing a UKI against the speed of SHA-256 itself, `openssl speed` in the same run.
// Both sides count processor time, as `openssl speed` does, so that other load on the machine matters little.
// Every measured byte must be hashed twice (PCR 11, Authenticode), so 0.5 is the ceiling of a single thread.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "controller/build/uki_builder.h"
#include "shared/base/subprocess.h"
#include "shared/crypto/hash.h"
#include "tests/support/os_tree.h"

using namespace sealift;

namespace {

constexpr double kBar = 0.25;
constexpr std::size_t kInitrdBytes = 64u << 20;
constexpr int kRounds = 5;

double OpensslBytesPerSecond() {
  const auto output = RunCommandChecked(
      {.argv = {"openssl", "speed", "-mr", "-evp", "sha256", "-seconds", "1", "-bytes", "16384"}});
  if (!output.ok()) return 0;
  const std::size_t at = output->out.rfind(':');
  return at == std::string::npos ? 0 : std::strtod(output->out.c_str() + at + 1, nullptr);
}

double ProcessorSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace

int main() {
  const test::TestKey db = test::MakeTestKey("bench db");
  const auto pcr = SoftwareSigner::Generate(KeyType::kRsa).value();
  const Bytes stub = test::FakeStub();
  const Bytes kernel = test::FakeKernel();
  const Bytes initrd = RandomBytes(kInitrdBytes);
  std::vector<double> ratios;
  for (int i = 0; i < kRounds; ++i) {
    const double reference = OpensslBytesPerSecond();
    if (reference <= 0) {
      std::fprintf(stderr, "bench uki_build: openssl speed gave no figure\n");
      return 1;
    }
    const double began = ProcessorSeconds();
    const auto built = build::BuildUki(
        {.stub = stub,
         .kernel = kernel,
         .initrd = initrd,
         .os_release = "ID=x\n",
         .command_line = "quiet",
         .subject = "bench"},
        {.secure_boot = db.signer.get(), .secure_boot_certificate = db.certificate, .pcr = pcr.get()});
    const double took = ProcessorSeconds() - began;
    if (!built.ok()) {
      std::fprintf(stderr, "bench uki_build: %s\n", Describe(built.status()).c_str());
      return 1;
    }
    ratios.push_back(static_cast<double>(built->image.bytes.size()) / took / reference);
  }
  // The median: other load on the machine hits the two sides of one round unevenly.
  std::sort(ratios.begin(), ratios.end());
  const double ratio = ratios[ratios.size() / 2];
  std::printf("assemble+sign a %zu MiB UKI: %.2f of openssl speed sha256 (bar %.2f, ceiling 0.50)\n",
              kInitrdBytes >> 20, ratio, kBar);
  return ratio >= kBar ? 0 : 1;
}
