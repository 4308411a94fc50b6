#include "shared/delta/assemble_image.h"

#include <fmt/format.h>

#include <set>

#include "shared/crypto/hash.h"
#include "shared/delta/code_form.h"
#include "shared/delta/delta_format.h"
#include "shared/delta/xz_codec.h"

namespace sealift::delta {
namespace {

constexpr int kObjectLevel = 19;

Status Invalid(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kDeltaInvalid, fmt::format("assemble image: {}", what));
}

// Takes the part whole before it packs.
class CodeEncoder final : public Encoder {
 public:
  explicit CodeEncoder(const Sink& sink) : xz_(MakeXzEncoder(XzFilter::kNone, sink)) {}
  Status Put(ByteView raw) override {
    if (raw.size() > kMaxCodeBytes - raw_.size()) return Invalid("a part in code form is too large");
    Append(raw_, raw);
    return OkStatus();
  }
  Status Finish() override {
    ToCodeForm(raw_);
    SEALIFT_RETURN_IF_ERROR(xz_->Put(raw_));
    return xz_->Finish();
  }

 private:
  std::unique_ptr<Encoder> xz_;
  Bytes raw_;
};

Status DecodeCode(const OpenFile& file, std::uint64_t raw_size, const Sink& sink) {
  if (raw_size > kMaxCodeBytes) return Invalid("a part in code form is too large");
  Bytes raw;
  raw.reserve(static_cast<std::size_t>(raw_size));
  SEALIFT_RETURN_IF_ERROR(DecodeXz(file, raw_size, [&raw](ByteView piece) {
    Append(raw, piece);
    return OkStatus();
  }));
  FromCodeForm(raw);
  return sink(raw);
}

// Makes one part of its object, checked as it goes on.
Status MakePart(const IndexedPart& part, const OpenFile& object, const Sink& sink) {
  if (object.size() != part.object.size) return Invalid("an object has another size than its name says");
  Sha256Hasher hasher;
  std::uint64_t size = 0;
  const Sink out = [&](ByteView piece) -> Status {
    size += piece.size();
    if (size > part.part.size) return Invalid("a part came out too large");
    hasher.Update(piece);
    return sink(piece);
  };
  SEALIFT_ASSIGN_OR_RETURN(const auto encoder,
                           MakeEncoder(part.part.encoding, part.level, part.part.raw_size, out));
  SEALIFT_RETURN_IF_ERROR(DecodeObject(object, part.object.codec, part.part.raw_size,
                                       [&encoder](ByteView raw) { return encoder->Put(raw); }));
  SEALIFT_RETURN_IF_ERROR(encoder->Finish());
  return size == part.part.size && hasher.Finish() == part.digest
             ? OkStatus()
             : Invalid("a part came out with other bytes");
}

}  // namespace

std::vector<int> Seeds::Descriptors() const {
  std::vector<int> descriptors;
  for (const OpenFile& file : files_) descriptors.push_back(file.descriptor());
  return descriptors;
}

Result<Sha256Digest> Seeds::Add(const std::filesystem::path& path) {
  SEALIFT_ASSIGN_OR_RETURN(OpenFile file, OpenFile::Open(path));
  SEALIFT_ASSIGN_OR_RETURN(const std::vector<ImagePart> parts, SplitImage(file));
  Sha256Hasher whole;
  std::vector<std::pair<Sha256Digest, Place>> found;
  for (const ImagePart& part : parts) {
    Sha256Hasher hasher;
    SEALIFT_RETURN_IF_ERROR(file.ForEach(part.offset, part.size, [&](ByteView piece) {
      whole.Update(piece);
      hasher.Update(piece);
      return OkStatus();
    }));
    found.emplace_back(hasher.Finish(), Place{.file = files_.size(), .part = part});
  }
  for (const auto& [digest, place] : found) places_.try_emplace(digest, place);
  files_.push_back(std::move(file));
  return whole.Finish();
}

Status Seeds::Copy(const Sha256Digest& part, const Sink& sink) const {
  const auto found = places_.find(part);
  SEALIFT_CHECK(found != places_.end());
  const Place& place = found->second;
  return files_[place.file].ForEach(place.part.offset, place.part.size, sink);
}

Result<std::vector<ObjectName>> MissingObjects(const ImageIndex& index, const Seeds& seeds) {
  std::vector<ObjectName> missing;
  std::set<Sha256Digest> known;
  for (const IndexedPart& part : index.parts) {
    if (seeds.Has(part.digest) || !known.insert(part.object.digest).second) continue;
    if (part.object.none()) {
      return MakeError(Code::kNotFound, Reason::kContentUnknown,
                       "assemble image: a part that no image here has is no object either");
    }
    missing.push_back(part.object);
  }
  return missing;
}

Status AssembleImage(const ImageIndex& index, const Seeds& seeds,
                     const std::function<const OpenFile&(const Sha256Digest&)>& object_file,
                     const Sink& sink) {
  Sha256Hasher whole;
  const Sink out = [&](ByteView piece) {
    whole.Update(piece);
    return sink(piece);
  };
  for (const IndexedPart& part : index.parts) {
    SEALIFT_RETURN_IF_ERROR(seeds.Has(part.digest) ? seeds.Copy(part.digest, out)
                                                   : MakePart(part, object_file(part.object.digest), out));
  }
  return whole.Finish() == index.digest ? OkStatus() : Invalid("it came out with other bytes");
}

Status DecodeObject(const OpenFile& file, ObjectCodec codec, std::uint64_t raw_size, const Sink& sink) {
  if (codec == ObjectCodec::kXz) return DecodeXz(file, raw_size, sink);
  if (codec == ObjectCodec::kXzCode) return DecodeCode(file, raw_size, sink);
  return Decode(file, 0, file.size(), Encoding::kZstdFrame, raw_size, sink);
}

Result<std::unique_ptr<Encoder>> MakeObjectEncoder(ObjectCodec codec, std::uint64_t raw_size,
                                                   const Sink& sink) {
  if (codec == ObjectCodec::kXz) return MakeXzEncoder(XzFilter::kX86, sink);
  if (codec == ObjectCodec::kXzCode) return std::make_unique<CodeEncoder>(sink);
  return MakeEncoder(Encoding::kZstdFrame, kObjectLevel, raw_size, sink);
}

}  // namespace sealift::delta
