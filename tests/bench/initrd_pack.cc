// Packing an initrd in bounded memory: the peak beyond what the process had before must stay below 64 MiB,
// whatever the tree.
//
//   bench_initrd_pack           a tree of 400 MiB, made here, of small files and one of 200 MiB
//   bench_initrd_pack SOURCE    what is named as for `sealift build-uki`; also prints how it was cut
#include <sys/resource.h>
#include <time.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "controller/build/initrd.h"
#include "controller/source/source.h"
#include "shared/base/files.h"
#include "shared/crypto/hash.h"

using namespace sealift;
using namespace sealift::build;

namespace {

constexpr double kBarMebibytes = 64;

double ProcessorSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double PeakMebibytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

// Half random, half repeated: neither all work nor none.
void MakeTree(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder / "usr/share");
  const Bytes noise = RandomBytes(1u << 16);
  const auto write = [&](const std::string& name, std::size_t blocks) {
    std::ofstream file(folder / "usr/share" / name, std::ios::binary);
    for (std::size_t i = 0; i < blocks; ++i) {
      const std::string text(noise.begin(),
                             noise.begin() + static_cast<std::ptrdiff_t>(i % 2 * noise.size()));
      file << text << std::string(noise.size() - text.size(), 'x');
    }
  };
  for (int i = 0; i < 1600; ++i) write("small" + std::to_string(i), 2);
  write("large", 3200);
}

}  // namespace

int main(int argc, char** argv) {
  const TempDir folder = TempDir::Create("sealift-bench").value();
  std::string source = "dir:" + folder.path().string();
  if (argc > 1)
    source = argv[1];
  else
    MakeTree(folder.path());
  const double memory_before = PeakMebibytes();
  const double began = ProcessorSeconds();
  const auto read = ReadSource(source);
  if (!read.ok()) {
    std::fprintf(stderr, "bench initrd_pack: %s\n", Describe(read.status()).c_str());
    return 1;
  }
  const double read_seconds = ProcessorSeconds() - began;
  const auto packages = ReadPackages(read->tree);
  const auto initrd = packages.ok()
                          ? PackInitrd(read->tree, *packages, {}, [](ByteView) { return OkStatus(); })
                          : Result<Initrd>(packages.status());
  if (!initrd.ok()) {
    std::fprintf(stderr, "bench initrd_pack: %s\n", Describe(initrd.status()).c_str());
    return 1;
  }
  const double seconds = ProcessorSeconds() - began;
  const double memory = PeakMebibytes() - memory_before;
  std::printf(
      "pack %.1f MB of %zu packages into %.1f MB, %zu frames: %.1f CPU-s (%.1f of them reading), %.0f MiB "
      "of memory (bar %.0f)\n",
      static_cast<double>(initrd->unpacked_bytes) * 1e-6, packages->packages.size(),
      static_cast<double>(initrd->index.size) * 1e-6, initrd->index.frames.size(), seconds, read_seconds,
      memory, kBarMebibytes);
  return memory < kBarMebibytes ? 0 : 1;
}
