#include "controller/media/iso_image.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::media {
namespace {

constexpr std::uint64_t kFirstDescriptor = 16;
constexpr std::uint64_t kMaxDescriptors = 32;
constexpr std::uint64_t kSector = 512;
constexpr std::size_t kCatalogEntry = 32;
constexpr std::uint32_t kMaxPartitions = 256;
constexpr std::uint32_t kPartitionEntry = 128;
constexpr std::uint8_t kEfiPlatform = 0xef;

Status Bad(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kMalformed, fmt::format("read ISO: {}", what));
}

class Reader {
 public:
  Reader(std::uint64_t file_bytes, const ReadAt& read) : file_bytes_(file_bytes), read_(read) {}

  Result<IsoImage> Read() {
    SEALIFT_RETURN_IF_ERROR(ReadDescriptors());
    SEALIFT_RETURN_IF_ERROR(ReadPartitions());
    return std::move(iso_);
  }

 private:
  // A range of the file, or nothing when it is not inside.
  Result<Bytes> Range(std::uint64_t offset, std::size_t size, std::string_view what) const {
    if (offset > file_bytes_ || size > file_bytes_ - offset)
      return Bad(fmt::format("{} is not in the file", what));
    return read_(offset, size);
  }
  Result<Bytes> Block(std::uint64_t block, std::string_view what) const {
    return Range(block * kIsoBlock, kIsoBlock, what);
  }

  Status ReadDescriptors() {
    bool primary = false;
    for (std::uint64_t i = 0; i < kMaxDescriptors; ++i) {
      SEALIFT_ASSIGN_OR_RETURN(const Bytes block, Block(kFirstDescriptor + i, "a volume descriptor"));
      if (AsText(ByteView(block).subspan(1, 5)) != "CD001") return Bad("it has no volume descriptors");
      const std::uint8_t type = block[0];
      if (type == 255) return primary ? OkStatus() : Bad("it has no primary volume descriptor");
      if (type == 1 && !primary) {
        SEALIFT_RETURN_IF_ERROR(ReadPrimary(block));
        primary = true;
      }
      constexpr std::string_view kElTorito = "EL TORITO SPECIFICATION";
      if (type == 0 && AsText(ByteView(block).subspan(7, kElTorito.size())) == kElTorito) {
        ByteReader reader(ByteView(block).subspan(71, 4), ByteReader::Endian::kLittle);
        SEALIFT_RETURN_IF_ERROR(ReadCatalog(reader.U32()));
      }
    }
    return Bad("its volume descriptors have no end");
  }

  Status ReadPrimary(ByteView block) {
    const std::string_view name = AsText(block.subspan(40, 32));
    iso_.volume_id = name.substr(0, name.find_last_not_of(std::string_view(" \0", 2)) + 1);
    const auto odd = [](char c) { return c < 0x20 || c > 0x7e; };
    if (std::any_of(iso_.volume_id.begin(), iso_.volume_id.end(), odd))
      return Bad("its label is not plain text");
    ByteReader blocks(block.subspan(80, 4), ByteReader::Endian::kLittle);
    iso_.volume_bytes = std::uint64_t{blocks.U32()} * kIsoBlock;
    ByteReader size(block.subspan(128, 2), ByteReader::Endian::kLittle);
    if (size.U16() != kIsoBlock) return Bad("its blocks are not of 2048 bytes");
    if (iso_.volume_bytes > file_bytes_) return Bad("it was cut off");
    return OkStatus();
  }

  Status ReadCatalog(std::uint32_t at) {
    if (!iso_.boot_images.empty()) return OkStatus();
    SEALIFT_ASSIGN_OR_RETURN(const Bytes block, Block(at, "the boot catalogue"));
    ByteReader words(ByteView(block).first(kCatalogEntry), ByteReader::Endian::kLittle);
    unsigned sum = 0;
    for (std::size_t i = 0; i < kCatalogEntry / 2; ++i) sum += words.U16();
    if (block[0] != 1 || block[30] != 0x55 || block[31] != 0xaa || (sum & 0xffff) != 0)
      return Bad("its boot catalogue has no proper validation entry");
    SEALIFT_RETURN_IF_ERROR(AddBootImage(ByteView(block).subspan(kCatalogEntry, kCatalogEntry), block[1]));
    std::size_t next = 2 * kCatalogEntry;
    while (next + kCatalogEntry <= block.size() && (block[next] == 0x90 || block[next] == 0x91)) {
      const bool last = block[next] == 0x91;
      const std::uint8_t platform = block[next + 1];
      const std::size_t count = block[next + 2] + (std::size_t{block[next + 3]} << 8);
      next += kCatalogEntry;
      for (std::size_t i = 0; i < count; ++i, next += kCatalogEntry) {
        if (next + kCatalogEntry > block.size()) return Bad("its boot catalogue has more entries than room");
        SEALIFT_RETURN_IF_ERROR(AddBootImage(ByteView(block).subspan(next, kCatalogEntry), platform));
      }
      if (last) break;
    }
    return OkStatus();
  }

  Status AddBootImage(ByteView entry, std::uint8_t platform) {
    ByteReader reader(entry.subspan(6), ByteReader::Endian::kLittle);
    BootImage image{.platform = platform, .bootable = entry[0] == 0x88};
    image.sectors = reader.U16();
    image.offset = std::uint64_t{reader.U32()} * kIsoBlock;
    if (image.offset >= file_bytes_ || image.sectors * kSector > file_bytes_ - image.offset)
      return Bad("a boot image is not in the file");
    iso_.boot_images.push_back(image);
    return OkStatus();
  }

  Status ReadPartitions() {
    SEALIFT_ASSIGN_OR_RETURN(const Bytes header, Range(kSector, kSector, "the second sector"));
    ByteReader reader(header, ByteReader::Endian::kLittle);
    if (AsText(reader.Take(8)) != "EFI PART") return OkStatus();
    reader.Skip(64);
    const std::uint64_t at = reader.U64();
    const std::uint32_t count = reader.U32();
    if (reader.U32() != kPartitionEntry || count > kMaxPartitions)
      return Bad("its partition table has an odd form");
    const std::uint64_t sectors = file_bytes_ / kSector;
    if (at >= sectors) return Bad("its partition table is not in the file");
    SEALIFT_ASSIGN_OR_RETURN(
        const Bytes table, Range(at * kSector, std::size_t{count} * kPartitionEntry, "the partition table"));
    ByteReader entries(table, ByteReader::Endian::kLittle);
    for (std::uint32_t i = 0; i < count; ++i) {
      SEALIFT_ASSIGN_OR_RETURN(const efi::Guid type, efi::Guid::FromBytes(entries.Take(16)));
      entries.Skip(16);
      const std::uint64_t first = entries.U64();
      const std::uint64_t last = entries.U64();
      entries.Skip(8);
      const std::string name = Utf8FromUtf16Le(entries.Take(72));
      if (type == efi::Guid()) continue;
      if (last < first || last >= sectors) return Bad("a partition is not in the file");
      iso_.partitions.push_back({.type = type,
                                 .name = name.substr(0, name.find('\0')),
                                 .offset = first * kSector,
                                 .size = (last - first + 1) * kSector});
    }
    return OkStatus();
  }

  std::uint64_t file_bytes_;
  const ReadAt& read_;
  IsoImage iso_;
};

}  // namespace

std::optional<std::uint64_t> IsoImage::cd_esp() const {
  for (const BootImage& image : boot_images)
    if (image.platform == kEfiPlatform && image.bootable) return image.offset;
  return std::nullopt;
}

std::optional<std::uint64_t> IsoImage::disk_esp() const {
  for (const IsoPartition& partition : partitions)
    if (partition.type == kEspType) return partition.offset;
  return std::nullopt;
}

Result<IsoImage> ParseIso(std::uint64_t file_bytes, const ReadAt& read) {
  return Reader(file_bytes, read).Read();
}

}  // namespace sealift::media
