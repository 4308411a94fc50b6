#include "controller/source/layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>
#include <limits.h>
#include <sys/stat.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace sealift::build {
namespace {

constexpr std::string_view kWhiteout = ".wh.";
constexpr std::string_view kWhiteoutMeta = ".wh..wh.";
constexpr std::string_view kOpaque = ".wh..wh..opq";
// Keeps the link groups of layers apart from the devices of folders.
constexpr std::uint64_t kLayerNumber = std::uint64_t{1} << 63;
constexpr std::string_view kCapability = "security.capability";
constexpr int kMaxLinkSteps = 40;

Status Unusable(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kSourceUnusable, fmt::format("read layer: {}", what));
}

Status Unsafe(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kSourceUnsafe, fmt::format("read layer: {}", what));
}

Status TooLarge(std::string_view what) {
  return MakeError(Code::kResourceExhausted, Reason::kSourceTooLarge, fmt::format("read layer: {}", what));
}

// For messages: no control characters, not without end.
std::string Shown(std::string_view name) {
  std::string text(name.substr(0, 100));
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; },
      '?');
  return text;
}

std::pair<std::string_view, std::string_view> SplitName(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return {"", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

std::string Join(std::string_view folder, std::string_view name) {
  return folder.empty() ? std::string(name) : fmt::format("{}/{}", folder, name);
}

// A link may say anything as long as it stays below the root that the image will have.
bool LeadsOut(std::string_view path, std::string_view target) {
  std::ptrdiff_t depth = target.starts_with('/') ? 0 : std::count(path.begin(), path.end(), '/');
  while (!target.empty()) {
    const std::size_t slash = target.find('/');
    const std::string_view part = target.substr(0, slash);
    target.remove_prefix(slash == std::string_view::npos ? target.size() : slash + 1);
    if (part == "..") {
      if (--depth < 0) return true;
    } else if (!part.empty() && part != ".") {
      ++depth;
    }
  }
  return false;
}

Result<std::uint32_t> OwnerId(la_int64_t id, std::string_view path) {
  if (id >= 0 && id <= UINT32_MAX) return static_cast<std::uint32_t>(id);
  return Unusable(fmt::format("'{}' belongs to the impossible user or group {}", Shown(path), id));
}

bool HasCapability(archive_entry* item) {
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  ::archive_entry_xattr_reset(item);
  while (::archive_entry_xattr_next(item, &name, &value, &size) == ARCHIVE_OK)
    if (name != nullptr && name == kCapability) return true;
  return false;
}

class LayerReader {
 public:
  LayerReader(ArchiveReader& archive, ScratchFile& contents, SourceBudget& budget)
      : archive_(archive), contents_(contents), budget_(budget) {}

  Result<Layer> Read() {
    while (true) {
      SEALIFT_ASSIGN_OR_RETURN(archive_entry* const item, archive_.Next());
      if (item == nullptr) return std::move(layer_);
      SEALIFT_RETURN_IF_ERROR(Take(item));
    }
  }

 private:
  Status Take(archive_entry* item) {
    const char* name = ::archive_entry_pathname(item);
    if (name == nullptr) return Unusable("an entry has no name");
    SEALIFT_ASSIGN_OR_RETURN(const std::string path, SafePath(name));
    SEALIFT_RETURN_IF_ERROR(TakeNames(item, path));
    const auto [folder, base] = SplitName(path);
    if (base == kOpaque) {
      layer_.opaque_folders.emplace_back(folder);
      return OkStatus();
    }
    if (base.starts_with(kWhiteoutMeta)) return OkStatus();
    if (base.starts_with(kWhiteout)) {
      const std::string_view gone = base.substr(kWhiteout.size());
      if (gone.empty() || gone == "." || gone == "..")
        return Unsafe(fmt::format("'{}' removes no file of its folder", Shown(path)));
      layer_.whiteouts.push_back(Join(folder, gone));
      return OkStatus();
    }
    // The root itself: its owner and permissions are those of the kernel's.
    if (path.empty()) return OkStatus();
    return TakeEntry(item, path);
  }

  // A path costs memory for itself, and for each folder on the way that this layer did not name yet.
  Status TakeNames(archive_entry* item, std::string_view path) {
    const char* link = ::archive_entry_symlink(item);
    const std::size_t target = link == nullptr ? 0 : std::string_view(link).size();
    SEALIFT_RETURN_IF_ERROR(budget_.TakeEntry(path.size() + target));
    for (std::size_t slash = path.rfind('/'); slash != std::string_view::npos && slash != 0;
         slash = path.rfind('/', slash - 1)) {
      const std::string folder(path.substr(0, slash));
      if (layer_.entries.contains(folder) || !folders_.insert(folder).second) break;
      SEALIFT_RETURN_IF_ERROR(budget_.TakeEntry(folder.size()));
    }
    return OkStatus();
  }

  Status TakeEntry(archive_entry* item, const std::string& path) {
    LayerEntry taken;
    TreeEntry& entry = taken.entry;
    entry.mode = ::archive_entry_mode(item);
    SEALIFT_ASSIGN_OR_RETURN(entry.uid, OwnerId(::archive_entry_uid(item), path));
    SEALIFT_ASSIGN_OR_RETURN(entry.gid, OwnerId(::archive_entry_gid(item), path));
    if (const char* target = ::archive_entry_hardlink(item); target != nullptr) {
      SEALIFT_ASSIGN_OR_RETURN(taken.hard_link, SafePath(target));
    } else if (S_ISREG(entry.mode)) {
      SEALIFT_RETURN_IF_ERROR(TakeContent(item, path, entry));
      entry.has_capability = HasCapability(item);
    } else if (S_ISLNK(entry.mode)) {
      const char* link = ::archive_entry_symlink(item);
      entry.target = link == nullptr ? "" : link;
      if (entry.target.empty() || entry.target.size() >= PATH_MAX)
        return Unusable(fmt::format("the link '{}' leads nowhere", Shown(path)));
      if (LeadsOut(path, entry.target))
        return Unsafe(fmt::format("the link '{}' leads out of the root", Shown(path)));
    } else if (S_ISCHR(entry.mode) || S_ISBLK(entry.mode)) {
      entry.device_major = static_cast<std::uint32_t>(::archive_entry_rdevmajor(item));
      entry.device_minor = static_cast<std::uint32_t>(::archive_entry_rdevminor(item));
    } else if (S_ISSOCK(entry.mode)) {
      return OkStatus();
    } else if (!S_ISDIR(entry.mode) && !S_ISFIFO(entry.mode)) {
      return Unusable(fmt::format("'{}' is of an unknown type", Shown(path)));
    }
    layer_.entries.insert_or_assign(path, std::move(taken));
    return OkStatus();
  }

  Status TakeContent(archive_entry* item, const std::string& path, TreeEntry& entry) {
    const la_int64_t size = ::archive_entry_size(item);
    if (size < 0) return Unusable(fmt::format("'{}' has no size", Shown(path)));
    // The archive format of an initrd ends there.
    if (size > UINT32_MAX) return TooLarge(fmt::format("'{}' is larger than 4 GiB", Shown(path)));
    entry.size = static_cast<std::uint64_t>(size);
    SEALIFT_RETURN_IF_ERROR(budget_.TakeBytes(entry.size));
    entry.store = contents_.fd();
    entry.offset = contents_.size();
    std::uint64_t at = 0;
    const auto take = [&](std::uint64_t offset, ByteView piece) -> Status {
      if (offset < at || offset > entry.size || piece.size() > entry.size - offset)
        return Unusable(fmt::format("'{}' has pieces beyond its size", Shown(path)));
      if (offset > at) SEALIFT_RETURN_IF_ERROR(contents_.AppendHole(offset - at));
      at = offset + piece.size();
      return contents_.Append(piece);
    };
    SEALIFT_RETURN_IF_ERROR(archive_.ReadContent(take));
    return at == entry.size ? OkStatus() : contents_.AppendHole(entry.size - at);
  }

  ArchiveReader& archive_;
  ScratchFile& contents_;
  SourceBudget& budget_;
  // Counted, and named by no entry so far.
  std::unordered_set<std::string> folders_;
  Layer layer_;
};

// Whether something may lie at `path`: all that is there on the way is folders.
Status CheckParents(const Tree& tree, std::string_view path) {
  for (std::size_t slash = path.find('/'); slash != std::string_view::npos;
       slash = path.find('/', slash + 1)) {
    const std::string_view parent = path.substr(0, slash);
    const TreeEntry* entry = tree.Find(parent);
    if (entry == nullptr) return OkStatus();
    if (S_ISLNK(entry->mode))
      return Unsafe(fmt::format("'{}' lies below the symbolic link '{}'", Shown(path), Shown(parent)));
    if (!S_ISDIR(entry->mode))
      return Unusable(fmt::format("'{}' lies below '{}', which is no folder", Shown(path), Shown(parent)));
  }
  return OkStatus();
}

Status PutEntry(Tree& tree, const std::string& path, TreeEntry entry) {
  SEALIFT_RETURN_IF_ERROR(CheckParents(tree, path));
  const TreeEntry* before = tree.Find(path);
  if (before != nullptr && S_ISDIR(before->mode) && !S_ISDIR(entry.mode)) tree.RemoveContents(path);
  tree.Put(path, std::move(entry));
  return OkStatus();
}

// The file that a chain of hard links within the layer ends at.
std::string EndOfChain(const Layer& layer, std::string path) {
  for (int step = 0; step < kMaxLinkSteps; ++step) {
    const auto found = layer.entries.find(path);
    if (found == layer.entries.end() || !found->second.hard_link.has_value()) break;
    path = *found->second.hard_link;
  }
  return path;
}

}  // namespace

Status SourceBudget::TakeBytes(std::uint64_t count) {
  if (count > unpacked_bytes) return TooLarge("the image unpacks to more than is allowed");
  unpacked_bytes -= count;
  return OkStatus();
}

Status SourceBudget::TakeStreamBytes(std::uint64_t count) {
  if (count > stream_bytes) return TooLarge("the image unpacks to more than is allowed");
  stream_bytes -= count;
  return OkStatus();
}

Status SourceBudget::TakeEntry(std::size_t name_size) {
  if (entries == 0) return TooLarge("the image has more files than are allowed");
  if (name_size > name_bytes) return TooLarge("the names of the image's files take more than is allowed");
  --entries;
  name_bytes -= name_size;
  return OkStatus();
}

Result<std::string> SafePath(std::string_view name) {
  if (name.size() >= PATH_MAX) return Unusable("a name is longer than any path may be");
  if (std::any_of(name.begin(), name.end(),
                  [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }))
    return Unusable(fmt::format("the name '{}' has a control character", Shown(name)));
  if (name.starts_with('/')) return Unsafe(fmt::format("the name '{}' is absolute", Shown(name)));
  std::string path;
  for (std::string_view rest = name; !rest.empty();) {
    const std::size_t slash = rest.find('/');
    const std::string_view part = rest.substr(0, slash);
    rest.remove_prefix(slash == std::string_view::npos ? rest.size() : slash + 1);
    if (part == "..") return Unsafe(fmt::format("the name '{}' leads upwards", Shown(name)));
    if (part.empty() || part == ".") continue;
    path = Join(path, part);
  }
  return path;
}

Result<Layer> ReadLayer(ArchiveReader& archive, ScratchFile& contents, SourceBudget& budget) {
  return LayerReader(archive, contents, budget).Read();
}

Status ApplyLayer(Layer&& layer, std::size_t number, Tree& tree) {
  for (const std::string& folder : layer.opaque_folders) {
    SEALIFT_RETURN_IF_ERROR(CheckParents(tree, folder + "/"));
    tree.RemoveContents(folder);
  }
  for (const std::string& path : layer.whiteouts) {
    SEALIFT_RETURN_IF_ERROR(CheckParents(tree, path));
    tree.Remove(path);
  }
  for (auto& [path, taken] : layer.entries) {
    if (taken.hard_link.has_value()) continue;
    SEALIFT_RETURN_IF_ERROR(PutEntry(tree, path, std::move(taken.entry)));
  }
  std::uint64_t links = 0;
  for (const auto& [path, taken] : layer.entries) {
    if (!taken.hard_link.has_value()) continue;
    const std::string target = EndOfChain(layer, *taken.hard_link);
    const TreeEntry* found = tree.Find(target);
    if (found == nullptr || S_ISDIR(found->mode) || target == path) {
      return Unusable(
          fmt::format("'{}' is another name of '{}', which is not there", Shown(path), Shown(target)));
    }
    TreeEntry entry = *found;
    if (S_ISREG(entry.mode) && !entry.link_group.has_value()) {
      entry.link_group = {kLayerNumber | number, links++};
      tree.Put(target, entry);
    }
    SEALIFT_RETURN_IF_ERROR(PutEntry(tree, path, std::move(entry)));
  }
  return OkStatus();
}

}  // namespace sealift::build
