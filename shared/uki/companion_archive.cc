#include "shared/uki/companion_archive.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "shared/crypto/hash.h"

namespace sealift::uki {
namespace {

constexpr std::string_view kSuffix = ".raw";
constexpr std::size_t kScratchBytes = 256u << 10;
constexpr std::size_t kMaxNameBytes = 255;
constexpr std::array<std::uint8_t, 4> kFourZeros{};
constexpr unsigned kFolderMode = 0040555;
constexpr unsigned kFileMode = 0100444;
// Spelt out in the stub, with a length in upper case, unlike every other number; four zeros follow.
constexpr std::string_view kTrailer =
    "070701"
    "00000000"
    "00000000"
    "00000000"
    "00000000"
    "00000001"
    "00000000"
    "00000000"
    "00000000"
    "00000000"
    "00000000"
    "00000000"
    "0000000B"
    "00000000"
    "TRAILER!!!";

Status Bad(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kExtensionInvalid,
                   fmt::format("measure files beside the image: {}", what));
}

bool PassedOver(std::string_view name) {
  return name.size() <= kSuffix.size() || name.size() > kMaxNameBytes || !name.ends_with(kSuffix) ||
         name.front() == '.' ||
         std::ranges::any_of(name, [](char c) { return c <= ' ' || c > '~' || c == '/' || c == '\\'; });
}

// The archive as it grows, hashed and not held.
class Archive {
 public:
  void Header(unsigned mode, std::uint64_t size, std::string_view name, unsigned inode, unsigned links) {
    const std::string header =
        fmt::format("070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
                    inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name.size() + 1, 0);
    Write(AsBytes(header));
    Write(AsBytes(name));
    Write(ByteView(kFourZeros).first(1));
    Pad();
  }
  void Write(ByteView bytes) {
    hasher_.Update(bytes);
    written_ += bytes.size();
  }
  void Pad() { Write(ByteView(kFourZeros).first((4 - written_ % 4) % 4)); }
  Sha256Digest Finish() { return hasher_.Finish(); }

 private:
  Sha256Hasher hasher_;
  std::uint64_t written_ = 0;
};

Status Add(Archive& archive, std::string_view folder, const CompanionFile& file, unsigned inode) {
  archive.Header(kFileMode, file.content.size(), fmt::format("{}/{}", folder, file.name), inode, 1);
  Bytes scratch(kScratchBytes);
  SEALIFT_RETURN_IF_ERROR(file.content.ForEach(scratch, 0, [&archive](ByteView piece) {
    archive.Write(piece);
    return OkStatus();
  }));
  archive.Pad();
  return OkStatus();
}

Result<PcrPrediction> Predict(std::span<const CompanionFile> companions, bool confexts,
                              std::string_view folder, std::string_view description) {
  std::vector<const CompanionFile*> sorted;
  for (const CompanionFile& file : companions) {
    if (PassedOver(file.name)) return Bad(fmt::format("the stub takes no file called '{}'", file.name));
    if (file.content.size() > UINT32_MAX) return Bad(fmt::format("'{}' is larger than 4 GiB", file.name));
    if (file.name.ends_with(kConfextSuffix) == confexts) sorted.push_back(&file);
  }
  PcrPrediction prediction;
  if (sorted.empty()) return prediction;
  std::ranges::sort(sorted, {}, &CompanionFile::name);
  Archive archive;
  unsigned inode = 1;
  for (std::size_t slash = folder.find('/');; slash = folder.find('/', slash + 1)) {
    archive.Header(kFolderMode, 0, folder.substr(0, slash), inode++, 1);
    if (slash == std::string_view::npos) break;
  }
  for (const CompanionFile* file : sorted) SEALIFT_RETURN_IF_ERROR(Add(archive, folder, *file, inode++));
  archive.Write(AsBytes(kTrailer));
  archive.Write(kFourZeros);
  prediction.events.push_back({.description = std::string(description), .digest = archive.Finish()});
  return prediction;
}

}  // namespace

Result<PcrPrediction> PredictPcr13(std::span<const CompanionFile> companions) {
  return Predict(companions, false, kExtensionFolder, "system extensions");
}

Result<PcrPrediction> PredictConfexts(std::span<const CompanionFile> companions) {
  return Predict(companions, true, kConfextFolder, "configuration extensions");
}

}  // namespace sealift::uki
