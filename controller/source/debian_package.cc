#include "controller/source/debian_package.h"

#include <archive_entry.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <utility>

#include "controller/source/archive_reader.h"
#include "controller/source/layer_file.h"

namespace sealift::build {
namespace {

constexpr SourceLimits kLimits{.max_unpacked_bytes = 1ull << 30, .max_entries = 100'000};
constexpr std::string_view kFormatMember = "debian-binary";
// "2.0" and a line feed.
constexpr std::size_t kMaxFormatBytes = 16;
constexpr std::string_view kDataMember = "data.tar";

Status Unusable(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kSourceUnusable,
                   fmt::format("read Debian package: {}", what));
}

// deb(5): an ar archive of debian-binary, control.tar.* and data.tar.*. The last goes into `scratch`.
Result<TreeEntry> FindData(const TreeEntry& deb, ScratchFile& scratch, SourceBudget& budget) {
  SEALIFT_ASSIGN_OR_RETURN(ContentReader bytes, Tree::Open(deb));
  ArchiveReader reader([&bytes](std::span<std::uint8_t> into) { return bytes.Read(into); },
                       ArchiveReader::Format::kAr);
  bool first = true;
  while (true) {
    SEALIFT_ASSIGN_OR_RETURN(archive_entry* const item, reader.Next());
    if (item == nullptr) return Unusable("it has no data.tar");
    const char* text = ::archive_entry_pathname(item);
    const std::string_view name = text == nullptr ? "" : text;
    if (std::exchange(first, false) && name != kFormatMember) return Unusable("it begins as something else");
    if (name != kFormatMember && !name.starts_with(kDataMember)) continue;
    std::string content;
    const auto take = [&](std::uint64_t, ByteView piece) -> Status {
      SEALIFT_RETURN_IF_ERROR(budget.TakeStreamBytes(piece.size()));
      if (name != kFormatMember) return scratch.Append(piece);
      if (piece.size() > kMaxFormatBytes - content.size()) return Unusable("its format is not 2.0");
      content += AsText(piece);
      return OkStatus();
    };
    SEALIFT_RETURN_IF_ERROR(reader.ReadContent(take));
    if (name == kFormatMember && !content.starts_with("2.")) return Unusable("its format is not 2.0");
    if (name != kFormatMember)
      return TreeEntry{.mode = S_IFREG, .size = scratch.size(), .store = scratch.fd()};
  }
}

// The path with every link that the tree has on the way followed.
std::string Resolved(const Tree& tree, const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return path;
  const std::string folder = path.substr(0, slash);
  const std::string resolved = tree.Resolve(folder);
  return (resolved.empty() ? Resolved(tree, folder) : resolved) + path.substr(slash);
}

}  // namespace

Result<std::vector<std::string>> UnpackDebianPackage(const std::filesystem::path& deb, Tree& tree) {
  SourceBudget budget(kLimits);
  SEALIFT_ASSIGN_OR_RETURN(const TreeEntry file, Tree::FileAt(deb));
  SEALIFT_ASSIGN_OR_RETURN(ScratchFile packed, ScratchFile::Create());
  SEALIFT_ASSIGN_OR_RETURN(const TreeEntry data, FindData(file, packed, budget));
  SEALIFT_ASSIGN_OR_RETURN(ScratchFile contents, ScratchFile::Create());
  SEALIFT_ASSIGN_OR_RETURN(LayerFile read, ReadLayerFile(data, contents, budget));
  Layer placed;
  std::vector<std::string> files;
  for (auto& [path, taken] : read.layer.entries) {
    // A folder that is there stays as it is.
    if (S_ISDIR(taken.entry.mode) && !tree.Resolve(path).empty()) continue;
    if (taken.hard_link.has_value()) taken.hard_link = Resolved(tree, *taken.hard_link);
    const std::string at = Resolved(tree, path);
    if (S_ISREG(taken.entry.mode)) files.push_back(at);
    placed.entries.insert_or_assign(at, std::move(taken));
  }
  // Numbered apart from the layers of an image.
  constexpr std::size_t kNumber = 1'000'000;
  SEALIFT_RETURN_IF_ERROR(ApplyLayer(std::move(placed), kNumber, tree));
  return files;
}

}  // namespace sealift::build
