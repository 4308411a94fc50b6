// The first blocks of a small ISO with a boot catalogue and a GPT, made from nothing, for tests that need to
// know every byte.
#pragma once

#include <string>

#include "shared/base/bytes.h"

namespace sealift::test {

inline void PutLittle(Bytes& file, std::size_t at, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i)
    file[at + static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(value >> (8 * i));
}
inline void PutText(Bytes& file, std::size_t at, std::string_view text) {
  std::copy(text.begin(), text.end(), file.begin() + static_cast<std::ptrdiff_t>(at));
}

// 24 blocks of 2048 bytes: descriptors at 16 to 18, catalogue at 19, the EFI image at 20, which the GPT names
// too.
inline Bytes MakeIso() {
  constexpr std::size_t kBlock = 2048;
  Bytes file(24 * kBlock);
  PutText(file, 512, "EFI PART");
  PutLittle(file, 512 + 72, 2, 8);
  PutLittle(file, 512 + 80, 2, 4);
  PutLittle(file, 512 + 84, 128, 4);
  const Bytes esp = {0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11,
                     0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b};
  std::copy(esp.begin(), esp.end(), file.begin() + 1024);
  PutLittle(file, 1024 + 32, 80, 8);
  PutLittle(file, 1024 + 40, 87, 8);
  PutLittle(file, 1024 + 56, 'E', 2);
  const std::size_t primary = 16 * kBlock;
  file[primary] = 1;
  PutText(file, primary + 1, "CD001\1");
  PutText(file, primary + 40, "UKI_ISO_INSTALL                 ");
  PutLittle(file, primary + 80, 24, 4);
  PutLittle(file, primary + 128, kBlock, 2);
  PutText(file, 17 * kBlock + 1, "CD001\1EL TORITO SPECIFICATION");
  PutLittle(file, 17 * kBlock + 71, 19, 4);
  file[18 * kBlock] = 255;
  PutText(file, 18 * kBlock + 1, "CD001\1");
  const std::size_t catalog = 19 * kBlock;
  PutText(file, catalog, std::string_view("\1\xef", 2));
  PutText(file, catalog + 30, "\x55\xaa");
  // Words 0xef01 and 0xaa55 add up to 0x9956 in 16 bits.
  PutLittle(file, catalog + 28, 0x10000 - 0x9956, 2);
  file[catalog + 32] = 0x88;
  PutLittle(file, catalog + 38, 0, 2);
  PutLittle(file, catalog + 40, 20, 4);
  return file;
}

}  // namespace sealift::test
