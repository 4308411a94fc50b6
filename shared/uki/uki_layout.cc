#include "shared/uki/uki_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "shared/uki/sections.h"

namespace sealift::uki {
namespace {

constexpr std::size_t kSectionHeaderBytes = 40;
constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kMaxSections = 96;
// The largest that the format allows (PE format, "Optional Header Windows-Specific Fields").
constexpr std::uint32_t kMaxFileAlignment = 64 << 10;
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

bool MayRepeat(std::string_view name) { return name == kDeviceTreeAuto || name == kFirmware; }

Status CheckSections(const efi::PeImage& stub, std::span<const UkiSection> sections) {
  std::set<std::string_view> names;
  for (const UkiSection& section : sections) {
    if (section.name.size() < 2 || section.name.size() > 8 || section.name[0] != '.')
      return Invalid(fmt::format("'{}' is not a section name", section.name));
    if (section.content.empty()) return Invalid(fmt::format("section {} is empty", section.name));
    if (section.name == kProfile) names.clear();
    if (!names.insert(section.name).second && !MayRepeat(section.name))
      return Invalid(fmt::format("section {} twice", section.name));
    if (stub.Find(section.name) != nullptr && section.name != kSbat)
      return Invalid(fmt::format("the stub has a section {}", section.name));
  }
  return OkStatus();
}

// Where everything goes.
struct Plan {
  // Sections of the stub that stay, in the order of its table.
  std::vector<const efi::PeSection*> kept;
  std::uint64_t headers = 0;
  std::uint64_t next_address = 0;
};

Result<Plan> MakePlan(const efi::PeImage& stub, std::span<const UkiSection> added) {
  Plan plan;
  const bool new_sbat =
      std::any_of(added.begin(), added.end(), [](const UkiSection& one) { return one.name == kSbat; });
  for (const efi::PeSection& section : stub.sections())
    if (!new_sbat || section.name != kSbat) plan.kept.push_back(&section);
  if (plan.kept.size() + added.size() > kMaxSections) return Invalid("more sections than firmware loads");
  const std::uint64_t table_end =
      stub.section_table_offset() + kSectionHeaderBytes * (plan.kept.size() + added.size());
  const std::uint64_t alignment = std::max<std::uint64_t>(stub.file_alignment(), 8);
  plan.headers = RoundUp(std::max<std::uint64_t>(stub.size_of_headers(), table_end), alignment);
  std::vector<const efi::PeSection*> order = plan.kept;
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->virtual_address < b->virtual_address; });
  for (const efi::PeSection* section : order) {
    if (section->virtual_address < plan.next_address) return Invalid("the stub's sections overlap in memory");
    plan.next_address = std::uint64_t{section->virtual_address} + section->virtual_size;
  }
  if (!order.empty() && plan.headers > order.front()->virtual_address)
    return Invalid("no room between the headers and the stub's first section");
  plan.next_address = std::max(plan.next_address, plan.headers);
  return plan;
}

// Whether the UKI may keep NX_COMPAT, and that the kernel is of the stub's machine.
Result<bool> KernelAllowsNx(const efi::PeImage& stub, const ContentSource& kernel) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes head, kernel.Head(kKernelHeadBytes));
  const Result<efi::PeImage> image = efi::PeImage::ParseHead(head, kernel.size());
  if (!image.ok()) return Annotate(image.status(), "read kernel");
  if (image->machine() != stub.machine()) return Invalid("the kernel is for another machine than the stub");
  return (Get(head, image->optional_header_offset() + kDllCharacteristics, 2) & kNxCompat) != 0;
}

// Appends headers and data of the sections, in the order in which they are added.
class Builder {
 public:
  Builder(UkiLayout& layout, const Plan& plan, const efi::PeImage& stub)
      : layout_(layout),
        file_alignment_(std::max<std::uint64_t>(stub.file_alignment(), 8)),
        address_step_(std::max<std::uint64_t>(stub.section_alignment(), kPageBytes)),
        address_(plan.next_address),
        header_(stub.section_table_offset()) {
    layout_.file_size = plan.headers;
  }

  void Keep(ByteView stub_bytes, const efi::PeSection& section, std::size_t old_header) {
    const ByteView entry = stub_bytes.subspan(old_header, kSectionHeaderBytes);
    std::copy(entry.begin(), entry.end(), layout_.headers.begin() + static_cast<std::ptrdiff_t>(header_));
    if (section.raw_size != 0) {
      Put(layout_.headers, header_ + kRawOffsetInSection, 4, layout_.file_size);
      // A raw size that is no multiple of the alignment would leave a gap that firmware does not hash.
      Put(layout_.headers, header_ + 16, 4, RoundUp(section.raw_size, file_alignment_));
      AddPiece(stub_bytes.subspan(section.raw_offset, section.raw_size));
    }
    header_ += kSectionHeaderBytes;
  }

  void Add(const UkiSection& section) {
    address_ = RoundUp(address_, address_step_);
    Bytes& headers = layout_.headers;
    std::copy(section.name.begin(), section.name.end(),
              headers.begin() + static_cast<std::ptrdiff_t>(header_));
    Put(headers, header_ + 8, 4, section.content.size());
    Put(headers, header_ + 12, 4, address_);
    Put(headers, header_ + 16, 4, RoundUp(section.content.size(), file_alignment_));
    Put(headers, header_ + kRawOffsetInSection, 4, layout_.file_size);
    Put(headers, header_ + 36, 4, kDataCharacteristics);
    AddPiece(section.content);
    address_ += section.content.size();
    header_ += kSectionHeaderBytes;
  }

  std::uint64_t address() const { return address_; }

 private:
  void AddPiece(ContentSource content) {
    const std::uint64_t padded = RoundUp(content.size(), file_alignment_);
    layout_.pieces.push_back({.content = std::move(content), .padded_size = padded});
    layout_.file_size += padded;
  }

  UkiLayout& layout_;
  std::uint64_t file_alignment_;
  std::uint64_t address_step_;
  std::uint64_t address_;
  std::size_t header_;
};

}  // namespace

Result<UkiLayout> LayOutUki(ByteView stub_bytes, std::span<const UkiSection> sections) {
  SEALIFT_ASSIGN_OR_RETURN(const efi::PeImage stub, efi::PeImage::Parse(stub_bytes));
  if (!stub.pe32_plus()) return Invalid("the stub is for a 32-bit machine");
  if (stub.file_alignment() > kMaxFileAlignment)
    return Invalid(
        fmt::format("the stub aligns its sections to {} bytes in the file", stub.file_alignment()));
  SEALIFT_RETURN_IF_ERROR(CheckSections(stub, sections));
  SEALIFT_ASSIGN_OR_RETURN(const Plan plan, MakePlan(stub, sections));
  std::uint64_t added = 0;
  bool keep_nx = true;
  for (const UkiSection& section : sections) {
    added += RoundUp(section.content.size(), kPageBytes);
    if (section.name != kLinux) continue;
    SEALIFT_ASSIGN_OR_RETURN(const bool allowed, KernelAllowsNx(stub, section.content));
    keep_nx = keep_nx && allowed;
  }
  if (added > UINT32_MAX) return Invalid("it would be larger than 4 GiB");

  UkiLayout layout;
  layout.headers = ToBytes(stub_bytes.first(stub.section_table_offset()));
  layout.headers.resize(static_cast<std::size_t>(plan.headers));
  layout.checksum_offset = stub.checksum_offset();
  layout.security_entry_offset = stub.security_entry_offset();
  Builder builder(layout, plan, stub);
  for (const efi::PeSection* section : plan.kept) {
    const auto index = static_cast<std::size_t>(section - stub.sections().data());
    builder.Keep(stub_bytes, *section, stub.section_table_offset() + index * kSectionHeaderBytes);
  }
  const std::uint64_t stub_end = layout.file_size;
  for (const UkiSection& section : sections) builder.Add(section);
  const std::uint64_t image_size = RoundUp(builder.address(), stub.section_alignment());
  if (image_size > UINT32_MAX || layout.file_size > UINT32_MAX)
    return Invalid("it would be larger than 4 GiB");

  Bytes& out = layout.headers;
  const std::size_t coff = stub.coff_header_offset();
  const std::size_t optional = stub.optional_header_offset();
  Put(out, coff + kSectionCount, 2, plan.kept.size() + sections.size());
  Put(out, coff + kSymbolTable, 4, 0);
  Put(out, coff + kSymbolCount, 4, 0);
  Put(out, optional + kSizeOfInitializedData, 4,
      Get(stub_bytes, optional + kSizeOfInitializedData, 4) + (layout.file_size - stub_end));
  Put(out, optional + kSizeOfImage, 4, image_size);
  Put(out, optional + kSizeOfHeaders, 4, plan.headers);
  Put(out, stub.checksum_offset(), 4, 0);
  Put(out, stub.security_entry_offset(), 8, 0);
  const std::uint32_t flags = Get(out, optional + kDllCharacteristics, 2);
  if (!keep_nx) Put(out, optional + kDllCharacteristics, 2, flags & ~std::uint32_t{kNxCompat});
  return layout;
}

Result<Bytes> AssembleUki(ByteView stub_bytes, std::span<const UkiSection> sections) {
  SEALIFT_ASSIGN_OR_RETURN(UkiLayout layout, LayOutUki(stub_bytes, sections));
  Bytes out = std::move(layout.headers);
  out.reserve(static_cast<std::size_t>(layout.file_size));
  Bytes scratch(kPageBytes);
  for (const UkiLayout::Piece& piece : layout.pieces) {
    const std::size_t end = out.size() + static_cast<std::size_t>(piece.padded_size);
    SEALIFT_RETURN_IF_ERROR(piece.content.ForEach(scratch, out.size(), [&](ByteView bytes) -> Status {
      Append(out, bytes);
      return OkStatus();
    }));
    out.resize(end);
  }
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
