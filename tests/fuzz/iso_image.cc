// An ISO of foreign origin. What is found lies inside the file.
#include "controller/media/iso_image.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const ByteView file(data, size);
  const auto iso = media::ParseIso(size, [&](std::uint64_t offset, std::size_t count) -> Result<Bytes> {
    SEALIFT_CHECK(offset <= size && count <= size - offset);
    return ToBytes(file.subspan(static_cast<std::size_t>(offset), count));
  });
  if (!iso.ok()) return 0;
  SEALIFT_CHECK(iso->volume_bytes <= size && iso->volume_id.size() <= 32);
  for (const media::BootImage& image : iso->boot_images) SEALIFT_CHECK(image.offset < size);
  for (const media::IsoPartition& partition : iso->partitions)
    SEALIFT_CHECK(partition.offset < size && partition.size <= size - partition.offset);
  return 0;
}
