// What an ISO says of itself to whoever boots it: volume descriptors and El Torito (ECMA-119, El Torito 1.0)
// and the GPT in its first sectors (UEFI 2.10 section 5.3).
//
// A parser of foreign bytes: bounded, reads a few sectors only. The GPT's checksums are not looked at.
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "shared/base/bytes.h"
#include "shared/base/status.h"
#include "shared/efi/guid.h"

namespace sealift::media {

inline constexpr std::uint64_t kIsoBlock = 2048;
inline constexpr efi::Guid kEspType =
    efi::Guid::Make(0xc12a7328, 0xf81f, 0x11d2, {0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b});

// One entry of the boot catalogue.
struct BootImage {
  // 0 x86 BIOS, 0xef EFI.
  std::uint8_t platform = 0;
  bool bootable = false;
  // Bytes within the file.
  std::uint64_t offset = 0;
  // Of 512 bytes; 0 or 1: as far as the volume goes.
  std::uint32_t sectors = 0;
};

struct IsoPartition {
  efi::Guid type;
  std::string name;
  // Bytes, within the file.
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

struct IsoImage {
  std::string volume_id;
  std::uint64_t volume_bytes = 0;
  std::vector<BootImage> boot_images;
  // Empty when there is no GPT.
  std::vector<IsoPartition> partitions;

  // Where a machine that boots it as a CD finds its EFI system partition, and one that boots it as a disk.
  std::optional<std::uint64_t> cd_esp() const;
  std::optional<std::uint64_t> disk_esp() const;
};

// `size` bytes at `offset`, all of them or an error; called with ranges inside of the file only.
using ReadAt = std::function<Result<Bytes>(std::uint64_t offset, std::size_t size)>;

// Errors: INVALID_ARGUMENT/MALFORMED: no primary volume descriptor within 32 sectors, other block sizes, a
// boot catalogue or image beyond the file, a wrong catalogue checksum, a partition beyond the file; those of
// `read`.
Result<IsoImage> ParseIso(std::uint64_t file_bytes, const ReadAt& read);

}  // namespace sealift::media
