// Partitions of an image file: what a discoverable disk image (UAPI.3) is made of, as a GPT says (UEFI 2.10
// section 5.3).
//
// For files whose digest or signature is checked by other means: the table's own checksums are not. Reads by
// pread; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/efi/guid.h"

namespace sealift::ddi {

inline constexpr std::uint64_t kSectorBytes = 512;

struct Partition {
  efi::Guid type;
  efi::Guid id;
  std::string name;
  // Bytes, within the file.
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

// In the order of the table, empty entries left out. Bounded: 128 entries.
// Errors: INVALID_ARGUMENT/EXTENSION_INVALID for no table, or a partition beyond the file or over another
// one; FILE_UNREADABLE.
Result<std::vector<Partition>> ReadPartitions(int fd, std::uint64_t file_size);

}  // namespace sealift::ddi
