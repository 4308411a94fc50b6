// dm-verity's hash tree, computed in user space (kernel documentation admin-guide/device-mapper/verity;
// on-disk superblock of cryptsetup): whether data are what a root hash stands for, without a device.
//
// SHA-256, format 1, blocks of 4 KiB. Thread-safe functions.
#pragma once

#include <cstdint>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift::ddi {

inline constexpr std::size_t kVerityBlockBytes = 4096;
inline constexpr std::size_t kMaxSaltBytes = 256;

struct VeritySuperblock {
  std::uint64_t data_blocks = 0;
  Bytes salt;
};

// The 512 bytes at the beginning of the hash partition. Errors: INVALID_ARGUMENT/EXTENSION_INVALID, also for
// another hash, format or block size.
Result<VeritySuperblock> ParseVeritySuperblock(ByteView bytes);

// Reads `data_blocks` blocks from `offset` of the file, once. Memory: 32 bytes a block of the level in work.
// Errors: INVALID_ARGUMENT/EXTENSION_INVALID when the file ends before; FILE_UNREADABLE.
Result<Sha256Digest> ComputeVerityRoot(int fd, std::uint64_t offset, const VeritySuperblock& superblock);

}  // namespace sealift::ddi
