// Small images with everything a delta takes apart: zstd frames and a kernel whose payload is LZ4.
#pragma once

#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "shared/base/files.h"
#include "shared/delta/encoding.h"
#include "tests/support/synthetic_pe.h"

namespace sealift::test {

// Neither noise nor all the same, as code is.
inline std::string CodeLike(std::uint32_t seed, std::size_t size) {
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < size) {
    text += "function_" + std::to_string(random() % 500) + "(";
    for (auto i = random() % 6; i > 0; --i) text += static_cast<char>(random() % 256);
    text += ");";
  }
  text.resize(size);
  return text;
}

inline std::string Encoded(delta::Encoding encoding, int level, std::string_view raw) {
  std::string out;
  const delta::Sink sink = [&out](ByteView piece) {
    out += AsText(piece);
    return OkStatus();
  };
  const auto encoder = delta::MakeEncoder(encoding, level, raw.size(), sink).value();
  SEALIFT_CHECK(encoder->Put(AsBytes(raw)).ok() && encoder->Finish().ok());
  return out;
}

// A bzImage as far as boot.rst describes it.
inline std::string FakeBzImage(std::string_view raw, std::string_view payload, std::string_view tail) {
  std::string kernel(0x800, '\0');
  kernel[0x1f1] = 2;  // setup sectors: code begins at 0x600
  kernel.replace(0x202, 4, "HdrS");
  kernel.replace(0x206, 2, std::string("\x0f\x02", 2));
  ByteWriter writer(ByteWriter::Endian::kLittle);
  writer.U32(0x200);
  writer.U32(static_cast<std::uint32_t>(payload.size() + 4));
  writer.U32(static_cast<std::uint32_t>(raw.size()));
  const std::string numbers(AsText(writer.bytes()));
  kernel.replace(0x248, 8, numbers.substr(0, 8));
  return kernel + std::string(payload) + numbers.substr(8) + std::string(tail);
}

struct ImageRecipe {
  std::vector<std::string> frames;
  std::string kernel;
  std::string os_release = "ID=test\n";
  int zstd_level = 9;

  Bytes Build() const {
    std::string initrd;
    for (const std::string& frame : frames) initrd += Encoded(delta::Encoding::kZstdFrame, zstd_level, frame);
    initrd.resize((initrd.size() + 3) / 4 * 4);
    const std::string linux_image =
        FakeBzImage(kernel, Encoded(delta::Encoding::kLz4Legacy, 9, kernel), "decompressor");
    return SyntheticPe{.sections = {{".text", CodeLike(7, 4000)},
                                    {".osrel", os_release},
                                    {".linux", linux_image},
                                    {".initrd", initrd}}}
        .Build();
  }
  std::filesystem::path Write(const std::filesystem::path& path) const {
    SEALIFT_CHECK(WriteFileAtomically(path, Build()).ok());
    return path;
  }
};

}  // namespace sealift::test
