#include "controller/build/overlay.h"

#include <fmt/format.h>
#include <sys/stat.h>

namespace sealift::build {
namespace {

// Where the OS sees the path: links of folders followed, the last part as it is. What is not there yet stays
// as named.
std::string PlaceOf(const Tree& tree, const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return path;
  const std::string parent = path.substr(0, slash);
  const TreeEntry* entry = tree.Find(parent);
  if (entry != nullptr && S_ISDIR(entry->mode)) return path;
  const std::string resolved = tree.Resolve(parent);
  return resolved.empty() ? path : resolved + path.substr(slash);
}

Status Clash(const std::string& path, std::string_view why) {
  return MakeError(Code::kInvalidArgument, Reason::kRootfsUnusable,
                   fmt::format("lay '{}' over the root file system: {}", path, why));
}

}  // namespace

Status ApplyOverlay(const std::filesystem::path& folder, Tree& tree) {
  SEALIFT_ASSIGN_OR_RETURN(const Tree overlay, Tree::ReadFolder(folder));
  for (const auto& [path, entry] : overlay.entries()) {
    const std::string place = PlaceOf(tree, path);
    const TreeEntry* old = tree.Find(place);
    if (S_ISDIR(entry.mode)) {
      const std::string resolved = tree.Resolve(place);
      const TreeEntry* target = resolved.empty() ? old : tree.Find(resolved);
      if (target == nullptr) {
        tree.Put(place, entry);
      } else if (!S_ISDIR(target->mode)) {
        return Clash(path, "the OS has something else there than a folder");
      }
      continue;
    }
    if (old != nullptr && S_ISDIR(old->mode)) return Clash(path, "the OS has a folder there");
    if (const std::size_t slash = place.rfind('/'); slash != std::string::npos) {
      const TreeEntry* parent = tree.Find(place.substr(0, slash));
      if (parent != nullptr && !S_ISDIR(parent->mode)) return Clash(path, "a part of its path is no folder");
    }
    tree.Put(place, entry);
  }
  return OkStatus();
}

}  // namespace sealift::build
