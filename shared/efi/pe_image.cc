#include "shared/efi/pe_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace sealift::efi {
namespace {

constexpr std::size_t kDosHeaderBytes = 64;
constexpr std::size_t kCoffHeaderBytes = 20;
constexpr std::size_t kSectionHeaderBytes = 40;
// Up to and with NumberOfRvaAndSizes; 16 fewer in PE32.
constexpr std::size_t kOptionalHeaderBytes = 112;
constexpr std::size_t kSavedByPe32 = 16;
constexpr std::uint32_t kSecurityEntry = 4;
constexpr std::uint32_t kMaxDirectoryEntries = 16;
constexpr std::uint16_t kMaxSections = 256;
constexpr std::uint16_t kPe32Plus = 0x20b;
constexpr std::uint16_t kPe32 = 0x10b;

Status Malformed(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kImageMalformed, fmt::format("read PE image: {}", what));
}

Status Truncated(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kImageTruncated,
                   fmt::format("read PE image: it ends inside {}", what));
}

std::uint32_t ReadU32(ByteView bytes, std::size_t offset) {
  return ByteReader(bytes.subspan(offset, 4), ByteReader::Endian::kLittle).U32();
}

}  // namespace

Result<PeImage> PeImage::Parse(ByteView bytes) { return ParseHead(bytes, bytes.size()); }

Result<PeImage> PeImage::ParseHead(ByteView head, std::uint64_t file_size) {
  SEALIFT_CHECK(head.size() <= file_size);
  PeImage image;
  image.bytes_ = head;
  image.file_size_ = file_size;
  SEALIFT_RETURN_IF_ERROR(image.ReadHeaders());
  return image;
}

Status PeImage::ReadHeaders() {
  if (bytes_.size() < 2 || bytes_[0] != 'M' || bytes_[1] != 'Z')
    return Malformed("it does not start with MZ");
  if (bytes_.size() < kDosHeaderBytes) return Truncated("its DOS header");
  const std::uint32_t signature = ReadU32(bytes_, 0x3c);
  if (signature > bytes_.size() || bytes_.size() - signature < 4 + kCoffHeaderBytes + kOptionalHeaderBytes)
    return Truncated("its PE header");
  coff_offset_ = signature + 4;
  ByteReader reader(bytes_.subspan(signature), ByteReader::Endian::kLittle);
  if (reader.U32() != 0x00004550) return Malformed("no PE signature");
  machine_ = reader.U16();
  const std::uint16_t section_count = reader.U16();
  reader.Skip(12);
  const std::uint16_t optional_size = reader.U16();
  reader.Skip(2);
  const std::uint16_t magic = reader.U16();
  if (magic != kPe32Plus && magic != kPe32) return Malformed("it is neither PE32 nor PE32+");
  pe32_plus_ = magic == kPe32Plus;
  const std::size_t fixed_bytes = kOptionalHeaderBytes - (pe32_plus_ ? 0 : kSavedByPe32);
  reader.Skip(30);
  section_alignment_ = reader.U32();
  file_alignment_ = reader.U32();
  reader.Skip(16);
  size_of_image_ = reader.U32();
  size_of_headers_ = reader.U32();
  reader.Skip(4);
  subsystem_ = reader.U16();
  reader.Skip(pe32_plus_ ? 38 : 38 - kSavedByPe32);
  const std::uint32_t directory_entries = reader.U32();
  SEALIFT_CHECK(reader.ok());
  if (directory_entries > kMaxDirectoryEntries || directory_entries <= kSecurityEntry ||
      optional_size < fixed_bytes + 8 * directory_entries)
    return Malformed("its data directory is too small or too large");
  if (!std::has_single_bit(file_alignment_) || !std::has_single_bit(section_alignment_))
    return Malformed("an alignment that is not a power of two");
  section_table_offset_ = optional_header_offset() + optional_size;
  SEALIFT_RETURN_IF_ERROR(ReadSections(section_count));
  SEALIFT_RETURN_IF_ERROR(CheckOverlaps());
  return ReadCertificateTable();
}

Status PeImage::ReadSections(std::uint16_t count) {
  if (count == 0 || count > kMaxSections) return Malformed(fmt::format("{} sections", count));
  const std::size_t table_bytes = count * kSectionHeaderBytes;
  if (section_table_offset_ > bytes_.size() || bytes_.size() - section_table_offset_ < table_bytes)
    return Truncated("its section table");
  if (size_of_headers_ > bytes_.size()) return Truncated("its headers");
  if (size_of_headers_ < section_table_offset_ + table_bytes)
    return Malformed("the section table runs over the headers' size");
  ByteReader reader(bytes_.subspan(section_table_offset_, table_bytes), ByteReader::Endian::kLittle);
  for (std::uint16_t i = 0; i < count; ++i) {
    PeSection section;
    const std::string_view name = AsText(reader.Take(8));
    section.name = name.substr(0, name.find('\0'));
    section.virtual_size = reader.U32();
    section.virtual_address = reader.U32();
    section.raw_size = reader.U32();
    section.raw_offset = reader.U32();
    reader.Skip(12);
    section.characteristics = reader.U32();
    const std::uint64_t end = std::uint64_t{section.raw_offset} + section.raw_size;
    if (section.raw_size != 0 && end > file_size_) return Truncated(fmt::format("section {}", i));
    if (std::uint64_t{section.virtual_address} + section.virtual_size > UINT32_MAX)
      return Malformed("a section beyond the address space");
    sections_.push_back(std::move(section));
  }
  return OkStatus();
}

Status PeImage::CheckOverlaps() const {
  std::vector<const PeSection*> order;
  for (const PeSection& section : sections_)
    if (section.raw_size != 0) order.push_back(&section);
  std::sort(order.begin(), order.end(),
            [](const PeSection* a, const PeSection* b) { return a->raw_offset < b->raw_offset; });
  std::uint64_t end = size_of_headers_;
  for (const PeSection* section : order) {
    if (section->raw_offset < end) return Malformed("sections overlap in the file");
    end = std::uint64_t{section->raw_offset} + section->raw_size;
  }
  return OkStatus();
}

Status PeImage::ReadCertificateTable() {
  const std::uint32_t offset = ReadU32(bytes_, security_entry_offset());
  const std::uint32_t size = ReadU32(bytes_, security_entry_offset() + 4);
  if (size == 0) return OkStatus();
  const std::uint64_t end = std::uint64_t{offset} + size;
  if (end > file_size_) return Truncated("its certificate table");
  if (end != file_size_) return Malformed("bytes follow the certificate table");
  std::uint64_t hashed = size_of_headers_;
  for (const PeSection& section : sections_) {
    hashed += section.raw_size;
    if (section.raw_size != 0 && std::uint64_t{section.raw_offset} + section.raw_size > offset)
      return Malformed("the certificate table overlaps a section");
  }
  if (offset % 8 != 0 || offset < hashed) return Malformed("the certificate table is out of place");
  certificate_table_size_ = size;
  if (end <= bytes_.size()) certificate_table_ = bytes_.subspan(offset, size);
  return OkStatus();
}

const PeSection* PeImage::Find(std::string_view name) const {
  for (const PeSection& section : sections_)
    if (section.name == name) return &section;
  return nullptr;
}

Result<ByteView> PeImage::Contents(const PeSection& section) const {
  if (section.virtual_size > section.raw_size)
    return Malformed(fmt::format("section {} is longer in memory than in the file", section.name));
  // A section without raw data may carry any offset.
  if (section.virtual_size == 0) return ByteView();
  if (std::uint64_t{section.raw_offset} + section.virtual_size > bytes_.size())
    return Truncated(fmt::format("section {}", section.name));
  return bytes_.subspan(section.raw_offset, section.virtual_size);
}

void PeChecksumSum::Add(std::uint64_t offset, ByteView bytes) {
  // The carry of a one's complement sum may be added at the end, so 32-bit words are summed in 64 bits.
  // Two words a step, in sums of their own, which a processor adds at the same time.
  std::uint64_t sum = 0;
  std::uint64_t odd = 0;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t words = 0;
    std::memcpy(&words, bytes.data() + i, 8);
    sum += words & 0xffffffff;
    odd += words >> 32;
  }
  sum += odd;
  for (std::size_t shift = 0; i < bytes.size(); ++i, shift = (shift + 8) % 16)
    sum += std::uint64_t{bytes[i]} << shift;
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  // From an odd offset on, every byte was taken for the other half of its word.
  if (offset % 2 != 0) sum = (sum >> 8) | ((sum & 0xff) << 8);
  sum_ += sum;
}

std::uint32_t PeChecksumSum::Finish(std::uint64_t file_size) const {
  std::uint64_t sum = sum_;
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint32_t>(sum + file_size);
}

std::uint32_t PeChecksum(ByteView file) {
  PeChecksumSum sum;
  sum.Add(0, file);
  return sum.Finish(file.size());
}

}  // namespace sealift::efi
