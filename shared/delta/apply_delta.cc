#include "shared/delta/apply_delta.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "shared/crypto/hash.h"
#include "shared/delta/code_form.h"
#include "shared/delta/difference_stream.h"
#include "shared/delta/lzma_stream.h"
#include "shared/delta/zstd_unpacker.h"

namespace sealift::delta {
namespace {

constexpr std::uint64_t kMaxInMemory = 64u << 20;
constexpr std::size_t kPieceBytes = 64u << 10;

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, fmt::format("apply delta: {}", what));
}

// A part's references, unpacked, one behind the other.
class Old {
 public:
  static Result<Old> Load(const OpenFile& source, const PartOperation& part,
                          const std::filesystem::path& folder) {
    Old old;
    for (const Reference& reference : part.references) old.size_ += reference.raw_size;
    if (old.size_ > kMaxInMemory) {
      SEALIFT_ASSIGN_OR_RETURN(old.file_, OpenFile::Temporary(folder));
    } else {
      old.bytes_.reserve(static_cast<std::size_t>(old.size_));
    }
    const auto keep = [&old](ByteView piece) -> Status {
      if (old.file_) return old.file_->Append(piece);
      Append(old.bytes_, piece);
      return OkStatus();
    };
    for (const Reference& reference : part.references) {
      SEALIFT_RETURN_IF_ERROR(
          Decode(source, reference.offset, reference.size, reference.encoding, reference.raw_size, keep));
    }
    return old;
  }

  std::uint64_t size() const { return size_; }

  Status Copy(std::uint64_t at, std::span<std::uint8_t> out) const {
    if (at > size_ || out.size() > size_ - at) return Invalid("it takes what its references do not have");
    if (file_) return file_->ReadAt(at, out);
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(at), out.size(), out.begin());
    return OkStatus();
  }
  // Where they are in memory.
  void TakeCodeForm() { ToCodeForm(bytes_); }

  // In memory, or nothing when it is too large.
  const Bytes* bytes() const { return file_ ? nullptr : &bytes_; }

 private:
  std::uint64_t size_ = 0;
  Bytes bytes_;
  std::optional<OpenFile> file_;
};

class Applier {
 public:
  Applier(const OpenFile& delta, const DeltaLayout& layout, const OpenFile& source,
          const ApplyOptions& options, const Sink& sink)
      : delta_(delta),
        layout_(layout),
        source_(source),
        options_(options),
        sink_(sink),
        control_(delta, layout.control),
        difference_(delta, layout.places, layout.difference),
        extra_(delta, layout.extra),
        patch_offset_(layout.patches.offset) {}

  Status Run() {
    const DeltaProgram& program = layout_.program;
    if (source_.size() != program.source_size) return Invalid("it is for another image");
    for (const auto& operation : program.operations) {
      if (const auto* copy = std::get_if<CopyOperation>(&operation); copy != nullptr) {
        SEALIFT_RETURN_IF_ERROR(
            source_.ForEach(copy->offset, copy->size, [this](ByteView piece) { return Emit(piece); }));
      } else {
        SEALIFT_RETURN_IF_ERROR(MakePart(std::get<PartOperation>(operation)));
      }
    }
    SEALIFT_RETURN_IF_ERROR(control_.ExpectEnd());
    SEALIFT_RETURN_IF_ERROR(difference_.ExpectEnd());
    SEALIFT_RETURN_IF_ERROR(extra_.ExpectEnd());
    return hasher_.Finish() == program.target ? OkStatus() : Invalid("what it made is not the target");
  }

 private:
  Status Emit(ByteView bytes) {
    hasher_.Update(bytes);
    made_ += bytes.size();
    SEALIFT_RETURN_IF_ERROR(sink_(bytes));
    if (options_.progress) options_.progress(made_);
    return OkStatus();
  }

  Status MakePart(const PartOperation& part) {
    SEALIFT_ASSIGN_OR_RETURN(Old old, Old::Load(source_, part, options_.work_folder));
    const bool whole = part.size <= kMaxInMemory;
    Bytes packed;
    Sha256Hasher hasher;
    std::uint64_t size = 0;
    const Sink out = [&](ByteView piece) -> Status {
      size += piece.size();
      if (size > part.size) return Invalid("a part came out too large");
      hasher.Update(piece);
      if (!whole) return Emit(piece);
      Append(packed, piece);
      return OkStatus();
    };
    SEALIFT_ASSIGN_OR_RETURN(const auto encoder, MakeEncoder(part.encoding, part.level, part.raw_size, out));
    switch (part.method) {
      case Method::kBsdiff:
        SEALIFT_RETURN_IF_ERROR(
            PatchBsdiff(part, old, [&encoder](ByteView piece) { return encoder->Put(piece); }));
        break;
      case Method::kZstd:
        SEALIFT_RETURN_IF_ERROR(PatchZstd(part, old, *encoder));
        break;
      case Method::kBsdiffCode: {
        SEALIFT_ASSIGN_OR_RETURN(const Bytes raw, PatchCode(part, std::move(old)));
        SEALIFT_RETURN_IF_ERROR(encoder->Put(raw));
        break;
      }
    }
    SEALIFT_RETURN_IF_ERROR(encoder->Finish());
    if (size != part.size || (part.encoding != Encoding::kPlain && hasher.Finish() != part.digest))
      return Invalid("a part came out with other bytes");
    return whole ? Emit(packed) : OkStatus();
  }

  // The references are gone when it comes back: an encoder needs memory, too.
  Result<Bytes> PatchCode(const PartOperation& part, Old old) {
    Bytes raw;
    raw.reserve(static_cast<std::size_t>(part.raw_size));
    old.TakeCodeForm();
    SEALIFT_RETURN_IF_ERROR(PatchBsdiff(part, old, [&raw](ByteView piece) {
      Append(raw, piece);
      return OkStatus();
    }));
    FromCodeForm(raw);
    return raw;
  }

  template <typename Take>
  Status PatchBsdiff(const PartOperation& part, const Old& old, const Take& take) {
    std::uint64_t at = 0;
    buffer_.resize(kPieceBytes);
    for (std::uint64_t left = part.raw_size; left > 0;) {
      SEALIFT_ASSIGN_OR_RETURN(const std::uint64_t seek, control_.Number());
      SEALIFT_ASSIGN_OR_RETURN(std::uint64_t same, control_.Number());
      SEALIFT_ASSIGN_OR_RETURN(std::uint64_t fresh, control_.Number());
      if (same > left || fresh > left - same || same + fresh == 0) return Invalid("its control is damaged");
      left -= same + fresh;
      // Wraps where it is damaged; Copy checks each place.
      at += static_cast<std::uint64_t>(UnZigZag(seek));
      while (same > 0) {
        const auto piece =
            std::span(buffer_).first(static_cast<std::size_t>(std::min<std::uint64_t>(same, kPieceBytes)));
        SEALIFT_RETURN_IF_ERROR(old.Copy(at, piece));
        SEALIFT_RETURN_IF_ERROR(difference_.AddTo(piece));
        SEALIFT_RETURN_IF_ERROR(take(piece));
        at += piece.size();
        same -= piece.size();
      }
      while (fresh > 0) {
        const auto piece =
            std::span(buffer_).first(static_cast<std::size_t>(std::min<std::uint64_t>(fresh, kPieceBytes)));
        SEALIFT_RETURN_IF_ERROR(extra_.Read(piece));
        SEALIFT_RETURN_IF_ERROR(take(piece));
        fresh -= piece.size();
      }
    }
    return OkStatus();
  }

  Status PatchZstd(const PartOperation& part, const Old& old, Encoder& encoder) {
    if (old.bytes() == nullptr) return Invalid("a zstd patch refers to too much");
    // References and result together are at most 128 MiB.
    ZstdUnpacker unpacker(*old.bytes(), 27);
    std::uint64_t made = 0;
    const Sink take = [&](ByteView raw) -> Status {
      made += raw.size();
      return made > part.raw_size ? Invalid("a patch makes too much") : encoder.Put(raw);
    };
    SEALIFT_RETURN_IF_ERROR(delta_.ForEach(patch_offset_, part.patch_size,
                                           [&](ByteView piece) { return unpacker.Put(piece, take); }));
    SEALIFT_RETURN_IF_ERROR(unpacker.Finish());
    patch_offset_ += part.patch_size;
    return made == part.raw_size ? OkStatus() : Invalid("a patch is cut short");
  }

  const OpenFile& delta_;
  const DeltaLayout& layout_;
  const OpenFile& source_;
  const ApplyOptions& options_;
  const Sink& sink_;
  LzmaReader control_;
  DifferenceReader difference_;
  LzmaReader extra_;
  std::uint64_t patch_offset_;
  Bytes buffer_;
  Sha256Hasher hasher_;
  std::uint64_t made_ = 0;
};

}  // namespace

Status ApplyDelta(const OpenFile& delta, const OpenFile& source, const ApplyOptions& options,
                  const Sink& sink) {
  SEALIFT_ASSIGN_OR_RETURN(const DeltaLayout layout, ReadDelta(delta));
  return Applier(delta, layout, source, options, sink).Run();
}

}  // namespace sealift::delta
