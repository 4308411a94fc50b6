#include "shared/delta/delta_format.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>

#include "shared/delta/numbers.h"

namespace sealift::delta {
namespace {

constexpr std::string_view kMagic = "SLD2";
constexpr std::size_t kHeadBytes = 128;
constexpr std::uint64_t kMaxProgramBytes = 16u << 20;
constexpr std::uint64_t kMaxOperations = 65536;
constexpr std::uint64_t kMaxReferences = 4096;
constexpr std::uint64_t kMaxImageBytes = 1ull << 40;

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, fmt::format("read delta: {}", what));
}

// A place relative to the end of the last one.
class Places {
 public:
  std::uint64_t Encode(std::uint64_t offset, std::uint64_t size) {
    const auto signed_offset = static_cast<std::int64_t>(offset - last_end_);
    last_end_ = offset + size;
    return ZigZag(signed_offset);
  }
  // Nothing when the place does not lie in the source.
  bool Decode(std::uint64_t number, std::uint64_t size, std::uint64_t source_size, std::uint64_t& offset) {
    offset = last_end_ + static_cast<std::uint64_t>(UnZigZag(number));
    if (offset > source_size || size > source_size - offset) return false;
    last_end_ = offset + size;
    return true;
  }

 private:
  std::uint64_t last_end_ = 0;
};

class ProgramReader {
 public:
  explicit ProgramReader(ByteView bytes) : numbers_(bytes) {}

  Result<DeltaProgram> Read() {
    program_.source_size = numbers_.Next();
    program_.source = numbers_.Digest();
    program_.target_size = numbers_.Next();
    program_.target = numbers_.Digest();
    const std::uint64_t count = numbers_.Next();
    if (!numbers_.ok() || count > kMaxOperations || program_.source_size > kMaxImageBytes ||
        program_.target_size > kMaxImageBytes)
      return Invalid("its program is damaged");
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t kind = numbers_.Next();
      if (kind > 1) return Invalid("an operation is not known");
      SEALIFT_RETURN_IF_ERROR(kind == 0 ? ReadCopy() : ReadPart());
    }
    if (!numbers_.ok() || numbers_.left() != 0) return Invalid("its program is damaged");
    if (made_ != program_.target_size) return Invalid("it does not make as many bytes as it says");
    return std::move(program_);
  }

  std::uint64_t patches() const { return patches_; }

 private:
  Status Make(std::uint64_t size) {
    if (size > program_.target_size - made_) return Invalid("it makes more bytes than it says");
    made_ += size;
    return OkStatus();
  }

  Status ReadCopy() {
    CopyOperation copy;
    const std::uint64_t place = numbers_.Next();
    copy.size = numbers_.Next();
    if (!numbers_.ok() || !copies_.Decode(place, copy.size, program_.source_size, copy.offset))
      return Invalid("it copies what is not in the old image");
    SEALIFT_RETURN_IF_ERROR(Make(copy.size));
    program_.operations.emplace_back(copy);
    return OkStatus();
  }

  static Result<Encoding> ToEncoding(std::uint64_t number) {
    if (number > static_cast<std::uint64_t>(Encoding::kLz4Legacy)) return Invalid("an encoding is not known");
    return static_cast<Encoding>(number);
  }

  Status ReadPart() {
    PartOperation part;
    SEALIFT_ASSIGN_OR_RETURN(part.encoding, ToEncoding(numbers_.Next()));
    const std::uint64_t method = numbers_.Next();
    if (method > static_cast<std::uint64_t>(Method::kBsdiffCode)) return Invalid("a method is not known");
    part.method = static_cast<Method>(method);
    const bool plain = part.encoding == Encoding::kPlain;
    if (!plain) {
      part.level = static_cast<int>(numbers_.Next() & 0xffu);
      part.size = numbers_.Next();
    }
    part.raw_size = numbers_.Next();
    if (plain) part.size = part.raw_size;
    if (part.raw_size > kMaxRawBytes) return Invalid("a part is too large");
    SEALIFT_ASSIGN_OR_RETURN(const std::uint64_t referred, ReadReferences(part));
    if (part.method == Method::kBsdiffCode && std::max(part.raw_size, referred) > kMaxCodeBytes)
      return Invalid("a part in code form is too large");
    if (!plain) part.digest = numbers_.Digest();
    if (part.method == Method::kZstd) {
      part.patch_size = numbers_.Next();
      if (part.patch_size > kMaxRawBytes) return Invalid("a patch is too large");
      patches_ += part.patch_size;
    }
    if (!numbers_.ok()) return Invalid("its program is damaged");
    SEALIFT_RETURN_IF_ERROR(Make(part.size));
    program_.operations.emplace_back(std::move(part));
    return OkStatus();
  }

  // Gives their bytes together.
  Result<std::uint64_t> ReadReferences(PartOperation& part) {
    const std::uint64_t count = numbers_.Next();
    if (count > kMaxReferences) return Invalid("a part has too many references");
    std::uint64_t total = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
      Reference reference;
      SEALIFT_ASSIGN_OR_RETURN(reference.encoding, ToEncoding(numbers_.Next()));
      const std::uint64_t place = numbers_.Next();
      reference.size = numbers_.Next();
      reference.raw_size = reference.encoding == Encoding::kPlain ? reference.size : numbers_.Next();
      if (!numbers_.ok() ||
          !references_.Decode(place, reference.size, program_.source_size, reference.offset))
        return Invalid("it refers to what is not in the old image");
      if (reference.raw_size > kMaxReferenceBytes - total) return Invalid("a part refers to too much");
      total += reference.raw_size;
      part.references.push_back(reference);
    }
    return total;
  }

  Numbers numbers_;
  DeltaProgram program_;
  Places copies_;
  Places references_;
  std::uint64_t made_ = 0;
  std::uint64_t patches_ = 0;
};

Bytes SerializeProgram(const DeltaProgram& program) {
  Bytes out;
  PutNumber(out, program.source_size);
  Append(out, program.source.view());
  PutNumber(out, program.target_size);
  Append(out, program.target.view());
  PutNumber(out, program.operations.size());
  Places copies;
  Places references;
  for (const auto& operation : program.operations) {
    PutNumber(out, operation.index());
    if (const auto* copy = std::get_if<CopyOperation>(&operation); copy != nullptr) {
      PutNumber(out, copies.Encode(copy->offset, copy->size));
      PutNumber(out, copy->size);
      continue;
    }
    const auto& part = std::get<PartOperation>(operation);
    const bool plain = part.encoding == Encoding::kPlain;
    PutNumber(out, static_cast<std::uint64_t>(part.encoding));
    PutNumber(out, static_cast<std::uint64_t>(part.method));
    if (!plain) {
      PutNumber(out, static_cast<std::uint64_t>(part.level));
      PutNumber(out, part.size);
    }
    PutNumber(out, part.raw_size);
    PutNumber(out, part.references.size());
    for (const Reference& reference : part.references) {
      PutNumber(out, static_cast<std::uint64_t>(reference.encoding));
      PutNumber(out, references.Encode(reference.offset, reference.size));
      PutNumber(out, reference.size);
      if (reference.encoding != Encoding::kPlain) PutNumber(out, reference.raw_size);
    }
    if (!plain) Append(out, part.digest.view());
    if (part.method == Method::kZstd) PutNumber(out, part.patch_size);
  }
  return out;
}

}  // namespace

void PutNumber(Bytes& to, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) to.push_back(static_cast<std::uint8_t>(value | 0x80u));
  to.push_back(static_cast<std::uint8_t>(value));
}

Bytes SerializeDeltaHead(const DeltaProgram& program, const std::array<std::uint64_t, 5>& streams) {
  const Bytes raw = SerializeProgram(program);
  Bytes packed(ZSTD_compressBound(raw.size()));
  const std::size_t size = ZSTD_compress(packed.data(), packed.size(), raw.data(), raw.size(), 19);
  SEALIFT_CHECK(ZSTD_isError(size) == 0);
  packed.resize(size);
  Bytes head = ToBytes(kMagic);
  PutNumber(head, raw.size());
  PutNumber(head, packed.size());
  for (const std::uint64_t stream : streams) PutNumber(head, stream);
  Append(head, packed);
  return head;
}

Result<DeltaLayout> ReadDelta(const OpenFile& file) {
  Bytes head(static_cast<std::size_t>(std::min<std::uint64_t>(file.size(), kHeadBytes)));
  SEALIFT_RETURN_IF_ERROR(file.ReadAt(0, head));
  Numbers numbers(head);
  if (AsText(numbers.Take(kMagic.size())) != kMagic) return Invalid("it does not begin as one");
  const std::uint64_t raw_size = numbers.Next();
  const std::uint64_t packed_size = numbers.Next();
  std::array<std::uint64_t, 5> streams{};
  for (std::uint64_t& stream : streams) stream = numbers.Next();
  if (!numbers.ok() || raw_size > kMaxProgramBytes || packed_size > kMaxProgramBytes)
    return Invalid("its head is damaged");
  std::uint64_t offset = head.size() - numbers.left();
  if (packed_size > file.size() - offset) return Invalid("it is cut short");
  Bytes packed(static_cast<std::size_t>(packed_size));
  SEALIFT_RETURN_IF_ERROR(file.ReadAt(offset, packed));
  offset += packed_size;
  Bytes raw(static_cast<std::size_t>(raw_size));
  const std::size_t got = ZSTD_decompress(raw.data(), raw.size(), packed.data(), packed.size());
  if (ZSTD_isError(got) != 0 || got != raw.size()) return Invalid("its program is damaged");
  ProgramReader reader(raw);
  DeltaLayout layout;
  SEALIFT_ASSIGN_OR_RETURN(layout.program, reader.Read());
  if (reader.patches() != streams.back()) return Invalid("its patches are not those of its program");
  for (std::size_t i = 0; i < streams.size(); ++i) {
    DeltaLayout::Extent& extent =
        *std::array{&layout.control, &layout.places, &layout.difference, &layout.extra, &layout.patches}[i];
    if (streams[i] > file.size() - offset) return Invalid("it is cut short");
    extent = {.offset = offset, .size = streams[i]};
    offset += streams[i];
  }
  if (offset != file.size()) return Invalid("something follows it");
  return layout;
}

}  // namespace sealift::delta
