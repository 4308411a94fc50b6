#include "controller/delta/delta_builder.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <map>

#include "controller/delta/bsdiff.h"
#include "controller/delta/reference_finder.h"
#include "shared/crypto/hash.h"
#include "shared/delta/apply_delta.h"
#include "shared/delta/code_form.h"
#include "shared/delta/difference_stream.h"
#include "shared/delta/lzma_stream.h"

namespace sealift::controller {
namespace {

using delta::CopyOperation;
using delta::Encoding;
using delta::ImagePart;
using delta::OpenFile;
using delta::PartOperation;
using delta::Reference;

// Compared at a time: of the new part, and of its references.
constexpr std::uint64_t kNewWindow = 48u << 20;
constexpr std::uint64_t kOldWindow = 96u << 20;
// A zstd patch is tried where bsdiff's streams do not get below a tenth of the part, up to this size.
constexpr std::uint64_t kMaxPatchedBytes = 16u << 20;

struct HashedImage {
  OpenFile file;
  std::vector<ImagePart> parts;
  std::vector<Sha256Digest> digests;
  Sha256Digest digest;
};

Result<HashedImage> HashImage(const std::filesystem::path& path) {
  SEALIFT_ASSIGN_OR_RETURN(OpenFile file, OpenFile::Open(path));
  SEALIFT_ASSIGN_OR_RETURN(std::vector<ImagePart> parts, delta::SplitImage(file));
  HashedImage image{.file = std::move(file), .parts = std::move(parts), .digests = {}, .digest = {}};
  Sha256Hasher whole;
  for (const ImagePart& part : image.parts) {
    Sha256Hasher hasher;
    SEALIFT_RETURN_IF_ERROR(image.file.ForEach(part.offset, part.size, [&](ByteView piece) {
      whole.Update(piece);
      hasher.Update(piece);
      return OkStatus();
    }));
    image.digests.push_back(hasher.Finish());
  }
  image.digest = whole.Finish();
  return image;
}

// Unpacked bytes at offsets: in memory while small.
class Raw {
 public:
  static Result<Raw> Load(const OpenFile& file, std::span<const Reference> references,
                          const std::filesystem::path& folder) {
    Raw raw;
    std::uint64_t size = 0;
    for (const Reference& reference : references) size += reference.raw_size;
    if (size > kOldWindow) {
      SEALIFT_ASSIGN_OR_RETURN(raw.file_, OpenFile::Temporary(folder));
    } else {
      raw.bytes_.reserve(static_cast<std::size_t>(size));
    }
    for (const Reference& reference : references) {
      SEALIFT_RETURN_IF_ERROR(delta::Decode(file, reference.offset, reference.size, reference.encoding,
                                            reference.raw_size, [&raw](ByteView piece) -> Status {
                                              if (raw.file_) return raw.file_->Append(piece);
                                              Append(raw.bytes_, piece);
                                              return OkStatus();
                                            }));
    }
    return raw;
  }
  std::uint64_t size() const { return file_ ? file_->size() : bytes_.size(); }
  bool in_memory() const { return !file_; }
  ByteView bytes() const { return bytes_; }
  // Where they are in memory; says whether that changed them.
  bool TakeCodeForm() { return delta::ToCodeForm(bytes_); }
  // A stretch; `holder` keeps it where it was not in memory.
  Result<ByteView> At(std::uint64_t offset, std::uint64_t size, Bytes& holder) const {
    if (!file_)
      return ByteView(bytes_).subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
    holder.resize(static_cast<std::size_t>(size));
    SEALIFT_RETURN_IF_ERROR(file_->ReadAt(offset, holder));
    return ByteView(holder);
  }

 private:
  Bytes bytes_;
  std::optional<OpenFile> file_;
};

std::size_t PackedSize(ByteView bytes) {
  Bytes out(ZSTD_compressBound(bytes.size()));
  const std::size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 5);
  return ZSTD_isError(size) != 0 ? out.size() : size;
}

Bytes PackAgainst(ByteView old, ByteView fresh, int level) {
  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  SEALIFT_CHECK(context != nullptr);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level);
  int window = 17;
  while ((1ull << window) < old.size() + fresh.size() && window < 27) ++window;
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_windowLog, window);
  ZSTD_CCtx_refPrefix(context.get(), old.data(), old.size());
  Bytes out(ZSTD_compressBound(fresh.size()));
  const std::size_t size = ZSTD_compress2(context.get(), out.data(), out.size(), fresh.data(), fresh.size());
  if (ZSTD_isError(size) != 0) return {};
  out.resize(size);
  return out;
}

// The two images' plan: what is copied, what is made from what.
class Builder {
 public:
  Builder(const DeltaImage& source, const DeltaImage& target, HashedImage& old, HashedImage& fresh,
          std::filesystem::path folder)
      : old_(old),
        new_(fresh),
        folder_(std::move(folder)),
        finder_(old.parts, source.frames, fresh.parts, target.frames),
        level_hint_(target.frames ? target.frames->zstd_level : 9),
        control_(control_bytes_),
        difference_(places_bytes_, difference_bytes_),
        extra_(extra_bytes_) {
    for (std::size_t i = 0; i < old.parts.size(); ++i) offsets_.try_emplace(old.digests[i], i);
  }

  Result<BuiltDelta> Run() {
    program_.source_size = old_.file.size();
    program_.source = old_.digest;
    program_.target_size = new_.file.size();
    program_.target = new_.digest;
    for (std::size_t i = 0; i < new_.parts.size(); ++i) {
      if (const auto found = offsets_.find(new_.digests[i]); found != offsets_.end()) {
        Copy(old_.parts[found->second]);
        ++built_.copied;
      } else {
        SEALIFT_RETURN_IF_ERROR(Patch(i));
      }
    }
    control_.Finish();
    difference_.Finish();
    extra_.Finish();
    built_.bytes =
        SerializeDeltaHead(program_, {control_bytes_.size(), places_bytes_.size(), difference_bytes_.size(),
                                      extra_bytes_.size(), patches_.size()});
    for (const Bytes* stream :
         {&control_bytes_, &places_bytes_, &difference_bytes_, &extra_bytes_, &patches_})
      Append(built_.bytes, *stream);
    built_.source = old_.digest;
    built_.target = new_.digest;
    built_.target_size = new_.file.size();
    built_.control = control_bytes_.size();
    built_.difference = places_bytes_.size() + difference_bytes_.size();
    built_.extra = extra_bytes_.size();
    built_.patches = patches_.size();
    return std::move(built_);
  }

 private:
  void Copy(const ImagePart& from) {
    if (!program_.operations.empty()) {
      auto* last = std::get_if<CopyOperation>(&program_.operations.back());
      if (last != nullptr && last->offset + last->size == from.offset) {
        last->size += from.size;
        return;
      }
    }
    program_.operations.emplace_back(CopyOperation{.offset = from.offset, .size = from.size});
  }

  Status Patch(std::size_t index) {
    const ImagePart& part = new_.parts[index];
    SEALIFT_ASSIGN_OR_RETURN(const std::optional<int> level, FindLevel(new_.file, part, level_hint_));
    PartOperation operation{
        .encoding = part.encoding,
        .level = level.value_or(0),
        .size = part.size,
        .raw_size = part.raw_size,
        .references = finder_.For(index),
        .digest = part.encoding == Encoding::kPlain ? Sha256Digest{} : new_.digests[index],
        .patch_size = 0};
    if (!level) {
      ++built_.opaque;
      operation.encoding = Encoding::kPlain;
      operation.level = 0;
      operation.raw_size = part.size;
      operation.references.clear();
      operation.digest = {};
    } else {
      ++built_.patched;
    }
    const Reference whole{.encoding = operation.encoding,
                          .offset = part.offset,
                          .size = part.size,
                          .raw_size = operation.raw_size};
    SEALIFT_ASSIGN_OR_RETURN(Raw fresh, Raw::Load(new_.file, {&whole, 1}, folder_));
    SEALIFT_ASSIGN_OR_RETURN(Raw old, Raw::Load(old_.file, operation.references, folder_));
    if (old.size() > 0 && TakeCodeForm(old, fresh)) operation.method = delta::Method::kBsdiffCode;
    SEALIFT_RETURN_IF_ERROR(Compare(old, fresh, operation));
    program_.operations.emplace_back(std::move(operation));
    return OkStatus();
  }

  static bool TakeCodeForm(Raw& old, Raw& fresh) {
    if (!old.in_memory() || !fresh.in_memory() || std::max(old.size(), fresh.size()) > delta::kMaxCodeBytes ||
        !fresh.TakeCodeForm())
      return false;
    old.TakeCodeForm();
    return true;
  }

  Status Compare(const Raw& old, const Raw& fresh, PartOperation& operation) {
    Differences found;
    for (std::uint64_t at = 0; at < fresh.size(); at += kNewWindow) {
      const std::uint64_t size = std::min(kNewWindow, fresh.size() - at);
      // Around the place where it would be if everything grew evenly.
      const std::uint64_t old_size = std::min(kOldWindow, old.size());
      const double share =
          static_cast<double>(at) / static_cast<double>(std::max<std::uint64_t>(1, fresh.size()));
      const auto even = static_cast<std::uint64_t>(share * static_cast<double>(old.size()));
      const std::uint64_t margin = (kOldWindow - kNewWindow) / 2;
      const std::uint64_t start = std::min(even > margin ? even - margin : 0, old.size() - old_size);
      Bytes old_holder;
      Bytes new_holder;
      SEALIFT_ASSIGN_OR_RETURN(const ByteView old_bytes, old.At(start, old_size, old_holder));
      SEALIFT_ASSIGN_OR_RETURN(const ByteView new_bytes, fresh.At(at, size, new_holder));
      FindDifferences(old_bytes, new_bytes, start, found);
    }
    if (TakesPatch(old, fresh, found, operation)) return OkStatus();
    std::uint64_t place = 0;
    Bytes control;
    for (const DiffEntry& entry : found.entries) {
      delta::PutNumber(control, delta::ZigZag(static_cast<std::int64_t>(entry.old_offset - place)));
      delta::PutNumber(control, entry.same);
      delta::PutNumber(control, entry.fresh);
      place = entry.old_offset + entry.same;
    }
    control_.Put(control);
    difference_.Put(found.difference);
    extra_.Put(found.extra);
    return OkStatus();
  }

  bool TakesPatch(const Raw& old, const Raw& fresh, const Differences& found, PartOperation& operation) {
    if (!old.in_memory() || !fresh.in_memory() || old.size() == 0 ||
        old.size() + fresh.size() > kMaxPatchedBytes || operation.encoding == Encoding::kPlain ||
        operation.method != delta::Method::kBsdiff)
      return false;
    const std::size_t streams =
        PackedSize(found.difference) + PackedSize(found.extra) + found.entries.size() * 3;
    if (streams < fresh.size() / 10) return false;
    // A quick one tells whether a thorough one is worth its time.
    if (PackAgainst(old.bytes(), fresh.bytes(), 5).size() > streams) return false;
    const Bytes patch = PackAgainst(old.bytes(), fresh.bytes(), 19);
    // The streams pack about so much better behind those of the other parts.
    if (patch.empty() || patch.size() > streams - streams / 5) return false;
    operation.method = delta::Method::kZstd;
    operation.patch_size = patch.size();
    Append(patches_, patch);
    return true;
  }

  HashedImage& old_;
  HashedImage& new_;
  const std::filesystem::path folder_;
  const ReferenceFinder finder_;
  const int level_hint_;
  std::map<Sha256Digest, std::size_t> offsets_;
  delta::DeltaProgram program_;
  BuiltDelta built_;
  Bytes control_bytes_;
  Bytes places_bytes_;
  Bytes difference_bytes_;
  Bytes extra_bytes_;
  Bytes patches_;
  delta::LzmaWriter control_;
  delta::DifferenceWriter difference_;
  delta::LzmaWriter extra_;
};

}  // namespace

Result<std::optional<int>> FindLevel(const OpenFile& image, const ImagePart& part, int hint) {
  if (part.encoding == Encoding::kPlain) return 0;
  std::vector<int> levels = {9};
  if (part.encoding == Encoding::kZstdFrame) levels = {hint, 9, 19, 3};
  Sha256Hasher wanted;
  SEALIFT_RETURN_IF_ERROR(image.ForEach(part.offset, part.size, [&](ByteView piece) {
    wanted.Update(piece);
    return OkStatus();
  }));
  const Sha256Digest digest = wanted.Finish();
  for (std::size_t i = 0; i < levels.size(); ++i) {
    if (std::find(levels.begin(), levels.begin() + static_cast<std::ptrdiff_t>(i), levels[i]) !=
        levels.begin() + static_cast<std::ptrdiff_t>(i))
      continue;
    Sha256Hasher hasher;
    const delta::Sink hash = [&](ByteView piece) {
      hasher.Update(piece);
      return OkStatus();
    };
    const auto encoder = delta::MakeEncoder(part.encoding, levels[i], part.raw_size, hash);
    if (!encoder.ok()) continue;
    Status status = delta::Decode(image, part.offset, part.size, part.encoding, part.raw_size,
                                  [&](ByteView piece) { return (*encoder)->Put(piece); });
    if (ReasonOf(status) == Reason::kDeltaInvalid) return std::nullopt;
    SEALIFT_RETURN_IF_ERROR(status);
    SEALIFT_RETURN_IF_ERROR((*encoder)->Finish());
    if (hasher.Finish() == digest) return levels[i];
  }
  return std::nullopt;
}

Result<BuiltDelta> BuildDelta(const DeltaImage& source, const DeltaImage& target,
                              const std::filesystem::path& work_folder) {
  SEALIFT_ASSIGN_OR_RETURN(HashedImage old, HashImage(source.file));
  SEALIFT_ASSIGN_OR_RETURN(HashedImage fresh, HashImage(target.file));
  SEALIFT_ASSIGN_OR_RETURN(BuiltDelta built, Builder(source, target, old, fresh, work_folder).Run());
  SEALIFT_ASSIGN_OR_RETURN(OpenFile proof, OpenFile::Temporary(work_folder));
  SEALIFT_RETURN_IF_ERROR(proof.Append(built.bytes));
  const Status applied = delta::ApplyDelta(proof, old.file, {.work_folder = work_folder, .progress = {}},
                                           [](ByteView) { return OkStatus(); });
  if (!applied.ok()) {
    return MakeError(Code::kInternal, Reason::kDeltaInvalid,
                     fmt::format("prove delta to '{}': {}", target.file.string(), Describe(applied)));
  }
  return built;
}

}  // namespace sealift::controller
