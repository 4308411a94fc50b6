#include "shared/uki/uki_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "shared/uki/sections.h"

namespace sealift::uki {
namespace {

constexpr std::size_t kSectionHeaderBytes = 40;
constexpr std::uint64_t kPageBytes = 4096;
// Reserved behind the image, so that signing it does not move it in memory.
constexpr std::size_t kSignatureRoom = 16 << 10;
// Initialised data, readable.
constexpr std::uint32_t kDataCharacteristics = 0x40000040;
constexpr std::uint16_t kNxCompat = 0x0100;
// Offsets in the COFF and optional headers.
constexpr std::size_t kSectionCount = 2;
constexpr std::size_t kSymbolTable = 8;
constexpr std::size_t kSymbolCount = 12;
constexpr std::size_t kSizeOfInitializedData = 8;
constexpr std::size_t kSizeOfImage = 56;
constexpr std::size_t kSizeOfHeaders = 60;
constexpr std::size_t kDllCharacteristics = 70;
constexpr std::size_t kRawOffsetInSection = 20;

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kUkiLayoutInvalid, fmt::format("lay out UKI: {}", what));
}

std::uint64_t RoundUp(std::uint64_t value, std::uint64_t to) { return (value + to - 1) / to * to; }

std::uint32_t Get(ByteView bytes, std::size_t offset, std::size_t size) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < size; ++i) value |= std::uint32_t{bytes[offset + i]} << (8 * i);
  return value;
}

void Put(Bytes& bytes, std::size_t offset, std::size_t size, std::uint64_t value) {
  for (std::size_t i = 0; i < size; ++i)
    bytes[offset + i] = static_cast<std::uint8_t>((value >> (8 * i)) & 0xff);
}

Status CheckSections(const efi::PeImage& stub, std::span<const UkiSection> sections) {
  std::set<std::string_view> names;
  for (const UkiSection& section : sections) {
    if (section.name.size() < 2 || section.name.size() > 8 || section.name[0] != '.')
      return Invalid(fmt::format("'{}' is not a section name", section.name));
    if (section.content.empty()) return Invalid(fmt::format("section {} is empty", section.name));
    if (!names.insert(section.name).second) return Invalid(fmt::format("section {} twice", section.name));
    if (stub.Find(section.name) != nullptr)
      return Invalid(fmt::format("the stub has a section {}", section.name));
  }
  return OkStatus();
}

// Where everything goes.
struct Plan {
  std::uint64_t headers = 0;
  // By how much the stub's own data moves back.
  std::uint64_t shift = 0;
  // End of the stub's sections in its file.
  std::uint64_t stub_end = 0;
  std::uint64_t next_address = 0;
};

Result<Plan> MakePlan(const efi::PeImage& stub, std::size_t added) {
  Plan plan;
  const std::uint64_t table_end =
      stub.section_table_offset() + kSectionHeaderBytes * (stub.sections().size() + added);
  plan.headers = std::max<std::uint64_t>(stub.size_of_headers(), RoundUp(table_end, stub.file_alignment()));
  plan.shift = RoundUp(plan.headers - stub.size_of_headers(), stub.file_alignment());
  plan.headers = stub.size_of_headers() + plan.shift;
  plan.stub_end = stub.size_of_headers();
  std::uint64_t lowest = UINT64_MAX;
  for (const efi::PeSection& section : stub.sections()) {
    lowest = std::min<std::uint64_t>(lowest, section.virtual_address);
    plan.next_address = std::max<std::uint64_t>(
        plan.next_address, std::uint64_t{section.virtual_address} + section.virtual_size);
    if (section.raw_size != 0)
      plan.stub_end =
          std::max<std::uint64_t>(plan.stub_end, std::uint64_t{section.raw_offset} + section.raw_size);
  }
  if (plan.headers > lowest) return Invalid("no room between the headers and the stub's first section");
  return plan;
}

// Whether the UKI may keep NX_COMPAT, and that the kernel is of the stub's machine.
Result<bool> KernelAllowsNx(const efi::PeImage& stub, ByteView kernel) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage image, efi::PeImage::Parse(kernel));
  if (image.machine() != stub.machine()) return Invalid("the kernel is for another machine than the stub");
  return (Get(kernel, image.optional_header_offset() + kDllCharacteristics, 2) & kNxCompat) != 0;
}

}  // namespace

Result<Bytes> AssembleUki(ByteView stub_bytes, std::span<const UkiSection> sections) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage stub, efi::PeImage::Parse(stub_bytes));
  SEALIFT_RETURN_IF_ERROR(CheckSections(stub, sections));
  SEALIFT_ASSIGN_OR_RETURN(const Plan plan, MakePlan(stub, sections.size()));
  const std::uint64_t file_alignment = std::max<std::uint64_t>(stub.file_alignment(), 8);
  const std::uint64_t address_step = std::max<std::uint64_t>(stub.section_alignment(), kPageBytes);

  std::uint64_t total = RoundUp(plan.stub_end + plan.shift, file_alignment);
  for (const UkiSection& section : sections) total += RoundUp(section.content.size(), file_alignment);
  if (total > UINT32_MAX) return Invalid("it would be larger than 4 GiB");
  Bytes out;
  out.reserve(static_cast<std::size_t>(total) + kSignatureRoom);
  const std::size_t table_end = stub.section_table_offset() + kSectionHeaderBytes * stub.sections().size();
  Append(out, stub_bytes.first(table_end));
  out.resize(static_cast<std::size_t>(plan.headers));
  Append(out, stub_bytes.subspan(stub.size_of_headers(),
                                 static_cast<std::size_t>(plan.stub_end) - stub.size_of_headers()));
  for (std::size_t i = 0; i < stub.sections().size(); ++i) {
    const efi::PeSection& section = stub.sections()[i];
    if (section.raw_size == 0) continue;
    Put(out, stub.section_table_offset() + i * kSectionHeaderBytes + kRawOffsetInSection, 4,
        section.raw_offset + plan.shift);
  }

  std::uint64_t address = plan.next_address;
  std::uint64_t raw_bytes = 0;
  bool keep_nx = true;
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const UkiSection& section = sections[i];
    if (section.name == kLinux) {
      SEALIFT_ASSIGN_OR_RETURN(keep_nx, KernelAllowsNx(stub, section.content));
    }
    out.resize(static_cast<std::size_t>(RoundUp(out.size(), file_alignment)));
    address = RoundUp(address, address_step);
    const std::uint64_t raw_size = RoundUp(section.content.size(), file_alignment);
    const std::size_t header = table_end + i * kSectionHeaderBytes;
    std::copy(section.name.begin(), section.name.end(), out.begin() + static_cast<std::ptrdiff_t>(header));
    Put(out, header + 8, 4, section.content.size());
    Put(out, header + 12, 4, address);
    Put(out, header + 16, 4, raw_size);
    Put(out, header + kRawOffsetInSection, 4, out.size());
    Put(out, header + 36, 4, kDataCharacteristics);
    Append(out, section.content);
    address += section.content.size();
    raw_bytes += raw_size;
  }
  out.resize(static_cast<std::size_t>(total));

  const std::uint64_t image_size = RoundUp(address, stub.section_alignment());
  if (image_size > UINT32_MAX) return Invalid("it would be larger than 4 GiB in memory");
  const std::size_t coff = stub.coff_header_offset();
  const std::size_t optional = stub.optional_header_offset();
  Put(out, coff + kSectionCount, 2, stub.sections().size() + sections.size());
  Put(out, coff + kSymbolTable, 4, 0);
  Put(out, coff + kSymbolCount, 4, 0);
  Put(out, optional + kSizeOfInitializedData, 4,
      Get(stub_bytes, optional + kSizeOfInitializedData, 4) + raw_bytes);
  Put(out, optional + kSizeOfImage, 4, image_size);
  Put(out, optional + kSizeOfHeaders, 4, plan.headers);
  Put(out, stub.checksum_offset(), 4, 0);
  Put(out, stub.security_entry_offset(), 8, 0);
  const std::uint32_t flags = Get(out, optional + kDllCharacteristics, 2);
  if (!keep_nx) Put(out, optional + kDllCharacteristics, 2, flags & ~std::uint32_t{kNxCompat});
  return out;
}

Result<ByteView> UkiSectionContents(const efi::PeImage& image, std::string_view name) {
  const efi::PeSection* section = image.Find(name);
  if (section == nullptr) {
    return MakeError(Code::kNotFound, Reason::kUkiSectionMissing,
                     fmt::format("read UKI: it has no section {}", name));
  }
  return image.Contents(*section);
}

}  // namespace sealift::uki
