#include "shared/delta/image_parts.h"

#include <algorithm>
#include <array>
#include <optional>

#include "shared/efi/pe_image.h"

namespace sealift::delta {
namespace {

constexpr std::uint64_t kHeadBytes = 64u << 10;
constexpr std::uint32_t kZstdMagic = 0xFD2FB528;
constexpr std::uint32_t kLz4LegacyMagic = 0x184C2102;
// linux/Documentation/arch/x86/boot.rst
constexpr std::uint64_t kSetupSectsOffset = 0x1f1;
constexpr std::uint64_t kHeaderMagicOffset = 0x202;
constexpr std::uint64_t kPayloadOffset = 0x248;
constexpr std::uint32_t kHeaderMagic = 0x53726448;  // "HdrS"
constexpr std::uint16_t kPayloadVersion = 0x0208;
constexpr std::uint64_t kSectorBytes = 512;

std::uint64_t Little(ByteView bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i > 0; --i) value = value << 8 | bytes[i - 1];
  return value;
}

struct ZstdExtent {
  std::uint64_t size = 0;
  std::uint64_t raw_size = 0;
};

// The frame at `offset`, walked by its block headers (RFC 8878, 3.1.1); nothing when it is none that ends
// before `end` and tells its content size.
Result<std::optional<ZstdExtent>> FrameAt(const OpenFile& file, std::uint64_t offset, std::uint64_t end) {
  std::array<std::uint8_t, 18> head{};
  const auto have = static_cast<std::size_t>(std::min<std::uint64_t>(head.size(), end - offset));
  SEALIFT_RETURN_IF_ERROR(file.ReadAt(offset, std::span(head).first(have)));
  const ByteView view(head);
  if (have < 9 || Little(view.first(4)) != kZstdMagic) return std::nullopt;
  const unsigned descriptor = head[4];
  const bool single = (descriptor & 0x20u) != 0;
  const std::size_t dictionary = std::array<std::size_t, 4>{0, 1, 2, 4}[descriptor & 3u];
  const std::size_t content =
      std::array<std::size_t, 4>{single ? std::size_t{1} : std::size_t{0}, 2, 4, 8}[descriptor >> 6];
  const std::size_t header = 5 + (single ? 0u : 1u) + dictionary + content;
  if (content == 0 || have < header || (descriptor & 0x08u) != 0) return std::nullopt;
  ZstdExtent extent;
  extent.raw_size = Little(view.subspan(header - content, content)) + (content == 2 ? 256 : 0);
  if (extent.raw_size > kMaxRawBytes) return std::nullopt;
  std::uint64_t at = offset + header;
  for (bool last = false; !last;) {
    if (end - at < 3) return std::nullopt;
    std::array<std::uint8_t, 3> block{};
    SEALIFT_RETURN_IF_ERROR(file.ReadAt(at, block));
    const std::uint64_t bits = Little(block);
    last = (bits & 1) != 0;
    const std::uint64_t type = bits >> 1 & 3;
    const std::uint64_t length = type == 1 ? 1 : bits >> 3;
    if (type == 3 || length > end - at - 3) return std::nullopt;
    at += 3 + length;
  }
  if ((descriptor & 4u) != 0) {
    if (end - at < 4) return std::nullopt;
    at += 4;
  }
  extent.size = at - offset;
  return extent;
}

class Splitter {
 public:
  explicit Splitter(const OpenFile& file) : file_(file) {}

  // Everything up to `offset` that is not covered yet.
  void PlainUpTo(std::uint64_t offset) {
    if (offset > done_) Add({.offset = done_, .size = offset - done_, .raw_size = offset - done_});
  }

  Status Frames(std::uint64_t offset, std::uint64_t end) {
    PlainUpTo(offset);
    while (done_ < end && parts_.size() < kMaxImageParts - 64) {
      SEALIFT_ASSIGN_OR_RETURN(const std::optional<ZstdExtent> frame, FrameAt(file_, done_, end));
      if (!frame) break;
      Add({.offset = done_,
           .size = frame->size,
           .encoding = Encoding::kZstdFrame,
           .raw_size = frame->raw_size});
    }
    PlainUpTo(end);
    return OkStatus();
  }

  Status Kernel(std::uint64_t offset, std::uint64_t end) {
    PlainUpTo(offset);
    if (end - offset < kPayloadOffset + 8) return OkStatus();
    Bytes head(kPayloadOffset + 8);
    SEALIFT_RETURN_IF_ERROR(file_.ReadAt(offset, head));
    const ByteView view(head);
    if (Little(view.subspan(kHeaderMagicOffset, 4)) != kHeaderMagic ||
        Little(view.subspan(kHeaderMagicOffset + 4, 2)) < kPayloadVersion)
      return OkStatus();
    const std::uint64_t sectors = head[kSetupSectsOffset] == 0 ? 4 : head[kSetupSectsOffset];
    const std::uint64_t payload =
        offset + (sectors + 1) * kSectorBytes + Little(view.subspan(kPayloadOffset, 4));
    const std::uint64_t length = Little(view.subspan(kPayloadOffset + 4, 4));
    // The last four bytes are the unpacked size, which the kernel's build appends.
    if (length < 8 || payload > end || length > end - payload) return OkStatus();
    return Lz4(payload, length);
  }

  std::vector<ImagePart> Take() && { return std::move(parts_); }

 private:
  Status Lz4(std::uint64_t payload, std::uint64_t length) {
    std::array<std::uint8_t, 4> word{};
    SEALIFT_RETURN_IF_ERROR(file_.ReadAt(payload, word));
    if (Little(word) != kLz4LegacyMagic) return OkStatus();
    const std::uint64_t end = payload + length - 4;
    for (std::uint64_t at = payload + 4; at < end;) {
      if (end - at < 4) return OkStatus();
      SEALIFT_RETURN_IF_ERROR(file_.ReadAt(at, word));
      if (Little(word) > end - at - 4) return OkStatus();
      at += 4 + Little(word);
    }
    SEALIFT_RETURN_IF_ERROR(file_.ReadAt(end, word));
    if (Little(word) > kMaxRawBytes) return OkStatus();
    PlainUpTo(payload);
    Add({.offset = payload, .size = length - 4, .encoding = Encoding::kLz4Legacy, .raw_size = Little(word)});
    return OkStatus();
  }

  void Add(ImagePart part) {
    done_ = part.offset + part.size;
    parts_.push_back(part);
  }

  const OpenFile& file_;
  std::uint64_t done_ = 0;
  std::vector<ImagePart> parts_;
};

}  // namespace

Result<std::vector<ImagePart>> SplitImage(const OpenFile& image) {
  Splitter splitter(image);
  Bytes head(static_cast<std::size_t>(std::min(kHeadBytes, image.size())));
  SEALIFT_RETURN_IF_ERROR(image.ReadAt(0, head));
  const Result<efi::PeImage> pe = efi::PeImage::ParseHead(head, image.size());
  if (pe.ok()) {
    std::vector<efi::PeSection> sections = pe->sections();
    std::ranges::sort(sections, {}, &efi::PeSection::raw_offset);
    for (const efi::PeSection& section : sections) {
      const std::uint64_t offset = section.raw_offset;
      const std::uint64_t end = offset + std::min(section.raw_size, section.virtual_size);
      if (section.raw_size == 0 || end > image.size()) continue;
      splitter.PlainUpTo(offset);
      if (section.name == ".initrd") SEALIFT_RETURN_IF_ERROR(splitter.Frames(offset, end));
      if (section.name == ".linux") SEALIFT_RETURN_IF_ERROR(splitter.Kernel(offset, end));
      splitter.PlainUpTo(offset + section.raw_size);
    }
  }
  splitter.PlainUpTo(image.size());
  return std::move(splitter).Take();
}

}  // namespace sealift::delta
