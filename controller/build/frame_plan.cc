#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <map>
#include <set>

#include "controller/build/initrd.h"
#include "controller/build/newc.h"
#include "shared/content/path_without_numbers.h"

namespace sealift::build {
namespace {

// Target size of a frame before compression.
constexpr std::uint64_t kFrameBytes = 1u << 20;
constexpr std::size_t kMaxPathBytes = 4000;

// FNV-1a: spreads names; no adversary gains from a collision.
std::uint64_t HashName(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash ^ (hash >> 32);
}

// A file of size s ends a frame with probability of about s / kFrameBytes.
bool CutsAfter(std::string_view path, std::uint64_t size) {
  if (size == 0) return false;
  return HashName(content::WithoutNumbers(path)) % kFrameBytes < std::bit_floor(size);
}

using Item = std::pair<const std::string, TreeEntry>;
// All names of one file, next to its first name.
using FileNames = std::vector<const Item*>;

std::vector<FileNames> FilesOf(const Tree& tree) {
  std::vector<FileNames> files;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::size_t> known;
  for (const Item& item : tree.entries()) {
    if (!S_ISREG(item.second.mode)) continue;
    if (item.second.link_group.has_value()) {
      const auto [at, fresh] = known.try_emplace(*item.second.link_group, files.size());
      if (!fresh) {
        files[at->second].push_back(&item);
        continue;
      }
    }
    files.push_back({&item});
  }
  return files;
}

class Planner {
 public:
  std::vector<Frame> Take() && {
    Cut();
    frames_.back().last = true;
    for (Frame& frame : frames_) frame.raw_size = ArchiveBytes(frame);
    return std::move(frames_);
  }

  void AddSkeleton(const Tree& tree) {
    for (const auto& [path, entry] : tree.entries())
      if (!S_ISREG(entry.mode)) frame_.entries.push_back({.path = path, .entry = &entry});
    frames_.push_back(std::exchange(frame_, {}));
  }

  void AddFile(const std::string& group, const FileNames& names) {
    const auto& [first_path, first] = *names.front();
    const bool large = first.size >= kFrameBytes;
    if (large || group != frame_.group) Cut();
    frame_.group = group;
    const auto links = static_cast<std::uint32_t>(names.size());
    const std::uint32_t inode = links == 1 ? 0 : FreshInode(first_path);
    for (const Item* item : names) {
      frame_.entries.push_back({.path = item->first,
                                .entry = &item->second,
                                .links = links,
                                .inode = inode,
                                .carries_data = item == names.back()});
    }
    size_ += first.size;
    const bool chosen = size_ >= kFrameBytes / 4 && CutsAfter(first_path, first.size);
    if (large || chosen || size_ >= 3 * kFrameBytes) Cut();
  }

 private:
  void Cut() {
    if (!frame_.entries.empty()) frames_.push_back(std::move(frame_));
    frame_ = {};
    size_ = 0;
  }

  // The kernel takes files of one number for one file, silently.
  std::uint32_t FreshInode(std::string_view path) {
    auto inode = static_cast<std::uint32_t>(HashName(path) | 1);
    while (!inodes_.insert(inode).second) inode += 2;
    return inode;
  }

  std::vector<Frame> frames_;
  Frame frame_;
  std::uint64_t size_ = 0;
  std::set<std::uint32_t> inodes_;
};

}  // namespace

Result<std::vector<Frame>> PlanFrames(const Tree& tree, const InstalledPackages& packages) {
  for (const auto& [path, entry] : tree.entries()) {
    if (path.size() > kMaxPathBytes || path == kArchiveTrailer) {
      return MakeError(Code::kInvalidArgument, Reason::kRootfsUnusable,
                       fmt::format("pack initrd: an archive cannot hold the path '{}'", path.substr(0, 80)));
    }
  }
  // Files of no package come first, then package by package; two architectures of one package are one group.
  std::map<std::string, std::vector<FileNames>> groups;
  for (FileNames& names : FilesOf(tree)) {
    std::string group;
    for (const Item* item : names) {
      const auto owner = packages.owners.find(item->first);
      if (owner == packages.owners.end()) continue;
      group = packages.packages[owner->second].name;
      break;
    }
    groups[group].push_back(std::move(names));
  }
  Planner planner;
  planner.AddSkeleton(tree);
  for (const auto& [group, files] : groups)
    for (const FileNames& names : files) planner.AddFile(group, names);
  return std::move(planner).Take();
}

}  // namespace sealift::build
