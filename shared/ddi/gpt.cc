#include "shared/ddi/gpt.h"

#include <fmt/format.h>

#include <algorithm>

#include "shared/ddi/pread.h"

namespace sealift::ddi {
namespace {

constexpr std::string_view kSignature = "EFI PART";
constexpr std::uint32_t kMaxEntries = 128;
constexpr std::uint32_t kEntryBytes = 128;
constexpr std::size_t kNameBytes = 72;

Status Bad(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                   fmt::format("read partition table: {}", what));
}

Result<Partition> PartitionFrom(ByteReader& reader, std::uint64_t sectors) {
  Partition partition;
  SEALIFT_ASSIGN_OR_RETURN(partition.type, efi::Guid::FromBytes(reader.Take(16)));
  SEALIFT_ASSIGN_OR_RETURN(partition.id, efi::Guid::FromBytes(reader.Take(16)));
  const std::uint64_t first = reader.U64();
  const std::uint64_t last = reader.U64();
  reader.Skip(8);
  const ByteView name = reader.Take(kNameBytes);
  if (partition.type == efi::Guid()) return partition;
  // The last sector is a number in the table: compared, never added to.
  if (first < 2 || last < first || last >= sectors) return Bad("a partition is not within the file");
  partition.offset = first * kSectorBytes;
  partition.size = (last - first + 1) * kSectorBytes;
  partition.name = Utf8FromUtf16Le(name);
  partition.name.resize(std::min(partition.name.size(), partition.name.find('\0')));
  return partition;
}

}  // namespace

Result<std::vector<Partition>> ReadPartitions(int fd, std::uint64_t file_size) {
  const std::uint64_t sectors = file_size / kSectorBytes;
  if (sectors < 3) return Bad("the file is too small for one");
  SEALIFT_ASSIGN_OR_RETURN(const Bytes header, ReadExactly(fd, kSectorBytes, kSectorBytes));
  ByteReader reader(header, ByteReader::Endian::kLittle);
  if (AsText(reader.Take(kSignature.size())) != kSignature) return Bad("there is none");
  reader.Skip(64);
  const std::uint64_t entries_at = reader.U64();
  const std::uint32_t count = reader.U32();
  const std::uint32_t entry_bytes = reader.U32();
  if (count == 0 || count > kMaxEntries || entry_bytes != kEntryBytes)
    return Bad(fmt::format("{} entries of {} bytes", count, entry_bytes));
  if (entries_at < 2 || entries_at >= sectors) return Bad("its entries are not within the file");
  SEALIFT_ASSIGN_OR_RETURN(const Bytes table,
                           ReadExactly(fd, entries_at * kSectorBytes, std::size_t{count} * kEntryBytes));
  ByteReader entries(table, ByteReader::Endian::kLittle);
  std::vector<Partition> partitions;
  for (std::uint32_t i = 0; i < count; ++i) {
    SEALIFT_ASSIGN_OR_RETURN(Partition partition, PartitionFrom(entries, sectors));
    if (partition.size == 0) continue;
    for (const Partition& other : partitions) {
      if (partition.offset < other.offset + other.size && other.offset < partition.offset + partition.size)
        return Bad("two partitions lie over each other");
    }
    partitions.push_back(std::move(partition));
  }
  return partitions;
}

}  // namespace sealift::ddi
