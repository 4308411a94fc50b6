// PE32+ images (and PE32, of 32-bit machines) as UEFI loads them: boot loaders, stubs, kernels, unified
// kernel images.
//
// A bounded reader that believes no length: every offset it hands out lies inside the bytes it was given.
// Borrows the bytes; immutable, so thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/bytes.h"

namespace sealift::efi {

struct PeSection {
  // Up to eight bytes, without trailing NULs: ".linux".
  std::string name;
  std::uint32_t virtual_size = 0;
  std::uint32_t virtual_address = 0;
  std::uint32_t raw_size = 0;
  std::uint32_t raw_offset = 0;
  std::uint32_t characteristics = 0;
};

class PeImage {
 public:
  // Errors: INVALID_ARGUMENT with IMAGE_TRUNCATED when a part lies beyond the end of the bytes, else with
  // IMAGE_MALFORMED: not PE, too many sections (more than 256), sections whose file ranges overlap each
  // other or the headers, a certificate table that is not the last thing in the file.
  static Result<PeImage> Parse(ByteView bytes);
  // The same from the first bytes of a file of that size, which must hold all headers: for images too large
  // to be in memory. Contents of sections beyond `head` are IMAGE_TRUNCATED; the certificate table is only
  // known by its size.
  static Result<PeImage> ParseHead(ByteView head, std::uint64_t file_size);

  ByteView bytes() const { return bytes_; }
  const std::vector<PeSection>& sections() const { return sections_; }
  // nullptr when there is none; the first when there are several.
  const PeSection* Find(std::string_view name) const;
  // What the loader puts at the section's address and the stub measures: VirtualSize bytes.
  // Errors: INVALID_ARGUMENT/IMAGE_MALFORMED when fewer are in the file, since the rest would be zeros that
  // nobody meant.
  Result<ByteView> Contents(const PeSection& section) const;

  // File offsets.
  std::size_t coff_header_offset() const { return coff_offset_; }
  std::size_t optional_header_offset() const { return coff_offset_ + 20; }
  std::size_t section_table_offset() const { return section_table_offset_; }
  std::size_t checksum_offset() const { return optional_header_offset() + 64; }
  // Of the security entry of the data directory.
  std::size_t security_entry_offset() const { return optional_header_offset() + (pe32_plus_ ? 144 : 128); }

  std::uint32_t section_alignment() const { return section_alignment_; }
  std::uint32_t file_alignment() const { return file_alignment_; }
  std::uint32_t size_of_headers() const { return size_of_headers_; }
  std::uint32_t size_of_image() const { return size_of_image_; }
  bool pe32_plus() const { return pe32_plus_; }
  std::uint16_t machine() const { return machine_; }
  std::uint16_t subsystem() const { return subsystem_; }
  // The attribute certificate table; empty for an unsigned image.
  ByteView certificate_table() const { return certificate_table_; }
  // Its length in bytes, also where it lies beyond the head.
  std::uint64_t certificate_table_size() const { return certificate_table_size_; }
  std::uint64_t file_size() const { return file_size_; }
  // Everything before the certificate table.
  ByteView without_certificates() const { return bytes_.first(bytes_.size() - certificate_table_.size()); }

 private:
  PeImage() = default;
  Status ReadHeaders();
  Status ReadSections(std::uint16_t count);
  Status CheckOverlaps() const;
  Status ReadCertificateTable();

  ByteView bytes_;
  std::uint64_t file_size_ = 0;
  std::uint64_t certificate_table_size_ = 0;
  std::size_t coff_offset_ = 0;
  std::size_t section_table_offset_ = 0;
  bool pe32_plus_ = true;
  std::uint16_t machine_ = 0;
  std::uint16_t subsystem_ = 0;
  std::uint32_t section_alignment_ = 0;
  std::uint32_t file_alignment_ = 0;
  std::uint32_t size_of_headers_ = 0;
  std::uint32_t size_of_image_ = 0;
  std::vector<PeSection> sections_;
  ByteView certificate_table_;
};

// The PE checksum (16-bit one's complement sum plus length) of a whole file whose checksum field is zero.
std::uint32_t PeChecksum(ByteView file);

// The same in pieces: those of a file one after the other, or with offsets where they are not.
class PeChecksumSum {
 public:
  // `offset`: in the file, of the first byte.
  void Add(std::uint64_t offset, ByteView bytes);
  std::uint32_t Finish(std::uint64_t file_size) const;

 private:
  std::uint64_t sum_ = 0;
};

}  // namespace sealift::efi
