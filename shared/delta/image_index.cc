#include "shared/delta/image_index.h"

#include <fmt/format.h>
#include <zstd.h>

#include "shared/delta/delta_format.h"
#include "shared/delta/numbers.h"

namespace sealift::delta {
namespace {

constexpr std::string_view kMagic = "SLI1";
constexpr std::uint64_t kMaxImageBytes = 1ull << 40;

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, fmt::format("read image index: {}", what));
}

Status ReadPart(Numbers& numbers, std::uint64_t offset, std::uint64_t left, IndexedPart& part) {
  const std::uint64_t encoding = numbers.Next();
  if (encoding > static_cast<std::uint64_t>(Encoding::kLz4Legacy)) return Invalid("an encoding is not known");
  part.part.encoding = static_cast<Encoding>(encoding);
  const bool plain = part.part.encoding == Encoding::kPlain;
  if (!plain) part.level = static_cast<int>(numbers.Next() & 0xffu);
  part.part.offset = offset;
  part.part.size = numbers.Next();
  part.part.raw_size = plain ? part.part.size : numbers.Next();
  part.digest = numbers.Digest();
  const std::uint64_t codec = numbers.Next();
  part.object.size = numbers.Next();
  part.object.digest = numbers.Digest();
  if (!numbers.ok() || codec > static_cast<std::uint64_t>(ObjectCodec::kXzCode))
    return Invalid("it is damaged");
  part.object.codec = static_cast<ObjectCodec>(codec);
  if (part.part.size == 0 || part.part.size > left || part.part.raw_size > kMaxImageBytes ||
      part.object.size > kMaxImageBytes)
    return Invalid("its parts are not the image");
  return OkStatus();
}

}  // namespace

Bytes SerializeImageIndex(const ImageIndex& index) {
  Bytes raw;
  PutNumber(raw, index.size);
  Append(raw, index.digest.view());
  PutNumber(raw, index.parts.size());
  for (const IndexedPart& part : index.parts) {
    const bool plain = part.part.encoding == Encoding::kPlain;
    PutNumber(raw, static_cast<std::uint64_t>(part.part.encoding));
    if (!plain) PutNumber(raw, static_cast<std::uint64_t>(part.level));
    PutNumber(raw, part.part.size);
    if (!plain) PutNumber(raw, part.part.raw_size);
    Append(raw, part.digest.view());
    PutNumber(raw, static_cast<std::uint64_t>(part.object.codec));
    PutNumber(raw, part.object.size);
    Append(raw, part.object.digest.view());
  }
  Bytes packed(ZSTD_compressBound(raw.size()));
  const std::size_t size = ZSTD_compress(packed.data(), packed.size(), raw.data(), raw.size(), 19);
  SEALIFT_CHECK(ZSTD_isError(size) == 0);
  packed.resize(size);
  Bytes out = ToBytes(kMagic);
  PutNumber(out, raw.size());
  Append(out, packed);
  return out;
}

Result<ImageIndex> ParseImageIndex(ByteView bytes) {
  SEALIFT_ASSIGN_OR_RETURN(const Bytes raw, UnpackImageIndex(bytes));
  return ParseUnpackedIndex(raw);
}

Result<Bytes> UnpackImageIndex(ByteView bytes) {
  Numbers head(bytes);
  if (AsText(head.Take(kMagic.size())) != kMagic) return Invalid("it does not begin as one");
  const std::uint64_t raw_size = head.Next();
  if (!head.ok() || raw_size > kMaxIndexBytes) return Invalid("its head is damaged");
  const ByteView packed = bytes.last(head.left());
  Bytes raw(static_cast<std::size_t>(raw_size));
  const std::size_t got = ZSTD_decompress(raw.data(), raw.size(), packed.data(), packed.size());
  if (ZSTD_isError(got) != 0 || got != raw.size()) return Invalid("it is damaged");
  return raw;
}

Result<ImageIndex> ParseUnpackedIndex(ByteView raw) {
  Numbers numbers(raw);
  ImageIndex index;
  index.size = numbers.Next();
  index.digest = numbers.Digest();
  const std::uint64_t count = numbers.Next();
  if (!numbers.ok() || count > kMaxImageParts || index.size > kMaxImageBytes) return Invalid("it is damaged");
  std::uint64_t offset = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    IndexedPart part;
    SEALIFT_RETURN_IF_ERROR(ReadPart(numbers, offset, index.size - offset, part));
    offset += part.part.size;
    index.parts.push_back(part);
  }
  if (!numbers.ok() || numbers.left() != 0 || offset != index.size)
    return Invalid("its parts are not the image");
  return index;
}

}  // namespace sealift::delta
