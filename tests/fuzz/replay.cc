// Runs a fuzz target without libFuzzer: over every file of its corpus as it is, cut short, and with single
// bytes changed. The same inputs at every run; any crash, sanitizer report or failed check ends the program.
//
//   fuzz_tuf_metadata CORPUS_FOLDER
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "shared/base/files.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

// Of each kind and file; spread evenly over long files.
constexpr std::size_t kMaxVariants = 200;

void RunVariants(const sealift::Bytes& input) {
  LLVMFuzzerTestOneInput(input.data(), input.size());
  const std::size_t step = std::max<std::size_t>(1, input.size() / kMaxVariants);
  for (std::size_t at = 0; at < input.size(); at += step) {
    // A buffer of exactly that size, so that a read beyond it is seen.
    const sealift::Bytes shorter(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(at));
    LLVMFuzzerTestOneInput(shorter.data(), shorter.size());
    sealift::Bytes changed = input;
    for (const int flip : {0x01, 0x80, 0xff}) {
      changed[at] = static_cast<std::uint8_t>(input[at] ^ flip);
      LLVMFuzzerTestOneInput(changed.data(), changed.size());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < argc; ++i) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i])) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fprintf(stderr, "no corpus\n");
    return 1;
  }
  for (const auto& path : files) {
    const auto input = sealift::ReadFile(path);
    if (!input.ok()) {
      std::fprintf(stderr, "%s\n", sealift::Describe(input.status()).c_str());
      return 1;
    }
    RunVariants(*input);
  }
  std::printf("%zu corpus files replayed\n", files.size());
  return 0;
}
