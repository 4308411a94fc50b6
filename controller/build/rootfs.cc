#include "controller/build/rootfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

namespace sealift::build {
namespace {

constexpr std::size_t kMaxEntries = 1'000'000;
constexpr int kMaxLinks = 40;
constexpr std::array<std::string_view, 5> kEmptied = {"dev", "proc", "run", "sys", "tmp"};

Status Unusable(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kRootfsUnusable,
                   fmt::format("read root file system: {}", what));
}

Status SystemError(std::string_view path, std::string_view call) {
  return ErrnoError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                    fmt::format("read root file system: '{}'", path), call, errno);
}

// Never through a symbolic link and never out of the tree.
int OpenBeneath(int root, const std::string& path, int flags) {
  struct open_how how {};
  how.flags = static_cast<__u64>(flags | O_CLOEXEC | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  return static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how)));
}

std::string Join(std::string_view folder, std::string_view name) {
  return folder.empty() ? std::string(name) : fmt::format("{}/{}", folder, name);
}

bool HasControlCharacter(std::string_view name) {
  return std::any_of(name.begin(), name.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

}  // namespace

// Walks one folder after the other.
class TreeReader {
 public:
  explicit TreeReader(Tree& tree) : tree_(tree), root_(tree.root_->get()), own_(::geteuid()) {}

  Status ReadAll() {
    std::vector<std::string> folders = {""};
    while (!folders.empty()) {
      const std::string folder = std::move(folders.back());
      folders.pop_back();
      SEALIFT_RETURN_IF_ERROR(ReadFolder(folder, folders));
    }
    return OkStatus();
  }

 private:
  Status ReadFolder(const std::string& folder, std::vector<std::string>& folders) {
    UniqueFd fd(OpenBeneath(root_, folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY));
    if (!fd.valid()) return SystemError(folder, "openat2");
    const int listing_fd = ::dup(fd.get());
    const std::unique_ptr<DIR, int (*)(DIR*)> listing(::fdopendir(listing_fd), ::closedir);
    if (listing == nullptr) return SystemError(folder, "fdopendir");
    while (true) {
      errno = 0;
      const dirent* item = ::readdir(listing.get());
      if (item == nullptr && errno != 0) return SystemError(folder, "readdir");
      if (item == nullptr) return OkStatus();
      const std::string_view name = item->d_name;
      if (name == "." || name == "..") continue;
      const std::string path = Join(folder, name);
      if (HasControlCharacter(name))
        return Unusable(fmt::format("a name with a control character in '{}'", folder));
      SEALIFT_RETURN_IF_ERROR(ReadEntry(fd.get(), item->d_name, path));
      if (tree_.entries_.size() > kMaxEntries) return Unusable("more than a million entries");
      const TreeEntry* entry = tree_.Find(path);
      const bool emptied = std::find(kEmptied.begin(), kEmptied.end(), path) != kEmptied.end();
      if (entry != nullptr && S_ISDIR(entry->mode) && !emptied) folders.push_back(path);
    }
  }

  Status ReadEntry(int folder, const char* name, const std::string& path) {
    struct stat info {};
    if (::fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) != 0) return SystemError(path, "fstatat");
    if (S_ISSOCK(info.st_mode)) return OkStatus();
    TreeEntry entry{.mode = info.st_mode, .uid = Owner(info.st_uid), .gid = Owner(info.st_gid)};
    if (S_ISREG(info.st_mode)) {
      entry.size = static_cast<std::uint64_t>(info.st_size);
      if (entry.size > UINT32_MAX) return Unusable(fmt::format("'{}' is larger than 4 GiB", path));
      entry.source = path;
      if (info.st_nlink > 1) entry.link_group = {info.st_dev, info.st_ino};
    } else if (S_ISLNK(info.st_mode)) {
      std::array<char, 4096> target{};
      const ssize_t size = ::readlinkat(folder, name, target.data(), target.size());
      if (size < 0) return SystemError(path, "readlinkat");
      entry.target.assign(target.data(), static_cast<std::size_t>(size));
    } else if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)) {
      entry.device_major = major(info.st_rdev);
      entry.device_minor = minor(info.st_rdev);
    }
    tree_.entries_.insert_or_assign(path, std::move(entry));
    return OkStatus();
  }

  std::uint32_t Owner(std::uint32_t id) const {
    return own_ != 0 && (id == own_ || id == ::getegid()) ? 0 : id;
  }

  Tree& tree_;
  int root_;
  std::uint32_t own_;
};

Result<Tree> Tree::Read(const std::filesystem::path& folder) {
  Tree tree;
  tree.root_ = std::make_shared<UniqueFd>(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!tree.root_->valid()) return SystemError(folder.string(), "open");
  SEALIFT_RETURN_IF_ERROR(TreeReader(tree).ReadAll());
  const TreeEntry* usr = tree.Find("usr");
  if (usr == nullptr || !S_ISDIR(usr->mode))
    return Unusable(fmt::format("'{}' has no /usr", folder.string()));
  return tree;
}

const TreeEntry* Tree::Find(std::string_view path) const {
  const auto found = entries_.find(std::string(path));
  return found == entries_.end() ? nullptr : &found->second;
}

std::string Tree::Resolve(std::string_view path) const {
  std::vector<std::string> pending;
  const auto push = [&](std::string_view text) {
    std::vector<std::string> parts;
    while (!text.empty()) {
      const std::size_t slash = text.find('/');
      if (slash != 0) parts.emplace_back(text.substr(0, slash));
      text.remove_prefix(slash == std::string_view::npos ? text.size() : slash + 1);
    }
    pending.insert(pending.end(), parts.rbegin(), parts.rend());
  };
  push(path);
  std::string at;
  int links = 0;
  while (!pending.empty()) {
    const std::string part = std::move(pending.back());
    pending.pop_back();
    if (part == ".") continue;
    if (part == "..") {
      const std::size_t slash = at.rfind('/');
      at = slash == std::string::npos ? "" : at.substr(0, slash);
      continue;
    }
    const std::string next = Join(at, part);
    const TreeEntry* entry = Find(next);
    if (entry == nullptr) return {};
    if (!S_ISLNK(entry->mode)) {
      at = next;
      continue;
    }
    if (++links > kMaxLinks) return {};
    if (entry->target.starts_with('/')) at.clear();
    push(entry->target);
  }
  return at;
}

Result<Bytes> Tree::ReadFile(std::string_view path, std::uint64_t max_bytes) const {
  const TreeEntry* entry = Find(Resolve(path));
  if (entry == nullptr || !S_ISREG(entry->mode)) {
    return MakeError(Code::kNotFound, Reason::kRootfsUnusable,
                     fmt::format("read root file system: it has no file /{}", path));
  }
  if (entry->size > max_bytes) {
    return MakeError(Code::kInvalidArgument, Reason::kFileTooLarge,
                     fmt::format("read root file system: /{} is larger than {} bytes", path, max_bytes));
  }
  return Contents(*entry);
}

Result<Bytes> Tree::Contents(const TreeEntry& entry) const {
  if (entry.source.empty()) return entry.content;
  SEALIFT_CHECK(root_ != nullptr);
  const UniqueFd fd(OpenBeneath(root_->get(), entry.source, O_RDONLY));
  if (!fd.valid()) return SystemError(entry.source, "openat2");
  Bytes bytes(entry.size + 1);
  std::size_t size = 0;
  while (size < bytes.size()) {
    const ssize_t got = ::read(fd.get(), bytes.data() + size, bytes.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(entry.source, "read");
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size != entry.size) {
    return MakeError(Code::kFailedPrecondition, Reason::kFileUnreadable,
                     fmt::format("read root file system: '{}' changed while it was packed", entry.source));
  }
  bytes.resize(size);
  return bytes;
}

void Tree::Put(std::string_view path, TreeEntry entry) {
  const std::size_t slash = path.rfind('/');
  if (slash != std::string_view::npos && Find(path.substr(0, slash)) == nullptr)
    PutDirectory(path.substr(0, slash));
  entries_.insert_or_assign(std::string(path), std::move(entry));
}

void Tree::PutFile(std::string_view path, ByteView content, mode_t permissions) {
  Put(path, {.mode = S_IFREG | permissions, .size = content.size(), .content = ToBytes(content)});
}

void Tree::PutLink(std::string_view path, std::string_view target) {
  Put(path, {.mode = S_IFLNK | 0777, .target = std::string(target)});
}

void Tree::PutDirectory(std::string_view path, mode_t permissions) {
  Put(path, {.mode = S_IFDIR | permissions});
}

void Tree::Remove(std::string_view path) {
  RemoveContents(path);
  entries_.erase(std::string(path));
}

void Tree::RemoveContents(std::string_view path) {
  const std::string prefix = std::string(path) + "/";
  auto from = entries_.lower_bound(prefix);
  auto to = from;
  while (to != entries_.end() && to->first.starts_with(prefix)) ++to;
  entries_.erase(from, to);
}

}  // namespace sealift::build
