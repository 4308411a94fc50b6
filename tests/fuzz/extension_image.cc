// An extension image from the ESP: table, superblock and signature are read; nothing verifies by chance.
#include "shared/ddi/extension_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > (1u << 20)) return 0;
  static const int fd = ::memfd_create("extension", MFD_CLOEXEC);
  SEALIFT_CHECK(fd >= 0 && ::ftruncate(fd, 0) == 0);
  SEALIFT_CHECK(::pwrite(fd, data, size, 0) == static_cast<ssize_t>(size));
  // By parts: ExtensionImage opens a path and follows no links.
  const auto partitions = ddi::ReadPartitions(fd, size);
  if (partitions.ok()) {
    for (const ddi::Partition& one : *partitions)
      SEALIFT_CHECK(one.offset < size && one.size <= size - one.offset);
  }
  const auto superblock = ddi::ParseVeritySuperblock(ByteView(data, size));
  if (superblock.ok() && superblock->data_blocks < 256)
    static_cast<void>(ddi::ComputeVerityRoot(fd, 0, *superblock));
  return 0;
}
