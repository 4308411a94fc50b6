#include "controller/source/layer_file.h"

#include <memory>
#include <utility>

#include "controller/source/archive_reader.h"
#include "shared/crypto/hash.h"

namespace sealift::build {
namespace {

// The tar archive in a file, decompressed, hashed and counted on the way.
class TarStream {
 public:
  static Result<TarStream> Open(const TreeEntry& file, SourceBudget& budget) {
    SEALIFT_ASSIGN_OR_RETURN(ContentReader opened, Tree::Open(file));
    auto reader = std::make_shared<ContentReader>(std::move(opened));
    SEALIFT_ASSIGN_OR_RETURN(
        std::unique_ptr<Decompressor> decompressor,
        Decompressor::Open([reader](std::span<std::uint8_t> into) { return reader->Read(into); }));
    return TarStream(std::move(decompressor), budget);
  }

  Result<std::size_t> Read(std::span<std::uint8_t> into) {
    SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, decompressor_->Read(into));
    SEALIFT_RETURN_IF_ERROR(budget_->TakeStreamBytes(got));
    hasher_.Update(into.first(got));
    return got;
  }

  // What follows the archive's end belongs to its digest.
  Result<Sha256Digest> Digest() {
    Bytes rest(64u << 10);
    while (true) {
      SEALIFT_ASSIGN_OR_RETURN(const std::size_t got, Read(rest));
      if (got == 0) return hasher_.Finish();
    }
  }

 private:
  TarStream(std::unique_ptr<Decompressor> decompressor, SourceBudget& budget)
      : decompressor_(std::move(decompressor)), budget_(&budget) {}

  std::unique_ptr<Decompressor> decompressor_;
  SourceBudget* budget_;
  Sha256Hasher hasher_;
};

}  // namespace

Result<LayerFile> ReadLayerFile(const TreeEntry& file, ScratchFile& contents, SourceBudget& budget) {
  SEALIFT_ASSIGN_OR_RETURN(TarStream stream, TarStream::Open(file, budget));
  ArchiveReader reader([&stream](std::span<std::uint8_t> into) { return stream.Read(into); });
  LayerFile read;
  SEALIFT_ASSIGN_OR_RETURN(read.layer, ReadLayer(reader, contents, budget));
  SEALIFT_ASSIGN_OR_RETURN(read.digest, stream.Digest());
  return read;
}

}  // namespace sealift::build
